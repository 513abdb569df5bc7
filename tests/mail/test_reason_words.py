"""Every reason can be said in words."""

from gatepost_policy.mail import reason_words
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.dkim_reason import Why


def test_every_reason_has_words() -> None:
    assert set(reason_words.REASONS) == set(Reason)
    assert set(reason_words.WHY) == set(Why)
    assert all(text and text[0] != " " for text in reason_words.REASONS.values())


def test_what_another_release_wrote_has_none() -> None:
    assert reason_words.reason("of-tomorrow") == reason_words.signature(None) == ""
    assert reason_words.reason("trap") == "every recipient is a trap"
