"""The trail is read of inbound mail alone: of our own users' mail no hop gets anywhere."""

import json
from ipaddress import ip_address

import pytest

from gatepost_milter.filter.transcript import Connection, Message, facts
from gatepost_policy.journal import record
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Client, Family, TrailHop
from gatepost_policy.rules.whose_mail import INBOUND, SUBMITTED, Ownership

FIELDS = [
    ("Received", b" from laptop.canary.example ([203.0.113.99])\n\tby mx.other with ESMTPSA; x"),
    ("From", b" joe@example.org"),
]


def seen(whose: Ownership, **values: object) -> record.Json:
    connection = Connection(client=Client(Family.IPV4, ip_address("192.0.2.7"), 25))
    message = Message(1.0, b"<joe@example.org>", whose=whose, fields=list(FIELDS), complete=True)
    for name, value in values.items():
        setattr(message, name, value)
    found = facts(connection, message)
    return record.message(
        record.Seen("message", found, Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL))
    )


def test_inbound_has_one() -> None:
    got = seen(INBOUND)
    assert got["trail"] == [["ipv4", "ESMTPSA"]]
    assert record.read_seen(json.loads(json.dumps(got))).facts.trail == (
        TrailHop(Family.IPV4, "ESMTPSA"),
    )


def test_a_submission_has_none() -> None:
    got = seen(SUBMITTED)
    assert "trail" not in got
    assert "203.0.113.99" not in json.dumps(got) and "ESMTPSA" not in json.dumps(got)


@pytest.mark.parametrize(
    "values", [{"over_limit": "milter.max_header_fields"}, {"complete": False}]
)
def test_what_was_not_seen_is_not_told(values: dict[str, object]) -> None:
    assert "trail" not in seen(INBOUND, **values)
