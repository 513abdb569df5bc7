"""The same two events in every form in which somebody has a log: one delivery, one refusal."""

import bz2
import gzip
import io
import json
import lzma
import re
import tarfile
from collections.abc import Callable
from datetime import UTC
from pathlib import Path

import pytest

from fix_cli import Run
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.wrapping import unwrapped

NOW = 1795862400.0  # 2026-11-28 12:00 UTC
QUEUE_ID, EXIM_ID = "4XbcdF1z2y3wD", "1xXBAb-0006Ln-34"
POSTFIX = (
    ("postfix/smtpd", f"{QUEUE_ID}: client=mail.spam.example[192.0.2.10]"),
    ("postfix/cleanup", f"{QUEUE_ID}: message-id=<a1@spam.example>"),
    ("postfix/qmgr", f"{QUEUE_ID}: from=<a@spam.example>, size=1000, nrcpt=1 (queue active)"),
    (
        "postfix/lmtp",
        f"{QUEUE_ID}: to=<bob@home.example>, relay=x[private/lmtp], delay=1, status=sent (250 ok)",
    ),
    ("postfix/qmgr", f"{QUEUE_ID}: removed"),
    (
        "postfix/smtpd",
        "NOQUEUE: reject: RCPT from unknown[192.0.2.21]: 550 5.1.1 <no@home.example>: Recipient"
        " address rejected: User unknown; from=<x@snow.example> to=<no@home.example> proto=ESMTP"
        " helo=<h21>",
    ),
)
EXIM = (
    (
        "exim",
        f"{EXIM_ID} <= a@spam.example H=mail.spam.example [192.0.2.10] P=esmtps S=900"
        " id=m1@spam.example for bob@home.example",
    ),
    ("exim", f"{EXIM_ID} => bob <bob@home.example> R=local T=inbox"),
    ("exim", f"{EXIM_ID} Completed"),
    ("exim", "H=(h21) [192.0.2.21] F=<x@snow.example> rejected RCPT <no@home.example>: unknown"),
)
Events = tuple[tuple[str, str], ...]
Form = Callable[[int, str, str], str]


def bsd(at: int, program: str, text: str) -> str:
    return f"Nov 20 10:00:{at:02} mx {program}[9]: {text}"


def octets(at: int, program: str, text: str) -> str:
    line = f"<22>1 2026-11-20T10:00:{at:02}.5Z mx {program} 9 - - {text}"
    return f"{len(line)} {line}"


def journal(at: int, program: str, text: str) -> dict[str, str]:
    return {
        "__REALTIME_TIMESTAMP": str((1795168800 + at) * 1_000_000),
        "_HOSTNAME": "mx",
        "SYSLOG_IDENTIFIER": program,
        "_PID": "9",
        "MESSAGE": text,
    }


def pieces(line: str) -> tuple[str, str, str]:
    return line[:40], line[40:60], line[60:]


FORMS: dict[str, Form] = {
    "rfc3164": bsd,
    "docker compose": lambda n, p, t: f"mail-postfix-1  | {bsd(n, p, t)}",
    "docker json-file": lambda n, p, t: json.dumps(
        {"log": bsd(n, p, t) + "\n", "stream": "stdout", "time": f"2026-11-20T10:00:{n:02}.1Z"}
    ),
    "docker json-file, no time of its own": lambda n, p, t: json.dumps(
        {"log": f"{p}[9]: {t}\n", "stream": "stdout", "time": f"2026-11-20T10:00:{n:02}.1Z"}
    ),
    "docker -t": lambda n, p, t: f"2026-11-20T10:00:{n:02}.123456789Z {bsd(n, p, t)}",
    "docker -t, no time of its own": lambda n, p, t: f"2026-11-20T10:00:{n:02}.123Z {p}[9]: {t}",
    "CRI": lambda n, p, t: f"2026-11-20T10:00:{n:02}.123456789+00:00 stdout F {bsd(n, p, t)}",
    "docker around BusyBox": lambda n, p, t: (
        f"mail-1 | Nov 20 10:00:{n:02} mx mail.info {p}[9]: {t}"
    ),
    "journalctl short-full": lambda n, p, t: f"Fri 2026-11-20 10:00:{n:02} UTC mx {p}[9]: {t}",
    "json-pretty": lambda n, p, t: json.dumps(journal(n, p, t), indent=8),
    "json-seq": lambda n, p, t: "\x1e" + json.dumps(journal(n, p, t)),
    "Solaris": lambda n, p, t: f"Nov 20 10:00:{n:02} mx {p}[9]: [ID 197553 mail.info] {t}",
    "BusyBox": lambda n, p, t: f"Nov 20 10:00:{n:02} mx mail.info {p}[9]: {t}",
    "FreeBSD": lambda n, p, t: f"Nov 20 10:00:{n:02} <mail.info> mx {p}[9]: {t}",
    "RFC 5424": lambda n, p, t: f"<22>1 2026-11-20T10:00:{n:02}.5Z mx {p} 9 - - {t}",
    "RFC 5424 without priority": lambda n, p, t: f"1 2026-11-20T10:00:{n:02}.5Z mx {p} 9 - - {t}",
    "RFC 5424, octet-counted": octets,
    "docker compose in colours": lambda n, p, t: f"\x1b[36mmail-1  |\x1b[0m {bsd(n, p, t)}",
    "kubectl --prefix": lambda n, p, t: f"[pod/mail-0/mta] 2026-11-20T10:00:{n:02}.1Z {p}[9]: {t}",
    "Elastic": lambda n, p, t: json.dumps(
        {"@timestamp": f"2026-11-20T10:00:{n:02}Z", "message": bsd(n, p, t), "host": {"name": "x"}}
    ),
    "Fluent Bit": lambda n, p, t: json.dumps({"container": "x", "log": bsd(n, p, t)}),
    "json": lambda n, p, t: json.dumps(journal(n, p, t)),
    "json-sse": lambda n, p, t: "data: " + json.dumps(journal(n, p, t)),
    "syslog-ng": lambda n, p, t: f"2026-11-20T10:00:{n:02}+00:00 mail.info mx {p}[9]: {t}",
    "a comma before the fraction": lambda n, p, t: f"2026-11-20T10:00:{n:02},5Z mx {p}[9]: {t}",
    "short-unix": lambda n, p, t: f"{1795168800 + n}.123456 mx {p}[9]: {t}",
    "the year behind the day": lambda n, p, t: f"Nov 20 2026 10:00:{n:02} mx {p}[9]: {t}",
    "the year behind the time": lambda n, p, t: f"Nov 20 10:00:{n:02} 2026 mx {p}[9]: {t}",
    "no host": lambda n, p, t: f"Nov 20 10:00:{n:02} {p}[9]: {t}",
    "macOS": lambda n, p, t: f"2026-11-20 10:00:{n:02}.123456+0000  mx {p}[9]: {t}",
    "AIX": lambda n, p, t: f"Nov 20 10:00:{n:02} mx mail:info {p}[9]: {t}",
    "metalog": lambda n, p, t: f"Nov 20 10:00:{n:02} [{p}] {t}",
    "svlogd": lambda n, p, t: (
        f"2026-11-20_10:00:{n:02}.12345 mail.info: Nov 20 10:00:{n:02} {p}[9]: {t}"
    ),
    "multilog": lambda n, p, t: f"@4000000069d{n:x}a1b2c3d4e5f6 mail.info: {bsd(n, p, t)}",
    "Loki": lambda n, p, t: f'2026-11-20T10:00:{n:02}Z {{job="mail"}} {bsd(n, p, t)}',
    "what grep found": lambda n, p, t: f"/var/log/mail.log.2.gz:{n}:{bsd(n, p, t)}",
    "a weekday, and the year": lambda n, p, t: f"Fri Nov 20 10:00:{n:02} 2026 mx {p}[9]: {t}",
    "two blanks": lambda n, p, t: f"Nov 20 10:00:{n:02}  mx {p}[9]: {t}",
    "blanks at the end": lambda n, p, t: bsd(n, p, t) + "  ",
    "a blank behind the priority": lambda n, p, t: f"<22> {bsd(n, p, t)}",
    "short-precise": lambda n, p, t: f"Nov 20 10:00:{n:02}.123456 mx {p}[9]: {t}",
    "RFC 5424, nothing known": lambda n, p, t: f"<22>1 2026-11-20T10:00:{n:02}Z - {p} - - - {t}",
    "verbose": lambda n, p, t: (
        f"Fri 2026-11-20 10:00:{n:02}.1 UTC [s=ab;i=1;b=cd;m=1;t=2;x=3]\n    _HOSTNAME=mx\n"
        f"    SYSLOG_IDENTIFIER={p}\n    _PID=9\n    MESSAGE={t}"
    ),
    "CRI, in pieces": lambda n, p, t: "\n".join(
        f"2026-11-20T10:00:{n:02}.1Z stdout {mark} {piece}"
        for mark, piece in zip("PPF", pieces(bsd(n, p, t)), strict=True)
    ),
    "CRI, two streams": lambda n, p, t: "\n".join(
        (
            f"2026-11-20T10:00:{n:02}.1Z stdout P {p}[9",
            f"2026-11-20T10:00:{n:02}.1Z stderr F {p}[8]: statistics: max connection rate",
            f"2026-11-20T10:00:{n:02}.1Z stdout F ]: {t}",
        )
    ),
    "GELF of docker": lambda n, p, t: json.dumps(
        {"version": "1.1", "host": "x", "short_message": bsd(n, p, t), "timestamp": 1795168800.5}
    ),
    "GELF": lambda n, p, t: json.dumps(
        {
            "host": "mx",
            "short_message": t,
            "timestamp": 1795168800.5 + n,
            "level": 6,
            "_application_name": p,
            "_process_id": "9",
        }
    ),
    "GELF of the journal": lambda n, p, t: json.dumps(
        {"host": "mx", "short_message": t, "timestamp": 1795168800 + n, "facility": p, "_pid": 9}
    ),
    "rsyslog's jsonmesg": lambda n, p, t: json.dumps(
        {
            "msg": f" {t}",
            "rawmsg": f"<22>{bsd(n, p, t)}",
            "hostname": "mx",
            "timereported": f"2026-11-20T10:00:{n:02}.1+00:00",
            "syslogtag": f"{p}[9]:",
            "programname": p.split("/")[0],
            "procid": "9",
            "structured-data": "-",
            "uuid": None,
        }
    ),
    "rsyslog's old times": lambda n, p, t: json.dumps(
        {"msg": f" {t}", "timereported": f"Nov 20 10:00:{n:02}", "syslogtag": f"{p}[9]:"}
    ),
    "a template of rsyslog": lambda n, p, t: json.dumps(
        {
            "@timestamp": f"2026-11-20T10:00:{n:02}Z",
            "message": t,
            "sysloghost": "mx",
            "programname": p,
            "procid": "9",
        }
    ),
    "syslog-ng's JSON": lambda n, p, t: json.dumps(
        {"PROGRAM": p, "PID": "9", "MESSAGE": t, "HOST": "mx", "DATE": f"Nov 20 10:00:{n:02}"}
    ),
    "ECS": lambda n, p, t: json.dumps(
        {
            "@timestamp": f"2026-11-20T10:00:{n:02}.000Z",
            "message": t,
            "process": {"name": p, "pid": 9},
            "host": {"hostname": "mx"},
            "log": {"offset": 3},
        }
    ),
    "Vector": lambda n, p, t: json.dumps(
        {
            "appname": p,
            "hostname": "mx",
            "message": t,
            "procid": 9,
            "facility": "mail",
            "timestamp": f"2026-11-20T10:00:{n:02}.123456Z",
        }
    ),
    "Fluent Bit's syslog": lambda n, p, t: json.dumps(
        {
            "date": 1795168800.5 + n,
            "time": f"Nov 20 10:00:{n:02}",
            "host": "mx",
            "ident": p,
            "pid": "9",
            "message": t,
        }
    ),
}


def written(form: Form, events: Events) -> str:
    return "".join(form(n, *event) + "\n" for n, event in enumerate(events))


@pytest.mark.parametrize(("importer", "events"), [(Postfix, POSTFIX), (Exim, EXIM)])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_tells_the_same(
    name: str, importer: type[Postfix | Exim], events: Events
) -> None:
    lines = written(FORMS[name], events).rstrip("\n").split("\n")
    unwrap = unwrapped(lines)
    mta = importer()
    clock = Clock(UTC, NOW)
    seen = [
        one for block in (unwrap([lines]) if unwrap else [lines]) for one in mta.lines(block, clock)
    ]
    seen += mta.finish()
    got = {
        (str(one.facts.client.address), str(one.facts.sender), str(one.facts.recipients[0].address))
        for one in seen
    }
    assert got == {
        ("192.0.2.10", "a@spam.example", "bob@home.example"),
        ("192.0.2.21", "x@snow.example", "no@home.example"),
    }
    assert all(int(one.facts.at) // 60 == 1795168800 // 60 for one in seen)
    assert mta.tally.kinds["unparsed"] == 0


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_byte_order_marks(run: Run, tmp_path: Path, encoding: str) -> None:
    log = tmp_path / "mail.log"
    text = written(bsd, POSTFIX)
    if encoding == "utf-16-be":
        text = "\ufeff" + text
    log.write_bytes(text.encode(encoding))
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert (code, output.split(",")[0]) == (0, "6 lines: 2 new")


@pytest.mark.parametrize("hole", [5, 3_000_000])
def test_a_hole_at_the_beginning(run: Run, tmp_path: Path, hole: int) -> None:
    """What copytruncate leaves where the writer keeps its place."""
    log = tmp_path / "mail.log"
    log.write_bytes(bytes(hole) + written(bsd, POSTFIX).encode())
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert (code, output.split(",")[0]) == (0, "6 lines: 2 new")


@pytest.mark.parametrize(("before", "hole"), [("", 4096), ("Nov 20 10:0", 64), ("", 3_000_000)])
def test_a_hole_between_lines(run: Run, tmp_path: Path, before: str, hole: int) -> None:
    """What a crash of the host leaves: the line behind it is as whole as the others."""
    log = tmp_path / "mail.log"
    text = written(bsd, POSTFIX)
    again = text.replace(QUEUE_ID, f"{QUEUE_ID[:-1]}F").replace("10:00", "11:00")
    log.write_bytes(f"{text}{before}".encode() + bytes(hole) + again.encode())
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert code == 0 and " 4 new" in output, output


def test_packed_with_lzma(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "mail.log.lzma"
    log.write_bytes(lzma.compress(written(bsd, POSTFIX).encode(), lzma.FORMAT_ALONE))
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert (code, output.split(",")[0]) == (0, "6 lines: 2 new")


@pytest.mark.parametrize("pack", [bz2.compress, gzip.compress, lzma.compress])
def test_a_damaged_block(run: Run, tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """What stands before it is read, and it is said that the rest is not."""
    log = tmp_path / "mail.log.packed"
    # Digits: for bzip2 long enough for two of its blocks, for the others for two of a reader.
    last = 1_100 if pack is gzip.compress else 2_000
    filler = b"".join(b"Nov 20 10:00:00 mx cron[1]: %d\n" % 7**n for n in range(1_000, last))
    packed = bytearray(pack(written(bsd, POSTFIX).encode() + filler))
    packed[len(packed) * 9 // 10] ^= 0xFF
    log.write_bytes(packed)
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert code == 1 and "damaged, read up to there" in output and " 2 new" in output, output


def test_an_archive_is_no_log(run: Run, tmp_path: Path) -> None:
    """Its first line would be lost behind the archive's own words."""
    path = tmp_path / "logs.tar.gz"
    text = written(bsd, POSTFIX).encode()
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("mail.log")
        member.size = len(text)
        archive.addfile(member, io.BytesIO(text))
    code, output = run("import", "postfix", str(path), "--zone", "UTC")
    assert code == 1 and "tar -xOf FILE" in output, output


@pytest.mark.parametrize(
    ("mta", "content", "reason"),
    [
        ("postfix", b"\x28\xb5\x2f\xfd\x00\x01\n\x02\n", "packed with zstd: zstd -dc FILE | "),
        ("postfix", b"LPKSHHRH\x00\x01\n", "a file of the journal: journalctl -o export | "),
        ("postfix", b"\x01\x00\x02\n", "this is no text"),
        # Empty lines between are nothing that was understood.
        ("postfix", b"what\n\nis this\n\n", "no line of it is Postfix's"),
        (
            "postfix",
            f"2026-11-20 10:00:00 {EXIM[0][1]}\n".encode(),
            "a log of Exim: milterctl import exim",
        ),
        ("exim", written(bsd, POSTFIX).encode(), "a log of Postfix: milterctl import postfix"),
        ("exim", b"Nov 20 10:00:00 mx cron[1]: hello\n", "no line of it is Exim's"),
    ],
)
def test_nothing_understood_is_a_finding(
    run: Run, tmp_path: Path, mta: str, content: bytes, reason: str
) -> None:
    """Exit 0 and "0 new" would be taken for "nobody ever tried"."""
    log = tmp_path / "x.log"
    log.write_bytes(content)
    code, output = run("import", mta, str(log))
    assert code == 1
    assert re.search(rf"x\.log: .*{re.escape(reason)}", output), output


def test_a_unit_in_the_place_of_the_program(run: Run, tmp_path: Path) -> None:
    """journalctl -o with-unit tells no lines apart: exit 0 would say that nobody ever tried."""
    log = tmp_path / "x.log"
    log.write_text(written(lambda n, p, t: bsd(n, "postfix@-.service", t), POSTFIX))
    assert run("import", "postfix", str(log), "--zone", "UTC")[0] == 1


def test_docker_cuts_what_is_long(run: Run, tmp_path: Path) -> None:
    """16384 octets a piece; the last one has the line feed."""
    log = tmp_path / "x.log"
    # The answer of a far server, behind the words that count.
    line = bsd(0, "postfix/lmtp", POSTFIX[3][1].replace("250 ok", "250 " + "x" * 20_000)) + "\n"
    lines = [bsd(n, *event) + "\n" for n, event in enumerate(POSTFIX)]
    lines[3:4] = [line[:16_384], line[16_384:]]
    log.write_text(
        "".join(
            json.dumps({"log": text, "stream": "stdout", "time": "2026-11-20T10:00:00.1Z"}) + "\n"
            for text in lines
        )
    )
    code, output = run("import", "postfix", str(log), "--zone", "UTC")
    assert (code, output.split(",")[0]) == (0, "6 lines: 2 new")


@pytest.mark.parametrize("own_time", ["", "2026-11-20 11:00:00 ", "2026-11-20 11:00:00 +0100 "])
def test_an_export_of_the_journal_with_exims_lines(run: Run, tmp_path: Path, own_time: str) -> None:
    log = tmp_path / "export"
    log.write_text(
        "".join(
            f"__CURSOR=s={n}\n__REALTIME_TIMESTAMP=1795168800000000\n_HOSTNAME=mx\n_PID=5\n"
            f"SYSLOG_IDENTIFIER={program}\nMESSAGE={own_time * (program == 'exim')}{text}\n\n"
            for n, (program, text) in enumerate((*EXIM, ("cron", "hello")))
        )
    )
    code, output = run("import", "exim", str(log), "--zone", "UTC")
    assert (code, output.split(",")[0]) == (0, "5 lines: 2 new"), output
    code, output = run("report", "--format", "json")
    assert {m["at"] for m in json.loads(output)["messages"]} == {"2026-11-20T10:00:00Z"}


def test_pieces_that_are_read_apart() -> None:
    """`watch` reads what there is: the rest of a line comes with the next look."""
    lines = written(FORMS["CRI, in pieces"], POSTFIX).rstrip("\n").split("\n")
    unwrap = unwrapped(lines[:8])  # the head ends amid a line
    assert unwrap is not None
    seen = [line for one in lines for block in unwrap([[one]]) for line in block]
    assert seen == [bsd(n, *event) for n, event in enumerate(POSTFIX)]
