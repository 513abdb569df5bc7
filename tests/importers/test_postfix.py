"""Postfix's log lines, form by form: joined by queue id, refusals, OpenDKIM, whose mail it is."""

import json
import struct
from datetime import UTC
from ipaddress import ip_network
from typing import Any

import pytest

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.syslog import Entry, is_export, read_export, read_line
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.facts import Signature

NOW = 1_800_000_000.0
AT = 1795168800.0
P = "Nov 20 10:00:00 mx postfix/"
Q = "4F3D00ABC"


def _import(*lines: str, ours: Submission | None = None) -> tuple[list[Seen], Postfix]:
    postfix = Postfix(ours)
    seen = [*postfix.lines(list(lines), Clock(UTC, NOW)), *postfix.finish()]
    return seen, postfix


def _message(client: str, *more: str, queue_id: str = Q) -> list[str]:
    return [
        f"{P}smtpd[1]: connect from x[192.0.2.7]",
        f"{P}smtpd[1]: {queue_id}: client={client}",
        f"{P}cleanup[2]: {queue_id}: message-id=<1@b.example>",
        *more,
        f"{P}qmgr[3]: {queue_id}: from=<a@b.example>, size=2345, nrcpt=1 (queue active)",
        f"{P}local[4]: {queue_id}: to=<peter@mx.example>, orig_to=<trap@home.example>, relay=local,"
        " delay=1, delays=1/0/0/0, dsn=2.0.0, status=sent (delivered to mailbox)",
        f"{P}qmgr[3]: {queue_id}: removed",
    ]


@pytest.mark.parametrize("queue_id", [Q, "44JCRG5tYPzCqt2", "0F5383D"])
def test_a_message(queue_id: str) -> None:
    (seen,), postfix = _import(*_message("mx.b.example[2001:db8::7]:99", queue_id=queue_id))
    facts = seen.facts
    assert (facts.at, facts.queue_id, facts.size) == (AT, queue_id, 2345)
    assert (facts.message_id, facts.sender.raw) == ("1@b.example", "a@b.example")
    assert str(facts.client.address) == "2001:db8::7"
    assert (facts.client.port, facts.client.name) == (99, "mx.b.example")
    assert [(r.address.raw, r.accepted) for r in facts.recipients] == [("trap@home.example", True)]
    assert postfix.tally.kinds == {"other": 1, "delivery": 1, "inbound": 1}


CLIENTS: list[tuple[str, str, str | None, str | None]] = [
    ("unknown[192.0.2.7]", "ipv4", "192.0.2.7", None),
    ("unknown[unknown]", "unknown", None, None),
    ("x.example[::ffff:192.0.2.7]", "ipv4", "192.0.2.7", "x.example"),
    ("localhost[127.0.0.1], orig_client=x.example[2001:db8::1]", "ipv6", "2001:db8::1",
     "x.example"),
]  # fmt: skip


@pytest.mark.parametrize(("client", "family", "address", "name"), CLIENTS)
def test_clients(client: str, family: str, address: str | None, name: str | None) -> None:
    (seen,), _ = _import(*_message(client))
    got = seen.facts.client
    assert got.family == family and got.name == name
    assert (None if got.address is None else str(got.address)) == address


OURS = Submission(networks=(ip_network("192.0.2.0/24"),))
WHOSE: list[tuple[str, list[str], Submission | None, str]] = [
    ("authenticated",
     _message("laptop[203.0.113.9], sasl_method=PLAIN, sasl_username=alice@home.example"), None,
     "submission"),
    ("our network", _message("printer[192.0.2.9]"), OURS, "submission"),
    ("pickup", [f"{P}pickup[1]: {Q}: uid=0 from=<root>", *_message("x[192.0.2.7]")[2:]], None,
     "local"),
    ("a bounce",
     [f"{P}cleanup[2]: {Q}: message-id=<1@x>",
      f"{P}bounce[3]: 0F5383D: sender non-delivery notification: {Q}",
      f"{P}qmgr[3]: {Q}: from=<>, size=9, nrcpt=1 (queue active)",
      f"{P}smtp[3]: {Q}: to=<a@b.example>, relay=x[192.0.2.7]:25, delay=1, status=sent (ok)",
      f"{P}qmgr[3]: {Q}: removed"], None, "local"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "lines", "ours", "direction"), WHOSE, ids=[w[0] for w in WHOSE])
def test_our_own_mail_is_a_number(
    what: str, lines: list[str], ours: Submission | None, direction: str
) -> None:
    (seen,), _ = _import(*lines, ours=ours)
    data = to_json(seen)
    assert (data["kind"], data["direction"]) == ("count", direction)
    assert set(data) == {"v", "kind", "at", "direction", "family", "action", "reason", "key"}
    text = json.dumps(data)
    for canary in ("alice", "203.0.113.9", "192.0.2.9", "printer", "b.example", "home.example"):
        assert canary not in text


REJECT = (
    "NOQUEUE: reject: RCPT from unknown[2001:db8::7]: 550 5.1.1 <t@home.example>: Recipient address"
    " rejected: User unknown; from=<a@b.example> to=<t@home.example> proto=ESMTP helo=<h.example>"
)
REFUSED: list[tuple[str, str, str, list[tuple[str, bool]]]] = [
    (f"{P}smtpd[1]: {REJECT}", "rcpt", "reject", [("t@home.example", False)]),
    (f"{P}smtpd[1]: {REJECT.replace('550 5.1.1', '450 4.7.1')}", "rcpt", "tempfail",
     [("t@home.example", False)]),
    (f"{P}smtpd[1]: {REJECT.replace('reject:', 'milter-reject:', 1)}", "rcpt", "reject",
     [("t@home.example", False)]),
    (f"{P}postscreen[1]: NOQUEUE: reject: RCPT from [2001:db8::7]:60591: 550 5.7.1 Service"
     " unavailable; client [2001:db8::7] blocked; from=<a@b.example>, to=<t@home.example>,"
     " proto=ESMTP, helo=<h.example>", "rcpt", "reject", [("t@home.example", False)]),
    (f"{P}smtpd[1]: NOQUEUE: reject: MAIL from x[2001:db8::7]: 550 5.1.8 <a@b.example>: no;"
     " from=<a@b.example> proto=ESMTP helo=<h.example>", "message", "reject", []),
    (f"{P}smtpd[1]: NOQUEUE: discard: MAIL from x[2001:db8::7]: <a@b.example>: Sender address no;"
     " from=<a@b.example> proto=ESMTP helo=<h.example>", "message", "discard", []),
    (f"{P}smtpd[1]: message repeated 2 times: [ {REJECT}]", "rcpt", "reject",
     [("t@home.example", False)]),
]  # fmt: skip


@pytest.mark.parametrize(("line", "kind", "action", "recipients"), REFUSED)
def test_refused(line: str, kind: str, action: str, recipients: list[tuple[str, bool]]) -> None:
    (seen,), postfix = _import(line)
    facts = seen.facts
    assert (seen.kind, seen.decision.action, seen.decision.reason) == (kind, action, "mta-refused")
    assert (facts.sender.raw, str(facts.client.address)) == ("a@b.example", "2001:db8::7")
    assert facts.client.helo == "h.example"
    assert [(r.address.raw, r.accepted) for r in facts.recipients] == recipients
    assert postfix.tally.kinds == {"refused": 1}


@pytest.mark.parametrize("login", ["", ", sasl_method=PLAIN, sasl_username=canary"])
def test_refused_by_a_filter_before_the_queue(login: str) -> None:
    """smtpd_proxy_filter: the client stands in another line of the same process."""
    refused = (
        "proxy-reject: END-OF-MESSAGE: 554 5.7.0 Reject, id=1-2 - spam; from=<a@b.example>"
        " to=<t@home.example> proto=ESMTP helo=<h.example>"
    )
    seen, _ = _import(
        f"{P}smtpd[1]: NOQUEUE: client=x.example[192.0.2.7]{login}",
        f"{P}smtpd[2]: NOQUEUE: client=y.example[192.0.2.8]",
        f"{P}smtpd[1]: {refused}",
        f"{P}smtpd[3]: {refused}",  # whose it was is not known
    )
    (data,) = map(to_json, seen)
    if login:
        assert (data["kind"], data["direction"]) == ("count", "submission")
        assert "home.example" not in json.dumps(data)
    else:
        assert (data["client"]["address"], data["sender"]) == ("192.0.2.7", "a@b.example")
        assert [r["address"] for r in data["recipients"]] == ["t@home.example"]
        assert (data["kind"], data["action"]) == ("message", "reject")


NO_MESSAGE = [
    f"{P}smtpd[1]: NOQUEUE: reject: CONNECT from x[192.0.2.7]: 450 4.7.25 no; proto=SMTP",
    f"{P}smtpd[1]: NOQUEUE: reject: VRFY from x[192.0.2.7]: 550 5.1.1 <x>: no; to=<x> proto=SMTP",
    f"{P}smtpd[1]: NOQUEUE: client=x[192.0.2.7]",
    f"{P}smtpd[1]: warning: unknown[192.0.2.7]: SASL LOGIN authentication failed: x",
    f"{P}qmgr[1]: warning: statistics: 5",
    "Nov 20 10:00:00 mx dovecot: imap-login: Login: user=<alice>",
]


@pytest.mark.parametrize("line", NO_MESSAGE)
def test_no_message(line: str) -> None:
    seen, postfix = _import(line)
    assert seen == [] and not postfix.tally.kinds["unparsed"]
    assert sum(postfix.tally.kinds.values()) == 1


@pytest.mark.parametrize(
    "line",
    [
        f"{P}submission/smtpd[1]: {REJECT}",
        f"{P}smtps/smtpd[1]: {REJECT}",
        f"{P}smtpd[1]: {REJECT} sasl_username=alice@home.example",
    ],
)
def test_a_refused_submission_is_a_number(line: str) -> None:
    (seen,), _ = _import(line)
    data = to_json(seen)
    assert (data["kind"], data["action"]) == ("count", "reject")
    assert "2001:db8" not in json.dumps(data) and "alice" not in json.dumps(data)


def test_one_recipient_of_several_is_refused() -> None:
    reject = REJECT.replace("NOQUEUE", Q)
    (seen,), _ = _import(*_message("x[192.0.2.7]", f"{P}smtpd[1]: {reject}"))
    got = [(r.address.raw, r.accepted) for r in seen.facts.recipients]
    assert got == [("t@home.example", False), ("trap@home.example", True)]
    assert seen.decision.action == "accept"


def test_refused_at_its_end() -> None:
    lines = _message("x[192.0.2.7]")[:3] + [
        f"Nov 20 10:00:00 mx opendkim[7]: {Q}: s=s1 d=b.example SSL",
        f"Nov 20 10:00:00 mx opendkim[7]: {Q}: DKIM verification successful",
        f"{P}cleanup[2]: {Q}: milter-reject: END-OF-MESSAGE from x[192.0.2.7]: 5.7.1 spam;"
        " from=<a@b.example> to=<t@home.example> proto=ESMTP helo=<h.example>",
    ]
    (seen,), _ = _import(*lines)
    assert (seen.kind, seen.decision.action) == ("message", "reject")
    assert [s.result for s in seen.facts.signatures] == ["pass"]
    assert seen.facts.message_id == "1@b.example"


def test_a_message_that_comes_back_from_a_filter_is_one() -> None:
    first = _message("x[192.0.2.7]")
    second = _message(
        f"localhost[127.0.0.1], orig_queue_id={Q}, orig_client=x[192.0.2.7]", queue_id="0F5383D"
    )
    seen, postfix = _import(*first, *second)
    assert [s.facts.queue_id for s in seen] == [Q]
    assert postfix.tally.kinds["reinjected"] == 1


def test_a_queue_id_used_again_is_another_message() -> None:
    later = [line.replace("10:00:00", "10:00:07") for line in _message("x[192.0.2.7]")]
    seen, _ = _import(*_message("x[192.0.2.7]"), *later)
    assert len({s.key for s in seen}) == 2


def test_a_log_that_begins_and_ends_in_the_middle() -> None:
    seen, postfix = _import(*_message("x[192.0.2.7]")[3:])
    assert seen == [] and postfix.tally.kinds["without arrival"] == 1
    seen, postfix = _import(*_message("x[192.0.2.7]")[:4])
    assert seen == [] and postfix.tally.kinds["unfinished"] == 1


PREFIXES = [
    "Nov 20 10:00:00 mx postfix/smtpd[1]: ",
    "Nov 20 10:00:00.123 mx postfix/smtpd[1]: ",
    "<22>Nov 20 10:00:00 mx postfix/smtpd[1]: ",
    "2026-11-20T11:00:00.123456+01:00 mx postfix/smtpd[1]: ",
    "2026-11-20T10:00:00Z mx postfix/smtpd[1]: ",
    "2026-11-20 10:00:00 mx postfix/smtpd[1]: ",
    "<22>1 2026-11-20T10:00:00Z mx postfix/smtpd 1 - - ",
    '<22>1 2026-11-20T10:00:00.5Z mx postfix/smtpd 1 - [a@1 b="c \\] d"][e@2] \ufeff',
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes(prefix: str) -> None:
    got = read_line(f"{prefix}NOQUEUE: text: more", Clock(UTC, NOW))
    assert got is not None
    assert got._replace(at=float(int(got.at))) == Entry(
        AT, "mx", "postfix/smtpd", "1", "NOQUEUE: text: more"
    )


def test_year_of_a_line_without_one() -> None:
    """The latest that is not after the file: December before January, a leap day in its year."""
    january = Clock(UTC, 1_736_000_000.0)  # 4 January 2025
    for text, want in (
        ("Dec 31 23:59:59", 1735689599.0),
        ("Jan  4 10:00:00", 1735984800.0),
        ("Feb 29 00:00:00", 1709164800.0),
        ("Jan  5 20:00:00", 1736107200.0),  # within the slack
        ("Jan 20 00:00:00", 1705708800.0),
    ):
        entry = read_line(f"{text} mx postfix/smtpd[1]: x", january)
        assert entry is not None and entry.at == want, text
    for text in ("Foo 31 23:59:59", "Feb 30 10:00:00", "Jan  1 25:00:00"):
        assert read_line(f"{text} mx postfix/smtpd[1]: x", january) is None


def _export(text: bytes, binary: bool) -> bytes:
    head = (
        b"__CURSOR=s=1\n__REALTIME_TIMESTAMP=1795168800000000\n_HOSTNAME=mx\n"
        b"SYSLOG_IDENTIFIER=postfix/smtpd\n_PID=1\n"
    )
    if binary:
        return head + b"MESSAGE\n" + struct.pack("<Q", len(text)) + text + b"\n\n"
    return head + b"MESSAGE=" + text + b"\n\n"


@pytest.mark.parametrize("size", [1, 7, 64, 100_000])
def test_journal_export(size: int) -> None:
    """Blocks of key=value and binary fields, however the stream is cut."""
    data = (
        _export(b"one", False)
        + _export(b"two\nlines\xff", True)
        + b"A=b\n\n"
        + _export(b"three", False)
    )
    assert is_export([data.decode("latin-1").split("\n")[0]])
    blocks = [data[n : n + size] for n in range(0, len(data), size)]
    got = list(read_export(blocks))
    want: list[Any] = [
        Entry(AT, "mx", "postfix/smtpd", "1", "one"),
        Entry(AT, "mx", "postfix/smtpd", "1", "two\nlines\udcff"),
        Entry(AT, "mx", "postfix/smtpd", "1", "three"),
    ]
    assert got == want


def test_journal_json() -> None:
    fields = {
        "__REALTIME_TIMESTAMP": "1795168800000000", "_HOSTNAME": "mx", "_PID": "1",
        "SYSLOG_IDENTIFIER": "postfix/smtpd", "MESSAGE": "text",
    }  # fmt: skip
    want = Entry(AT, "mx", "postfix/smtpd", "1", "text")
    assert read_line(json.dumps(fields), Clock(UTC, NOW)) == want
    raw = json.dumps({**fields, "MESSAGE": [116, 255]})  # how it writes what is no UTF-8
    assert read_line(raw, Clock(UTC, NOW)) == want._replace(text="t\udcff")
    assert read_line("{", Clock(UTC, NOW)) is None


S = Signature
DKIM: list[tuple[list[str], list[Signature]]] = [
    (["s=s1 d=B.example SSL", "DKIM verification successful"],
     [S("b.example", "s1", crypto="pass", result="pass")]),
    (["s=s1 d=b.example a=rsa-sha256 SSL", "DKIM verification successful"],
     [S("b.example", "s1", "rsa-sha256", crypto="pass", result="pass")]),
    (["s=s1 d=b.example SSL error:04091068:rsa routines:INT_RSA_VERIFY:bad signature",
      "bad signature data"],
     [S("b.example", "s1", crypto="fail", result="fail", reason=Why.BAD_SIGNATURE)]),
    (["key retrieval failed (s=s1, d=b.example): 's1._domainkey.b.example' record not found"],
     [S("b.example", "s1", result="permerror", reason=Why.NO_KEY)]),
    (["key retrieval failed (s=s1, d=b.example): query timed out"],
     [S("b.example", "s1", result="temperror", reason=Why.DNS_TIMEOUT)]),
    (['signature=abc domain=b.example selector=s1 result="no signature error"'],
     [S("b.example", "s1", crypto="pass", result="pass")]),
    (['signature=abc domain=b.example selector=s1 result="body hash mismatch"',
      'signature=abc domain=c.example selector=s2 result="key revoked"'],
     [S("b.example", "s1", crypto="fail", result="fail", reason=Why.BODY_HASH),
      S("c.example", "s2", result="permerror", reason=Why.KEY_REVOKED)]),
    (["DKIM verification successful"], [S(crypto="pass", result="pass")]),
    (["no signature data", "x.example [192.0.2.7] not internal"], []),
]  # fmt: skip


@pytest.mark.parametrize(("lines", "want"), DKIM)
def test_opendkim(lines: list[str], want: list[Signature]) -> None:
    signatures = Signatures()
    told = [signatures.read(line) for line in lines]
    assert signatures.found == want
    assert any(told) == bool(want)


def _ends(*outcomes: tuple[str, str]) -> list[str]:
    """A message whose recipients, (name, status), got these delivery lines."""
    head, tail = _message("mx.b.example[192.0.2.7]")[:4], f"{P}qmgr[3]: {Q}: removed"
    lines = [
        f"{P}lmtp[4]: {Q}: to=<{name}>, relay=mx.example[private/dovecot-lmtp], delay=1,"
        f" delays=1/0/0/0, dsn=5.1.1, status={status} (host said: 550, status=sent (x))"
        for name, status in outcomes
    ]
    return [*head, *lines, tail]


A, B = "bob@home.example", "eve@home.example"
FATES: list[tuple[list[tuple[str, str]], str, dict[str, bool]]] = [
    ([(A, "sent")], "accept", {A: True}),
    ([(A, "bounced")], "reject", {A: False}),
    ([(A, "deferred"), (A, "bounced")], "reject", {A: False}),
    ([(A, "deferred"), (A, "sent")], "accept", {A: True}),
    ([(A, "bounced"), (B, "sent")], "accept", {A: False, B: True}),
    # One name that stands for two mailboxes.
    ([(A, "sent"), (A, "bounced")], "accept", {A: True}),
    ([(A, "bounced"), (A, "sent")], "accept", {A: True}),
    ([(A, "deferred")], "accept", {A: True}),
    ([(", status=bounced (@x.example", "sent")], "accept", {", status=bounced (@x.example": True}),
]


@pytest.mark.parametrize(("outcomes", "action", "recipients"), FATES)
def test_what_became_of_it(
    outcomes: list[tuple[str, str]], action: str, recipients: dict[str, bool]
) -> None:
    (seen,), postfix = _import(*_ends(*outcomes))
    assert seen.decision.action == action
    assert {r.address.raw: r.accepted for r in seen.facts.recipients} == recipients
    assert postfix.tally.kinds["inbound"] == 1


def test_the_time_is_up() -> None:
    for word in ("expired", "force-expired"):
        lines = _ends((A, "deferred"))
        lines.insert(-1, f"{P}qmgr[3]: {Q}: from=<a@b.example>, status={word}, returned to sender")
        (seen,), _ = _import(*lines)
        assert seen.decision.action == "reject"
    lines[-2] = f"{P}qmgr[3]: {Q}: from=<x>, status=expired, returned to sender>, size=1, nrcpt=1"
    (seen,), _ = _import(*lines)
    assert seen.decision.action == "accept"
