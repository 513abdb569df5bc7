"""SPF and DMARC in the journal's record: there, back, and absent in what earlier releases wrote."""

import json

from gatepost_policy.journal import record
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Dmarc, Facts, Spf, SpfCheck

FACTS = Facts(
    at=1.0,
    spf=Spf(
        SpfCheck("pass", "example.org", "include:_spf.example.net"),
        SpfCheck("temperror", "mx.example.org", None, "dns-timeout"),
    ),
    dmarc=Dmarc("fail", "example.org", "example.org", "reject", ("spf",), None),
)
DECISION = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)


def test_there_and_back() -> None:
    data = json.loads(json.dumps(record.message(record.Seen("message", FACTS, DECISION))))
    assert record.read_seen(data).facts == FACTS


def test_a_record_of_an_earlier_release_says_nothing_of_them() -> None:
    data = record.message(record.Seen("message", FACTS, DECISION))
    del data["spf"], data["dmarc"]
    seen = record.read_seen(data).facts
    assert (seen.spf, seen.dmarc, seen.spf_domain) == (None, None, None)
