"""Saved messages in every packing are found and read as they were sent; what cannot be is said."""

import gzip
import json
import os
import re
from pathlib import Path

import pytest

from gatepost_milter.mta.queue_file import Field, crlf, parse
from gatepost_milter.replay import arrival, saved_mail

MESSAGE = b"Subject: x\r\n\r\nbody\r\n"


def _read(path: Path) -> list[saved_mail.Item]:
    return list(saved_mail.read(str(path)))


SHAPES: list[tuple[str, bytes, bytes]] = [
    ("CRLF", MESSAGE, MESSAGE),
    ("LF", b"Subject: x\n\nbody\n", MESSAGE),
    ("mixed", b"Subject: x\r\n\nbody\r\n", MESSAGE),
    ("no last newline", b"Subject: x\n\nbody", MESSAGE),
    ("byte-order mark", b"\xef\xbb\xbfSubject: x\n\nbody\n", MESSAGE),
    ("mbox separator", b"From a@b.example Tue Oct  1 10:36:56 2002\nSubject: x\n\nbody\n", MESSAGE),
    ("gzip", gzip.compress(b"Subject: x\n\nbody\n"), MESSAGE),
    ("bare CR stays", b"Subject: x\n\na\rb\r\r\n", b"Subject: x\r\n\r\na\rb\r\r\n"),
    ("empty", b"", b""),
]


@pytest.mark.parametrize(("what", "content", "want"), SHAPES, ids=[s[0] for s in SHAPES])
def test_shapes(tmp_path: Path, what: str, content: bytes, want: bytes) -> None:
    file = tmp_path / "x.eml"
    file.write_bytes(content)
    (got,) = _read(file)
    assert (got.error, crlf(got.data), got.file) == (None, want, str(file))


def test_mbox(tmp_path: Path) -> None:
    file = tmp_path / "box"
    file.write_bytes(
        b"From one@b.example Tue Oct  1 10:36:56 2002\nSubject: 1\n\n"
        b"From here on it is text.\n>From quoted\n>>From twice\n\n"
        b"From two@b.example Tue Oct  1 10:36:57 2002\nSubject: 2\n\nbody\n"
    )
    got = _read(file)
    assert [(g.file, g.mbox_sender) for g in got] == [
        (f"{file}#1", "one@b.example"), (f"{file}#2", "two@b.example")
    ]  # fmt: skip
    assert got[0].data == (b"Subject: 1\n\nFrom here on it is text.\nFrom quoted\n>From twice\n")
    assert got[1].data == b"Subject: 2\n\nbody\n"


def test_a_sentence_is_no_separator(tmp_path: Path) -> None:
    file = tmp_path / "x.eml"
    file.write_bytes(b"From the beginning\nit was text\n")
    (got,) = _read(file)
    assert got.data == b"From the beginning\nit was text\n"


def test_directory(tmp_path: Path) -> None:
    """Every regular file below, whatever its name; links to directories are not followed."""
    (tmp_path / "cur").mkdir()
    for name in ("cur/1.x:2,S", "b", "a.eml", ".hidden", "lonely.json"):
        (tmp_path / name).write_bytes(MESSAGE)
    (tmp_path / "a.json").write_text("{}")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.eml").symlink_to(tmp_path / "a.eml")
    os.mkfifo(tmp_path / "fifo")
    got = [os.path.relpath(f, tmp_path) for f in saved_mail.find([str(tmp_path)])]
    assert got == [".hidden", "a.eml", "b", "link.eml", "lonely.json", "cur/1.x:2,S"]


def test_sidecar(tmp_path: Path) -> None:
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    (tmp_path / "x.json").write_text(json.dumps({"at": 1}))
    assert _read(tmp_path / "x.eml")[0].sidecar == {"at": 1}
    for broken in ("{", "[1]", "[" * 100_000):
        (tmp_path / "x.json").write_text(broken)
        assert (_read(tmp_path / "x.eml")[0].error or "").startswith("sidecar x.json: ")


def test_problems_are_items(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One item with an error each, never an exception."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(os.urandom(5000))[:2000])
    (tmp_path / "garbage.gz").write_bytes(b"\x1f\x8b" + b"garbage" * 10)
    monkeypatch.setattr(saved_mail, "MAX_MESSAGE_BYTES", 1 << 20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"\0" * (2 << 20)))
    (tmp_path / "large").write_bytes(b"\0" * (2 << 20))
    want = {
        "fifo": "not a regular file",
        "broken": "No such file or directory",
        "missing": "No such file or directory",
        "cut.gz": "damaged gzip",
        "garbage.gz": "damaged gzip",
        "bomb.gz": "larger than 1 MiB",
        "large": "larger than 1 MiB",
        ".": "not a regular file",
    }
    for name, error in want.items():
        (got,) = _read(tmp_path / name)
        assert got.error is not None and got.error.startswith(error), name


def test_a_bomb_in_an_mbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saved_mail, "MAX_UNPACKED_BYTES", 1 << 20)
    line = b"From a@b.example Tue Oct  1 10:36:56 2002\n"
    (tmp_path / "box.gz").write_bytes(gzip.compress(line + b"x: y\n" * 1_000_000))
    assert [g.error for g in _read(tmp_path / "box.gz")] == ["unpacks to more than 1 MiB"]


def test_unreadable(tmp_path: Path) -> None:
    file = tmp_path / "x.eml"
    file.write_bytes(MESSAGE)
    file.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)  # root reads everything: look as nobody does
    try:
        got = _read(file)
    finally:
        if root:
            os.seteuid(0)
    assert [g.error for g in got] == ["Permission denied"]


# What Postfix makes of a message: fields and body.
PARSED: list[tuple[str, bytes, list[tuple[bytes, bytes]], bytes]] = [
    ("folding", b"A: b\r\n\tc\r\n\r\nbody", [(b"A", b" b\n\tc")], b"body"),
    ("space before the colon", b"A : b\r\n\r\n", [(b"A", b" b")], b""),
    ("an 8-bit name ends the header", b"A: b\r\n\xe9: c\r\n\r\n", [(b"A", b" b")],
     b"\xe9: c\r\n\r\n"),
    ("no header at all", b"just text\r\n", [], b"just text\r\n"),
    ("a separator becomes a field", b">From x\r\nA: b\r\n\r\n",
     [(b"X-Mailbox-Line", b" >From x"), (b"A", b" b")], b""),
    ("starts with a fold", b" x\r\nA: b\r\n\r\n", [], b" x\r\nA: b\r\n\r\n"),
    ("header only", b"A: b\r\n", [(b"A", b" b")], b""),
    ("a NUL in a name", b"A: b\r\nC\0: d\r\n", [(b"A", b" b")], b"C\0: d\r\n"),
]  # fmt: skip


@pytest.mark.parametrize(("what", "raw", "fields", "body"), PARSED, ids=[p[0] for p in PARSED])
def test_parse(what: str, raw: bytes, fields: list[tuple[bytes, bytes]], body: bytes) -> None:
    got, rest = parse(raw)
    assert ([(f.name, f.value) for f in got], rest) == (fields, body)


def test_drop() -> None:
    got, _ = parse(b"Return-Path: <a>\r\nbcc: x\r\nA: b\r\n\r\n", ("return-path", "bcc"))
    assert [f.name for f in got] == [b"A"]


A = arrival.Arrival
DATE = b"Fri, 20 Nov 2026 10:00:01 +0000"
RECEIVED: list[tuple[str, bytes, arrival.Arrival]] = [
    (
        "Postfix",
        b" from helo.example (name.example [192.0.2.7])\n\tby mx.example (Postfix) with ESMTPS"
        b" id 4F3D\n\tfor <user@home.example>; Fri, 20 Nov 2026 10:00:00 +0100 (CET)",
        A("192.0.2.7", "name.example", "helo.example", None, ("user@home.example",), 1795165200.0),
    ),
    (
        "Postfix without a name, IPv6, HELO is an address literal",
        b" from [10.0.0.9] (unknown [IPv6:2001:db8::7])\n\tby mx.example (Postfix) id 1; x",
        A("2001:db8::7", None, "[10.0.0.9]"),
    ),
    (
        "Exim with a name",
        b" from name.example ([2001:db8::9])\n\tby mx.example with esmtp (Exim 4.96)\n\t"
        b"(envelope-from <a@b.example>)\n\tid 1QFOdo-0001zq-E9\n\tfor c@d.example; "
        b"Fri, 20 Nov 2026 09:00:00 +0000",
        A("2001:db8::9", "name.example", "name.example", "a@b.example", ("c@d.example",),
          1795165200.0),
    ),
    (
        "Exim without a name",
        b" from [192.0.2.7] (helo=helo.example)\n\tby mx.example with smtp id 1; x",
        A("192.0.2.7", None, "helo.example"),
    ),
    (
        "qmail",
        b" from unknown (HELO helo.example) (192.0.2.7)\n  by mx.example with SMTP; "
        b"20 Nov 2026 09:00:00 -0000",
        A("192.0.2.7", None, "helo.example", None, (), 1795165200.0),
    ),
    (
        "Sendmail",
        b" from helo.example (name.example [192.0.2.7] (may be forged))\n\tby mx.example"
        b" (8.17/8.17) with ESMTP id x; x",
        A("192.0.2.7", "name.example", "helo.example"),
    ),
    ("IPv4-mapped", b" from h.example (n.example [::ffff:192.0.2.7]) by x; x",
     A("192.0.2.7", "n.example", "h.example")),
    ("an address after by is not the client's", b" from h.example by mx ([192.0.2.1]); x", A()),
    ("nothing to read", b" (qmail 7 invoked by uid 0); x", A()),
    ("empty", b"", A()),
]  # fmt: skip


@pytest.mark.parametrize(("what", "value", "want"), RECEIVED, ids=[r[0] for r in RECEIVED])
def test_received(what: str, value: bytes, want: arrival.Arrival) -> None:
    assert arrival.read_received(value) == want


def test_arrival_prefers_the_newest_hop_with_a_client() -> None:
    fields = [
        Field(b"Return-Path", b" <bounce@b.example>"),
        Field(b"Delivered-To", b" user@home.example"),
        Field(b"Received", b" by mx.example (Postfix) id 2; Fri, 20 Nov 2026 10:00:01 +0000"),
        Field(b"Received", b" from h.example (n.example [192.0.2.7]) by mx.example; x"),
        Field(b"Received", b" from old.example (o.example [192.0.2.8]) by h.example; x"),
    ]
    got = arrival.arrival(fields)
    assert got == A(
        "192.0.2.7", "n.example", "h.example", "bounce@b.example", ("user@home.example",),
        1795168801.0,
    )  # fmt: skip


def test_a_hop_below_a_signature_is_not_the_receipt() -> None:
    received = Field(b"Received", b" from h.example (n.example [192.0.2.7]) by mx; " + DATE)
    signature = Field(b"DKIM-Signature", b" v=1; t=1795168900")
    assert arrival.arrival([signature, received]).at is None
    assert arrival.arrival([received, signature]).at == 1795168801.0


def test_hostile_received_is_quick() -> None:
    for piece in (b"(", b"((", b"a ", b"from ", b"for <", b"1.1.1.", b"::", b"\\"):
        arrival.read_received(b" from " + piece * 20_000)


@pytest.mark.parametrize(
    "text",
    [
        '{"at": 1e30}', '{"at": NaN}', '{"at": "now"}', '{"at": true}', '{"at": -1}',
        '{"sender": ["a@sender.example"]}', '{"helo": 1}', '{"client": 5}',
        '{"client": {"address": 5}}', '{"client": {"port": 70000}}', '{"client": {"name": []}}',
        '{"recipients": "a@home.example"}', '{"recipients": [1]}', '{"recipients": [{}]}',
        '{"dns": []}', '{"envelope": 1}', '{"envelope": {"at": "x"}}',
        '{"envelope": {"client": {"helo": 1}}}',
    ],
)  # fmt: skip
def test_a_wrong_value_in_a_sidecar_is_no_guess(tmp_path: Path, text: str) -> None:
    """It names the file, the key and what is wanted, and the message is not replayed."""
    (tmp_path / "x.eml").write_bytes(b"From: a@sender.example\n\nx\n")
    (tmp_path / "x.json").write_text(text)
    (found,) = _read(tmp_path / "x.eml")
    assert re.fullmatch(r"sidecar x\.json: [a-z.]+: want .+, got .+", found.error or "")
    key = re.findall(r'"([a-z]+)"', text)[0]
    (tmp_path / "x.json").write_text(json.dumps({key: None}))  # not given
    assert _read(tmp_path / "x.eml")[0].error is None
