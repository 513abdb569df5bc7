"""The short way to a message's log line says what the long way says."""

import os
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from gatepost_policy.config.settings import Log
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import (
    Arc,
    Client,
    Direction,
    Dmarc,
    Facts,
    Family,
    Recipient,
    Signature,
    Spf,
    SpfCheck,
)
from gatepost_policy.monitoring import maillog

SIGNED = Signature(domain="example.org", result="pass")
PASS = SpfCheck("pass", "example.org")
FACTS = Facts(
    at=1_764_337_000.5,
    client=Client(Family.IPV4, ip_address("192.0.2.1")),
    queue_id="4Abc",
    sender=address.parse("<a@example.org>"),
    recipients=(Recipient(address.parse("b@example.net")),),
    size=1234,
    signatures=(SIGNED,),
    spf=Spf(PASS, PASS),
    dmarc=Dmarc("pass", "example.org"),
)
DECISION = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)
TWO = (Recipient(address.parse("b@example.net")), Recipient(address.parse("c@example.net")))
ODD = [
    FACTS,
    replace(FACTS, size=None),
    replace(FACTS, size=0, sender=address.NULL),
    replace(FACTS, client=Client()),
    replace(FACTS, client=Client(Family.IPV6, ip_address("fe80::1%eth0"))),
    replace(FACTS, client=Client(Family.IPV6, ip_address("2001:db8::1"))),
    replace(FACTS, arc=Arc("pass")),
    replace(FACTS, spf=None, dmarc=None),
    replace(FACTS, spf=Spf(SpfCheck("none"), PASS)),
    replace(FACTS, dmarc=Dmarc("none", "")),
    replace(FACTS, dmarc=Dmarc("fail", "b\xfccher.example")),
    replace(FACTS, signatures=(replace(SIGNED, domain=None),)),
    replace(FACTS, signatures=(SIGNED, SIGNED)),
    replace(FACTS, signatures=()),
    replace(FACTS, recipients=TWO),
    replace(FACTS, recipients=()),
    *(replace(FACTS, queue_id=text) for text in (None, "", "-", "a b", "x" * 600, 'a"b', "a=b")),
    *(
        replace(FACTS, sender=address.parse(f"<{text}@example.org>"))
        for text in ("a b", '"q q"', "x" * 600, "u\xfc", "a\nb", "a=b", "\udcff")
    ),
    *(
        replace(FACTS, recipients=(Recipient(address.parse(text)),))
        for text in ("", "-", '"a b"@example.net', "x" * 490, "\u202e@example.net")
    ),
]


@pytest.mark.parametrize("number", range(len(ODD)))
@pytest.mark.parametrize("shadow", [(), (Reason.LISTED,)])
def test_the_short_way_says_the_same(
    number: int, shadow: tuple[Reason, ...], tmp_path: Path
) -> None:
    decision = replace(DECISION, shadow=shadow)
    facts = ODD[number]
    path = tmp_path / "log"
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    maillog.MailLog(Log(), handle).message(facts, decision, 1)
    os.close(handle)
    found = maillog.message_fields(facts, decision, 1)
    pairs = " ".join(f"{key}={maillog.quoted(value)}" for key, value in found.items())
    assert path.read_text("ascii") == f"at={maillog.stamp(facts.at)} {pairs}\n"


def test_it_is_taken_for_plain_inbound_mail_only() -> None:
    assert maillog.plain_line(FACTS, DECISION, 0) is not None
    assert [n for n, facts in enumerate(ODD) if maillog.plain_line(facts, DECISION, 0)] == [
        0, 1, 2, 3, 5, 6, 7,
    ]  # fmt: skip


def test_a_submission_never_takes_it(tmp_path: Path) -> None:
    path = tmp_path / "log"
    handle = os.open(path, os.O_CREAT | os.O_WRONLY)
    maillog.MailLog(Log(), handle).message(replace(FACTS, direction=Direction.SUBMISSION), DECISION)
    os.close(handle)
    assert "192.0.2.1" not in path.read_text("ascii")
    assert "example" not in path.read_text("ascii")
