"""docs/flow.md and docs/privacy.md say what the code does."""

import re
from pathlib import Path

from gatepost_policy.config.settings import Submission
from gatepost_policy.config.values import keys_of
from gatepost_policy.mail.decision import Reason
from gatepost_policy.rules.rules import RULES

DOCS = Path(__file__).parents[2] / "docs"


def test_rules_are_listed_in_order() -> None:
    """The numbered list between the marks is RULES."""
    text = (DOCS / "flow.md").read_text()
    part = text.partition("<!-- rules -->")[2].partition("<!-- end of rules -->")[0]
    got = re.findall(r"^\d+\. `(\w+)`:", part, re.M)
    assert got == [rule.__name__ for rule in RULES]


def test_every_reason_is_explained() -> None:
    """A reason that an operator finds in the log stands in flow.md."""
    text = (DOCS / "flow.md").read_text()
    assert [str(r) for r in Reason if f"`{r}`" not in text] == []


def test_every_submission_key_is_explained() -> None:
    """Each key of [submission] stands in privacy.md or flow.md."""
    text = (DOCS / "privacy.md").read_text() + (DOCS / "flow.md").read_text()
    assert [k.name for k in keys_of(Submission) if f"submission.{k.name}" not in text] == []
