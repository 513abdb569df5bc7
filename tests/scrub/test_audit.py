"""The leak finder: what each field tells, which setting removes it, and what is no leak."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gatepost_milter.cli import main
from gatepost_policy.config.field_lists import DEFAULT_REMOVE
from gatepost_policy.config.settings import Submission
from gatepost_policy.mail import received
from gatepost_policy.scrub import audit
from ports import free_port

CLEAN = b"""\
Return-Path: <alice@example.org>
X-Original-To: bob@example.net
Delivered-To: bob@example.net
Received: from mx.example.org (mx.example.org [192.0.2.25])
\tby mx.example.net (Postfix) with ESMTPS id ABC
\tfor <bob@example.net>; Fri, 20 Nov 2026 10:00:01 +0000 (UTC)
Received-SPF: pass (mx.example.net: client-ip=192.0.2.25)
Authentication-Results: mx.example.net; dkim=pass; iprev=pass policy.iprev=192.0.2.25
Received:
\tby mx.example.org (Postfix) with ESMTPSA id 123;
\tFri, 20 Nov 2026 10:00:00 +0000
Received: by anonymous.invalid; Fri, 20 Nov 2026 09:00:00 +0000
From: alice@example.org
To: bob@example.net
Subject: a word about 192.168.1.7 and X-Mailer: none
Date: Fri, 20 Nov 2026 10:00:00 +0000
Message-ID: <1@example.org>
MIME-Version: 1.0
Autocrypt: addr=alice@example.org
Disposition-Notification-To: alice@example.org
List-Unsubscribe: <mailto:x@example.org>

Received: in the body this is nobody's business
"""
HOP = "Received: from {} by mx.example.org (Postfix) with ESMTPSA id 1; x"


@dataclass(frozen=True, slots=True)
class Leak:
    """A field put into the clean message, and what the finding must say."""

    line: str
    tells: str
    setting: str | None
    weight: str = "leak"
    known: dict[str, str] = field(default_factory=dict)


LEAKS = (
    Leak("X-Mailer: Apple Mail (2.1)", "mail program", "submission.remove"),
    Leak("user-agent:Mutt", "mail program", "submission.remove"),
    Leak("X-Originating-IP: [198.51.100.7]", "client address", "submission.remove"),
    Leak("X-PHP-Originating-Script: 33:x.php", "script", "submission.remove"),
    Leak("X-Authenticated-User: alice7", "login", "submission.remove"),
    Leak("Bcc: carol@example.org", "hidden recipients", "submission.remove"),
    Leak("X-Mozilla-Draft-Info: x", "mail program", "submission.remove"),
    Leak("X-MS-Exchange-Organization-AuthAs: Internal", "organisation", "submission.remove"),
    Leak("Received-SPF: pass client-ip=198.51.100.7", "client address", "submission.remove"),
    Leak("Message-Id: <1@[192.168.1.7]>", "192.168.1.7", "submission.message_id", "hint"),
    Leak("Message-Id: <1@alices-mac.local>", "alices-mac.local", "submission.message_id", "hint"),
    Leak("Message-Id: <1@laptop>", "laptop", "submission.message_id", "hint"),
    Leak("Resent-Message-ID: <1@laptop.lan>", "laptop.lan", "submission.message_id", "hint"),
    Leak("X-Whatever: by 198.51.100.7", "an address", "submission.unknown_fields", "hint"),
    Leak("X-Whatever: ALICE wrote it", "own name", "submission.unknown_fields", "hint"),
    Leak("Mime-Version: 1.0 (Mac OS X Mail)", "mail program", "submission (comments are cut)"),
    Leak("Date: Fri, 20 Nov 2026 10:00:00 -0800", "time zone", "submission.date", "hint"),
    Leak("Sender: alice7@example.org", "login", "submission", "hint"),
    Leak('Content-Type: multipart/mixed; boundary="Apple-Mail=_1"', "Apple Mail", None, "hint"),
    Leak("Received: from [10.1.2.3] (helo=laptop) by mx.example.org with esmtpsa; x",
         "10.1.2.3", "submission.client_received"),
    Leak("X-Whatever: sent from alices-phone", "alices-phone", "submission.remove = [...",
         known={"EHLO name": "alices-phone"}),
)  # fmt: skip


def test_a_clean_message_is_clean() -> None:
    got = audit.find(CLEAN)
    assert got == ()
    assert audit.find(CLEAN.replace(b"\n", b"\r\n")) == ()
    assert audit.find(b"From alice Fri Nov 20 10:00:00 2026\n" + CLEAN) == ()


@pytest.mark.parametrize("leak", LEAKS, ids=lambda leak: leak.line.partition(":")[0])
def test_each_field(leak: Leak) -> None:
    message = CLEAN.replace(b"Subject:", leak.line.encode() + b"\nSubject:")
    (got,) = audit.find(message, leak.known)
    assert got.name == leak.line.partition(":")[0]
    assert leak.tells in got.tells
    assert (got.setting or "").startswith(leak.setting or "")
    assert (got.setting is None) is (leak.setting is None)
    assert got.weight == leak.weight


def test_a_login_that_is_the_local_part_of_the_senders_address() -> None:
    """The usual case. The address is told on purpose, whatever field repeats it; the login alone is
    not, nor at another domain."""
    known = {"login": "alice"}
    around = b"Return-Path: <alice@example.org>\nResent-From: ALICE@example.org\n" + CLEAN
    assert audit.find(around, known) == ()
    for value in (
        "by alice",
        "alice@example.org.lan",
        "x (alice@laptop)",
        "alice@example.org/alice",
    ):
        message = around.replace(b"Subject:", b"X-Whatever: %s\nSubject:" % value.encode())
        (got,) = audit.find(message, known)
        assert (got.name, got.tells, got.weight) == ("X-Whatever", "login alice", "leak"), value


@pytest.mark.parametrize("glob", DEFAULT_REMOVE)
def test_each_name_of_the_removal_list(glob: str) -> None:
    name = glob.replace("*", "Something")
    message = CLEAN.replace(b"Subject:", name.upper().encode() + b": x\nSubject:")
    (got,) = audit.find(message)
    assert got.weight == "leak" and got.setting == "submission.remove" and got.tells


@pytest.mark.parametrize("client, wanted", [
    ("ehlo.example (ptr.example [198.51.100.7])", ("ehlo.example", "ptr.example", "198.51.100.7")),
    ("ehlo.example (unknown [IPv6:2001:db8::7])", ("ehlo.example", "2001:db8::7")),
    ("[10.0.0.1] (helo=laptop)", ("10.0.0.1", "laptop")),
    ("laptop (x [10.0.0.1])\n\t(using TLSv1.3 with cipher X (256/256 bits))\n\t"
     "(Authenticated sender: alice7)", ("TLS", "alice7", "10.0.0.1")),
    ("ptr.example ([198.51.100.7]:4321 helo=laptop)", ("ptr.example", "198.51.100.7", "laptop")),
])  # fmt: skip
def test_our_own_hop(client: str, wanted: tuple[str, ...]) -> None:
    swept = CLEAN.index(b"Received:\n\tby mx.example.org")
    end = CLEAN.index(b"Received: by anonymous")
    message = CLEAN[:swept] + HOP.format(client).encode() + b"\n" + CLEAN[end:]
    (got,) = audit.find(message)
    assert got.setting == "submission.own_received"
    for word in wanted:
        assert word in got.tells, got


def test_servers_talking_to_servers_are_no_leak() -> None:
    """Three transfers above the sender's hop name servers, not the sender."""
    top = b"".join(
        b"Received: from s%d.example (s%d.example [192.0.2.%d]) by t%d with ESMTPS; x\n"
        % (n, n, n, n) for n in range(3)
    )  # fmt: skip
    assert audit.find(top + CLEAN[CLEAN.index(b"Received:\n\tby") :]) == ()


def test_unauthenticated_hop_is_the_oldest_one() -> None:
    message = (b"Received: from mx.example by t with ESMTP; x\nReceived: from printer ([10.0.0.9])"
               b" by mx.example with ESMTP; x\nSubject: x\n\nx\n")  # fmt: skip
    (got,) = audit.find(message)
    assert got.index == 2 and "10.0.0.9" in got.tells


def test_what_was_asked_for_and_stays_is_a_leak() -> None:
    """By default Message-ID and the time zone stay: hints. Once they are to go, they are leaks."""
    message = CLEAN.replace(b"<1@example.org>", b"<1@laptop.lan>").replace(b"+0000\nM", b"+0530\nM")
    asked = Submission(message_id="mask-host", date="utc")
    assert {f.name: f.weight for f in audit.find(message)} == {"Message-ID": "hint", "Date": "hint"}
    got = audit.find(message, submission=asked)
    assert {f.name: f.weight for f in got} == {"Message-ID": "leak", "Date": "leak"}
    assert audit.find(CLEAN.replace(b"<1@example.org>", b"<1@localhost>"), submission=asked) == ()
    resent = CLEAN.replace(b"From:", b"Resent-Date: Fri, 20 Nov 2026 15:30:00 +0530\nFrom:", 1)
    (got_resent,) = audit.find(resent, submission=asked)
    assert got_resent.name == "Resent-Date" and got_resent.weight == "leak"


def test_what_the_client_called_itself_is_looked_for_in_unknown_fields() -> None:
    swept = CLEAN.index(b"Received:\n\tby mx.example.org")
    hop = HOP.format("laptop (dsl-7.isp.example [198.51.100.7])").encode() + b"\n"
    told = b"X-A: on laptop\nX-B: DSL-7.isp.example\nX-C: laptops\nX-D: IPv6:2001:db8::1\n"
    message = CLEAN[:swept] + hop + told + CLEAN[CLEAN.index(b"From:") :]
    found = {f.name: f.weight for f in audit.find(message)}
    assert found == {"Received": "leak", "X-A": "hint", "X-B": "hint", "X-D": "hint"}


@pytest.mark.parametrize("coded", ["", "base64", "quoted-printable"])
def test_calendars_and_notifications_are_hints(coded: str) -> None:
    import base64
    import quopri

    calendar = (b"BEGIN:VCALENDAR\r\nPRODID:-//Laptop//Calendar 7//EN\r\n"
                b"X-WR-TIMEZONE:Asia/Kolkata\r\n"
                b"DTSTART;TZID=Asia/Kolkata:20261120T100000\r\nEND:VCALENDAR\r\n")  # fmt: skip
    if coded:
        encode = base64.encodebytes if coded == "base64" else quopri.encodestring
        calendar = encode(calendar)
    head = CLEAN.partition(b"\n\n")[0] + b"\nContent-Type: multipart/mixed; boundary=b\n\n"
    body = (
        b"--b\nContent-Type: text/plain\n\nPRODID: is a word\n--b\n"
        + f"Content-Type: text/calendar\nContent-Transfer-Encoding: {coded or '8bit'}\n\n".encode()
        + calendar
        + b"--b\nContent-Type: message/disposition-notification\n\n"
        b"Reporting-UA: laptop; Mail 7\n--b--\n"
    )
    found = audit.find(head + body)
    assert {f.name for f in found} == {"PRODID", "X-WR-TIMEZONE", "TZID", "Reporting-UA"}
    assert {f.weight for f in found} == {audit.Weight.HINT}
    assert "is a word" not in str(found)


@pytest.mark.parametrize("kind", [
    "application/ics", "text/x-vcalendar", "TEXT/VCARD; charset=utf-8",
    'application/octet-stream; name="invite.ics"',
    "application/octet-stream\nContent-Disposition: attachment;\n filename=me.vcf",
])  # fmt: skip
def test_calendars_and_cards_by_other_names(kind: str) -> None:
    """Lines may be folded anywhere, in a name as well (RFC 5545 3.1)."""
    text = "BEGIN:VCARD\r\nPROD\r\n ID:-//Laptop//7//EN\r\nTZ:Asia/Kolkata\r\nEND:VCARD\r\n"
    head = CLEAN.partition(b"\n\n")[0].decode() + "\nContent-Type: multipart/mixed; boundary=b\n\n"
    part = f"--b\nContent-Type: {kind}\n\n{text}--b--\n"
    assert {f.name for f in audit.find((head + part).encode())} == {"PRODID", "TZ"}
    plain = f"--b\nContent-Type: text/plain; name=a.txt\n\n{text}--b--\n"
    assert audit.find((head + plain).encode()) == ()


def test_attached_message_is_a_hint() -> None:
    head = CLEAN.partition(b"\n\n")[0] + b"\nContent-Type: multipart/mixed; boundary=b\n\n"
    body = b"--b\nContent-Type: message/rfc822\n\nReceived: from x\nX-Mailer: y\n\ntext\n--b--\n"
    assert {(f.name, f.weight) for f in audit.find(head + body)} == {
        ("Received", "hint"), ("X-Mailer", "hint")}  # fmt: skip


@pytest.mark.parametrize("data", [
    b"", b"\n", b"\r\n\r\n", b":\n", b"no header at all", b" folded first\nX-Mailer: x\n",
    b"X-Mailer\xff: \x00\x1b[31m\n\n", b"Received: " + b"(" * 100_000 + b"\n\n",
    b"Received: " + b"from x (" * 20_000 + b"\n\n", b"X-Mailer: x\n" * 20_000,
    b"Date: \xff\xfe\nMessage-ID: <@>\nContent-Type: ;;;\n\n",
], ids=range(11))  # fmt: skip
def test_hostile_messages(data: bytes) -> None:
    """Never an exception, and nothing that a terminal would obey."""
    for found in audit.find(data, {"x": "y"}):
        assert found.value.isprintable() and found.tells.isprintable()


def test_received_forms() -> None:
    read = received.read
    assert read(b" by mx (Postfix) with ESMTPSA id 1; x").tells == ()
    assert read(b"\n\tby mx (Postfix) with UTF8SMTPSA id 1;\n\tx").submitted
    assert read(b" from a by b with ESMTPS id 1; x").submitted is False
    assert read(b" from a (from by evil) by b with SMTP; x").by == "b"
    assert read(b" (qmail 1 invoked from network); x").tells == ()


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of `milterctl privacy audit`, in this process."""
    with pytest.raises(SystemExit) as left:
        main(["privacy", "audit", *map(str, args)])
    captured = capsys.readouterr()
    return int(left.value.code or 0), captured.out, captured.err


def test_audit_of_nothing_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, tmp_path)
    assert (code, out, err) == (0, "", "milterctl: no message found there\n")


def test_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean, telling = tmp_path / "clean.eml", tmp_path / "telling.eml"
    clean.write_bytes(CLEAN)
    telling.write_bytes(CLEAN.replace(b"Subject:", b"X-Mailer: M\x1b[31m 1\nSubject:"))
    code, out, _ = run(capsys, clean)
    assert code == 0 and "clean" in out
    code, out, _ = run(capsys, clean, telling)
    assert code == 1 and "X-Mailer" in out and "\x1b" not in out
    assert "submission.remove" in out and "mail program" in out
    code, out, _ = run(capsys, "--format", "json", telling, clean)
    first, second = map(json.loads, out.splitlines())
    assert code == 1 and (first["leaks"], second["leaks"]) == (1, 0)
    assert first["findings"][0]["field"] == "X-Mailer"
    code, _, err = run(capsys, tmp_path / "missing.eml")
    assert code == 1 and "missing.eml" in err


def test_a_probe_that_finds_nobody_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    given = ["--port", str(port), "--sender", "a@x.example", "--recipient", "b@x.example"]
    with pytest.raises(SystemExit) as ended:
        main(["privacy", "test", *given, "--mailbox", "/nowhere"])
    assert ended.value.code == 3
    assert capsys.readouterr().err == (
        f"milterctl: 127.0.0.1:{port}: Connection refused; nobody listens there: start the"
        " submission service, or name the submission server with --host and --port\n"
    )
