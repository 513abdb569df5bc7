"""What must not break the milter: sessions, headers, octets, exceptions (real daemon)."""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import Daemon
from fix_milter import CaseDaemon
from gatepost_milter.mta import client, wire
from gatepost_milter.mta.envelope import Envelope
from gatepost_policy import journal
from ports import free_port

pytestmark = [pytest.mark.slow, pytest.mark.milter]
MESSAGE = b"From: a@example.org\r\nSubject: x\r\n\r\nHello\r\n"
SUBMISSION = Envelope(client="192.0.2.77", helo="canary-helo.example", login="canary-login",
                      sender="alice@example.org", daemon_name="ORIGINATING")  # fmt: skip

PRELUDE = """
import pathlib, sys
from gatepost_milter.engine import daemon, dialogue, libmilter
from gatepost_milter.filter import gate, session
flag = pathlib.Path(sys.argv[-1]).parent / "fault"

def armed(stage):
    return flag.exists() and flag.read_text() == stage

def broken(stage, function):
    def wrapped(*args, **more):
        if armed(stage):
            raise RuntimeError("canary-error %s")
        return function(*args, **more)
    return wrapped

def counted(thing):
    # One engine hands fields over one by one, the other all that came together.
    if armed(sys._getframe(1).f_code.co_name.removesuffix("s")):
        raise RuntimeError("canary-error")
    return len(thing)

session.client_of = broken("connect", session.client_of)
session.whose_mail = broken("mail", session.whose_mail)
session.Recipient = broken("rcpt", session.Recipient)
session.len = counted
gate.Gate.begin = broken("eoh", gate.Gate.begin)
gate.Gate.finish = broken("eom", gate.Gate.finish)
gate.Gate.write_down = broken("record", gate.Gate.write_down)
libmilter.carry_out = broken("reply", libmilter.carry_out)
dialogue._encoded = broken("reply", dialogue._encoded)
gate.Gate.refused_recipients = broken("abort", gate.Gate.refused_recipients)
sys.exit(daemon.main())
"""


@pytest.fixture(scope="module")
def brittle(
    milter_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, str]]:
    """A daemon in which the file `fault` names the callback that fails."""
    home = tmp_path_factory.mktemp("brittle")
    place = f"unix:{home}/m.sock"
    config = (
        f'[milter]\nsocket = "{place}"\nworkers = 1\n[log]\nformat = "json"\n'
        f'[store]\nurl = "sqlite:///{home}/gatepost.sqlite"\n'
    )
    daemon = Daemon(config, home=home, prelude=PRELUDE)
    yield daemon, place
    daemon.stop()


@pytest.mark.parametrize(
    ("stage", "direction", "want"),
    [
        ("connect", "inbound", "accept"),
        ("mail", "inbound", "accept"),
        ("rcpt", "inbound", "accept"),
        ("header", "inbound", "accept"),
        ("eoh", "inbound", "accept"),
        ("body", "inbound", "accept"),
        ("eom", "inbound", "accept"),
        ("record", "inbound", "accept"),
        ("reply", "inbound", "accept"),
        ("connect", "submission", "tempfail"),
        ("mail", "submission", "tempfail"),
        ("rcpt", "submission", "tempfail"),
        ("header", "submission", "tempfail"),
        ("eom", "submission", "tempfail"),
        ("record", "submission", "tempfail"),
        ("reply", "submission", "tempfail"),
    ],
)
def test_exception_in_a_callback(
    brittle: tuple[Daemon, str], stage: str, direction: str, want: str
) -> None:
    """The stance of the direction, a neutral reply, one line that names the place and no data."""
    daemon, place = brittle
    envelope = SUBMISSION if direction == "submission" else Envelope()
    fault = daemon.home / "fault"
    before = len(daemon.text())
    fault.write_text(stage)
    try:
        got = client.send(place, MESSAGE, envelope=envelope)
    finally:
        fault.unlink()
    assert got.action == want
    if want == "tempfail" and stage != "reply":
        assert got.reply == "451 4.3.0 Temporary local problem, please try again later"
    lines = [json.loads(x) for x in daemon.text()[before:].splitlines()]
    said = [x["stage"] for x in lines if x.get("event") == "exception"]
    assert said[0] in (stage, "body", "eom")
    assert "canary" not in daemon.text()
    # The next message knows nothing of it.
    assert client.send(place, MESSAGE, envelope=envelope).action == "accept"


def test_exception_while_aborting(brittle: tuple[Daemon, str]) -> None:
    """Nobody waits for an answer then: the session goes on."""
    daemon, place = brittle
    fault = daemon.home / "fault"
    envelope = Envelope(rejected=("nobody@example.net",), recipients=())
    with client.Session(place, envelope) as session:
        fault.write_text("abort")
        try:
            session.send(MESSAGE)
            assert session.send(MESSAGE, Envelope()).action == "accept"
        finally:
            fault.unlink()


@pytest.fixture
def played(case_daemon: CaseDaemon) -> Callable[[], list[dict[str, Any]]]:
    """A daemon with the defaults; the call gives what it has journaled since."""
    case_daemon.configure("")
    directory = case_daemon.home / "journal"
    old = len(_records(directory))
    return lambda: _records(directory)[old:]


def _records(directory: Path) -> list[dict[str, Any]]:
    found = [p for path in journal.segments(directory) for p in journal.read(path, 0)]
    return [p.data for p in found if p.data is not None]


def test_state_ends_with_the_message(
    case_daemon: CaseDaemon, played: Callable[[], list[dict[str, Any]]]
) -> None:
    """Several messages, RSET, a lost connection: one record a finished message, nothing mixed."""
    place = case_daemon.socket
    first = Envelope(sender="one@example.org", recipients=("first@example.net",))
    second = Envelope(sender="two@example.org", recipients=("second@example.net",))
    with client.Session(place, first) as session:
        assert session.send(b"From: x@one.example\r\nMessage-ID: <1@one>\r\n\r\n1\r\n").message
        session.mail(first)
        session.rcpt("never@example.net")
        session.rset()
        session.rset()
        assert session.send(b"Subject: none\r\n\r\n22\r\n", second).message
        session.mail(first)
        session.rcpt("never@example.net")
    with client.Session(place, first) as session:
        session.mail(first)
        session.rcpt("never@example.net")
        assert session.milter is not None
        session.milter.wire.flush()
        session.milter.wire.close()  # in the middle of the transaction
    got = played()
    assert [r["sender"] for r in got] == ["one@example.org", "two@example.org"]
    assert [r["message_id"] for r in got] == ["<1@one>", None]
    assert [r["header_from"] for r in got] == ["x@one.example", None]
    assert [[x["address"] for x in r["recipients"]] for r in got] == [
        ["first@example.net"], ["second@example.net"]
    ]  # fmt: skip
    assert "never@" not in json.dumps(got)


def test_authentication_does_not_outlive_the_message(case_daemon: CaseDaemon) -> None:
    """A login on one message of a connection says nothing about the next."""
    case_daemon.configure("")
    with client.Session(case_daemon.socket, Envelope()) as session:
        ours = session.send(MESSAGE, Envelope(login="alice"))
        theirs = session.send(MESSAGE, Envelope())
    assert ours.edits[0].name == "Received"
    assert theirs.edits[0].name == "Authentication-Results"


@pytest.mark.parametrize(
    "helo",
    [b"caf\xe9.example", b"x" * 4096, b"", b"a\x1b[31m\nid=forged action=accept", b"[192.0.2.1]"],
    ids=["latin-1", "4 KB", "empty", "escapes", "literal"],
)
def test_any_helo(
    case_daemon: CaseDaemon, played: Callable[[], list[dict[str, Any]]], helo: bytes
) -> None:
    """A HELO that pymilter cannot decode is not known; every other is kept, 998 characters of it at
    most, and logged nowhere."""
    before = len(case_daemon.process.text())
    got = client.send(case_daemon.socket, MESSAGE, helo=helo)
    assert got.action == "accept"
    (record,) = played()
    assert record["client"]["helo"] in (None, helo.decode("utf-8", "replace")[:998])
    lines = case_daemon.process.text()[before:].splitlines()
    assert [json.loads(x)["action"] for x in lines if '"reason"' in x] == ["accept"]


@pytest.mark.parametrize(
    "sender",
    ["", "postmaster", '"a b"@example.org', '"a@b"@example.org', "@x.example:a@example.org",
     "a" * 300 + "@example.org", "caf\u00e9@xn--exmple-cua.example", "x\u202e\u001b[2J@example.org",
     "a\nid=forged@example.org", "%s%n@example.org"],
)  # fmt: skip
def test_any_sender(
    case_daemon: CaseDaemon, played: Callable[[], list[dict[str, Any]]], sender: str
) -> None:
    """Recorded as it came; one line of plain ASCII in the log."""
    before = len(case_daemon.process.text())
    got = client.send(case_daemon.socket, MESSAGE, sender=sender, sender_args=("SMTPUTF8",))
    assert got.action == "accept"
    (record,) = played()
    assert record["sender"] == sender
    (line,) = [x for x in case_daemon.process.text()[before:].splitlines() if x]
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line)["from"] == f"<{sender}>"


BIG = 5_000_000


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\r\nno header\r\n", "no-bad-signal"),
        (b"Subject: no body\r\n\r\n", "no-bad-signal"),
        (b"Subject: no empty line\r\n", "no-bad-signal"),
        (b"", "no-bad-signal"),
        (b"Subject: x\r\n\r\n" + b"a" * BIG, "no-bad-signal"),
        (b"Subject: x\r\n\r\n" + b"\r\n" * 1_000_000, "no-bad-signal"),
        (b"Subject: x\r\n\r\n.\r\n..\r\n\0\x80\xff", "no-bad-signal"),
        (b"X: y\r\n" * 20_000 + b"From: a@b.example\r\n\tz\r\n\r\nbody\r\n", "unscanned"),
        (b"X: " + b"y" * 59_000 + b"\r\n\r\n", "no-bad-signal"),
        ((b"X: " + b"y" * 59_000 + b"\r\n\tz\r\n") * 20 + b"\r\nbody\r\n", "unscanned"),
        (b"X" * 2000 + b": long name\r\n\r\n", "no-bad-signal"),
        (b"From: a@b.example\r\nFrom: c@d.example\r\n\r\n", "no-bad-signal"),
        (b"From: a@b.example, c@d.example\r\n\r\n", "no-bad-signal"),
        (b"From: =?utf-8?q?=00?= <x@=?utf-8?q?evil?=>\r\n\r\n", "no-bad-signal"),
        (b"Subject: \x80\xfe a\rb %s%n \x1b[31m\r\nDate: \xe2\x80\xae\r\n\r\n", "no-bad-signal"),
        (b"DKIM-Signature:\r\nDKIM-Signature: ;;;\r\nDKIM-Signature: d\r\n\r\n", "no-bad-signal"),
    ],
    ids=lambda x: x if isinstance(x, str) else f"{len(x)}-{x[:12]!r}",
)
def test_any_message(
    case_daemon: CaseDaemon,
    played: Callable[[], list[dict[str, Any]]],
    message: bytes,
    reason: str,
) -> None:
    """Accepted, recorded once, its size counted; only our own field is added."""
    got = client.send(case_daemon.socket, message, envelope=Envelope())
    assert got.action == "accept"
    assert [e.name for e in got.edits] == ["Authentication-Results"]
    nothing = (got.edits[0].value or "").endswith(";\n\tnone")
    assert nothing == (reason == "unscanned")
    (record,) = played()
    assert record["reason"] == reason
    if reason == "unscanned":
        assert record["header_from"] is None
    _, _, sent = got.queued.partition(b"\r\n")
    while sent[:1] in (b" ", b"\t"):
        _, _, sent = sent.partition(b"\r\n")
    assert record["size"] == len(sent)  # without our own Received


def test_submission_body_is_skipped(case_daemon: CaseDaemon) -> None:
    """Nobody looks at it: the MTA need not send 50 MB."""
    case_daemon.configure("")
    got = client.send(case_daemon.socket, b"Subject: x\r\n\r\n" + b"a" * BIG, envelope=SUBMISSION)
    assert got.action == "accept"
    assert got.message.endswith(b"a" * BIG + b"\r\n")


def test_many_connections_at_once(
    case_daemon: CaseDaemon, played: Callable[[], list[dict[str, Any]]]
) -> None:
    """500 sessions open together, a message in each: every one is answered and recorded."""
    sessions = [client.Session(case_daemon.socket, Envelope()) for _ in range(500)]
    for session in sessions:
        session.mail(session.envelope)
        session.rcpt("recipient@example.net")
    failed: list[str] = []

    def finish(mine: list[client.Session]) -> None:
        failed.extend(s.data(MESSAGE).action for s in mine)

    threads = [threading.Thread(target=finish, args=(sessions[n::20],)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    assert failed == ["accept"] * 500
    assert len(played()) == 500


def test_monitoring_connects(case_daemon: CaseDaemon) -> None:
    """A connection that says nothing, one that says nonsense, one that only greets."""
    import socket

    case_daemon.configure("")
    path = case_daemon.socket.removeprefix("unix:")
    for words in (b"", b"GET / HTTP/1.0\r\n\r\n", b"\0\0\0\1O", b"\xff" * 64):
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(path)
            probe.sendall(words)
    with client.Session(case_daemon.socket, Envelope()) as session:
        session._open()
    assert client.send(case_daemon.socket, MESSAGE).action == "accept"


@pytest.mark.slow
def test_no_header_or_no_body_over_tcp(tmp_path: Path) -> None:
    """libmilter takes no body right after DATA: without an end of header it never answers."""
    config = '[milter]\nsocket = "inet:{port}@127.0.0.1"\nworkers = 1\n[store]\n'
    with Daemon(config + 'url = "sqlite:///{dir}/gatepost.sqlite"\n', home=tmp_path) as daemon:
        place = f"inet:{daemon.port}@127.0.0.1"
        for message in (b"\nbody\n", b"body\n", b"\n", b"Subject: x\n", MESSAGE):
            for login in (None, "alice"):
                sent = client.send(place, message, login=login, timeout=20)
                assert sent.action == "accept"


@pytest.mark.crash
def test_descriptors_run_out(tmp_path: Path) -> None:
    """With no descriptor left new sessions wait; as soon as there are some, mail flows again."""
    place = f"inet:{free_port()}@127.0.0.1"
    config = (
        f'[milter]\nsocket = "{place}"\nworkers = 1\n[store]\n'
        'url = "sqlite:///{dir}/gatepost.sqlite"\n'
    )
    limits = "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
    run = "from gatepost_milter.engine import daemon; sys.exit(daemon.main())"
    daemon = Daemon(config, home=tmp_path, prelude=limits + run)
    try:
        crowd = [client.Session(place, Envelope(), timeout=5) for _ in range(60)]
        held = 0
        for session in crowd:
            try:
                session._open()
                held += 1
            except wire.ProtocolError:
                break
        assert 5 < held < 60
        for session in crowd[:held]:
            session.close()
        end = time.monotonic() + 60
        while True:
            try:
                assert client.send(place, MESSAGE).action == "accept"
                break
            except wire.ProtocolError:
                assert time.monotonic() < end
        daemon.child.send_signal(signal.SIGTERM)
        assert daemon.child.wait(60) == 0
    finally:
        daemon.stop()


def test_copy_of_trap_mail(case_daemon: CaseDaemon, tmp_path: Path) -> None:
    """Octet for octet as it came, with its envelope beside it; nothing of other mail."""
    case_daemon.configure(f'[trap]\ncapture = "{tmp_path}/kept"\n')
    message = b"From: a@example.org\r\nSubject:  x\r\n\ty\r\n\r\nHello\r\n\x80\xff\r\n"
    trap = Envelope(sender="spam@example.com", recipients=("trap@example.net",))
    assert client.send(case_daemon.socket, message, envelope=trap).action == "reject"
    assert client.send(case_daemon.socket, message, envelope=Envelope()).action == "accept"
    with client.Session(case_daemon.socket, trap) as session:
        session.mail(trap)
        session.rcpt("trap@example.net")  # and never a message
    (kept,) = (tmp_path / "kept").glob("*.eml")
    assert kept.read_bytes() == message
    beside = json.loads(kept.with_suffix(".json").read_text())
    assert beside["envelope"]["recipients"][0]["trap"] is True
    assert sorted(p.suffix for p in (tmp_path / "kept").iterdir()) == [".eml", ".json"]
    case_daemon.configure("")
