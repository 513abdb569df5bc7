"""Who the client is and whose mail it brings, from what pymilter and the macros say."""

import json
import sys
from dataclasses import replace
from socket import AF_INET, AF_INET6, AF_UNIX
from types import FrameType
from typing import Any

import pytest

from from_table import from_table
from gatepost_milter.engine.libmilter import peer_of
from gatepost_milter.filter.transcript import (
    Connection,
    Message,
    client_of,
    facts,
)
from gatepost_milter.protocol.peer import INET, Peer
from gatepost_milter.protocol.text import field_value, reply_text
from gatepost_policy.config.settings import Log
from gatepost_policy.mail.address import parse
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Recipient,
    Signature,
    Stage,
)
from gatepost_policy.monitoring import maillog
from gatepost_policy.monitoring.maillog import MAX_VALUE, MailLog, message_fields, quoted
from gatepost_policy.rules.whose_mail import HANDED_IN, INBOUND, SUBMITTED


@pytest.mark.parametrize(
    ("name", "family", "address", "want"),
    [
        ("mail.example.org", AF_INET, ("192.0.2.1", 25), ("ipv4", "192.0.2.1", 25, True)),
        ("[192.0.2.1]", AF_INET, ("192.0.2.1", 25), ("ipv4", "192.0.2.1", 25, False)),
        ("unknown", AF_INET, ("192.0.2.1", 25), ("ipv4", "192.0.2.1", 25, False)),
        ("x", AF_INET6, ("2001:db8::1", 25, 0, 0), ("ipv6", "2001:db8::1", 25, True)),
        ("x", AF_INET6, ("::ffff:192.0.2.1", 25, 0, 0), ("ipv4", "192.0.2.1", 25, True)),
        ("x", AF_INET6, ("fe80::1%eth0", 25, 0, 2), ("ipv6", "fe80::1", 25, True)),
        ("x", AF_INET6, ("::", 25, 0, 0), ("ipv6", "::", 25, True)),
        ("x", AF_INET6, ("inet6:unknown", 25, 0, 0), ("unknown", None, None, False)),
        ("x", AF_INET, ("192.0.2.1", 0), ("ipv4", "192.0.2.1", 0, True)),
        ("localhost", AF_INET, ("127.0.0.1", 0), ("unix", None, None, False)),
        ("localhost", AF_INET, ("127.0.0.1", 25), ("ipv4", "127.0.0.1", 25, True)),
        ("localhost", 0, None, ("unix", None, None, False)),
        ("localhost", AF_UNIX, "/run/x", ("unix", None, None, False)),
        ("localhost", AF_UNIX, "", ("unix", None, None, False)),
        ("mail.example.org", 0, None, ("unknown", None, None, False)),
        ("x", 99, ("192.0.2.1", 1), ("unknown", None, None, False)),
        ("x", AF_INET, ("nonsense", 1), ("unknown", None, None, False)),
    ],
)
def test_client(name: str, family: int, address: object, want: tuple[object, ...]) -> None:
    """The forms measured on Postfix, and some that never were."""
    got, local = client_of(peer_of(name, family, address))
    text = None if got.address is None else str(got.address)
    assert (got.family, text, got.port, got.name is not None) == want
    assert local == (want[0] == "unix")


def test_submission_facts_hold_no_client() -> None:
    """The family, and nothing else, from the very beginning."""
    client, _ = client_of(Peer("laptop.example", INET, 4711, "192.0.2.77"))
    connection = Connection(client=client, helo="laptop")
    message = Message(at=1.0, whose=SUBMITTED)
    assert facts(connection, message).client == Client(family=Family.IPV4)
    message.whose = INBOUND
    assert facts(connection, message).client.helo == "laptop"
    message.whose = HANDED_IN
    assert facts(connection, message).client == Client()


@pytest.mark.parametrize(
    ("text", "want"),
    [("100% sure", "100%% sure"), ("a\r\nb", "a  b"), ("", "Refused"), ("caf\u00e9", "caf"),
     ("%", "%%"), ("x" * 600, "x" * 480)],
)  # fmt: skip
def test_reply_text(text: str, want: str) -> None:
    """One line of printable ASCII, each % doubled: a single one makes pymilter raise."""
    assert reply_text(text) == want


@pytest.mark.parametrize(
    ("value", "want"),
    [(" a", " a"), (" a\r\n\tb", " a\n\tb"), (" a\nBcc: x", " a\n\tBcc: x"), ("a\n\nb", "a\n\tb"),
     ("a\n", "a"), ("\n\tby x", "\n\tby x"), ("a\rb", "ab")],
)  # fmt: skip
def test_written_values_stay_one_field(value: str, want: str) -> None:
    """No line of a value can begin a field of its own."""
    assert field_value(value) == want


FACTS = Facts(
    at=1_700_000_000.0,
    queue_id="4ABC",
    client=Client(Family.IPV4, None, None),
    sender=parse("a@example.org"),
    recipients=tuple(Recipient(parse(f"r{n}@example.net")) for n in range(12)),
)
ACCEPTED = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)


def test_log_line_order() -> None:
    """The same keys in the same order, many recipients as a number."""
    got = message_fields(FACTS, ACCEPTED, 1)
    assert list(got) == ["id", "direction", "family", "client", "from", "to", "size", "dkim", "arc",
                         "spf", "dmarc", "traps", "action", "reason", "shadow"]  # fmt: skip
    assert str(got["to"]).endswith("r9@example.net,+2")


def test_log_line_has_its_own_second() -> None:
    """Another thread may write a line of another second between any two steps of ours."""

    def turn(frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename == maillog.__file__:
            maillog.stamp(1_000_000_000.0)
        return turn

    before = sys.gettrace()
    for at in (1_700_000_000.0, 1_700_000_000.9, 1_700_000_001.0):
        maillog.stamp(at)  # as where the line before had the same second
        sys.settrace(turn)
        try:
            got = maillog.stamp(at)
        finally:
            sys.settrace(before)
        assert got == f"2023-11-14T22:13:{20 + int(at) % 10}Z"


def test_log_claims_no_dkim_result_where_nobody_looked() -> None:
    """`none` is a result: at RCPT TO and where the scan was given up there is not even that."""
    broken = Decision(Action.ACCEPT, Reason.INTERNAL_ERROR)
    for facts_, decision, want in (
        (FACTS, ACCEPTED, "none"),
        (replace(FACTS, stage=Stage.RCPT), ACCEPTED, None),
        (replace(FACTS, over_limit="milter.max_header_bytes"), ACCEPTED, None),
        (FACTS, broken, None),
        (replace(FACTS, signatures=(Signature(domain="a.example"),)), ACCEPTED, "none:a.example"),
    ):
        assert message_fields(facts_, decision)["dkim"] == want


def test_log_line_of_a_submission() -> None:
    """Queue id, direction, family, action, reason: no word more."""
    got = message_fields(
        Facts(at=1.0, direction=Direction.SUBMISSION, sender=parse("a@b.example"), login="alice",
              queue_id="4ABC"),
        ACCEPTED,
    )  # fmt: skip
    assert list(got) == ["id", "direction", "family", "action", "reason"]


@pytest.mark.parametrize(
    ("value", "want"),
    [(None, "-"), ("-", '"-"'), ("plain.x", "plain.x"), ("a b", '"a b"'), ("", '""'),
     ('a"b', '"a\\"b"'), ("a\nb=c", '"a\\nb=c"'), ("\x1b[2J", '"\\u001b[2J"'),
     ("\u202e", '"\\u202e"'), ("\udc80", '"\\udc80"'), ("a=b", '"a=b"'), (5, "5"), (True, "true"),
     ("x" * 600, "x" * MAX_VALUE + "...")],
)  # fmt: skip
def test_logfmt_values(value: str | int | None, want: str) -> None:
    """No value ends a line, starts a field or moves a cursor."""
    assert quoted(value) == want


@pytest.mark.parametrize("form", ["logfmt", "json"])
def test_log_writes_one_line(form: str, capfd: pytest.CaptureFixture[str]) -> None:
    """One write, one line, ASCII."""
    log = MailLog(from_table(Log, {"format": form}))
    log.message(FACTS, ACCEPTED)
    log.event("error", "x", hint="a\nb", number=1)
    log.event("debug", "unheard")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.isascii() and line.isprintable() for line in lines)
    if form == "json":
        assert json.loads(lines[0])["at"] == "2023-11-14T22:13:20Z"
        assert json.loads(lines[1])["hint"] == "a\nb"
    else:
        assert lines[0].startswith("at=2023-11-14T22:13:20Z id=4ABC direction=inbound")


def test_log_that_nobody_reads() -> None:
    """A closed descriptor stops no mail."""
    MailLog(Log(), descriptor=9999).message(FACTS, ACCEPTED)
