"""The milter's life: start, reload, the death of a worker or of the parent, the end."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import BIN, Daemon
from from_table import from_table
from gatepost_milter.mta import client, envelope
from gatepost_policy import journal, store, traps
from gatepost_policy.config.settings import Settings
from ports import free_port

pytestmark = [pytest.mark.milter, pytest.mark.slow]

CONFIG = """
[milter]
socket = "{socket}"
workers = 2
drain = "60s"
[store]
url = "sqlite:///{dir}/state/gatepost.sqlite"
[log]
format = "json"
"""
MESSAGE = b"From: a@example.org\r\nSubject: x\r\n\r\nHello\r\n"
PATIENCE_S = 60


def start(tmp_path: Path, kind: str = "unix", more: str = "") -> tuple[Daemon, str]:
    """A daemon and its socket in libmilter's notation."""
    place = f"unix:{tmp_path}/m.sock" if kind == "unix" else f"inet:{free_port()}@127.0.0.1"
    daemon = Daemon(CONFIG.replace("{socket}", place) + more, home=tmp_path)
    STARTED.append(daemon)
    return daemon, place


STARTED: list[Daemon] = []


@pytest.fixture(autouse=True, scope="module")
def nothing_left() -> Iterator[None]:
    """End what a failed test has left."""
    yield
    for daemon in STARTED:
        daemon.stop()


def deliver(place: str, **fields: Any) -> client.Result:
    return client.send(place, MESSAGE, **fields)


def children(pid: int) -> list[int]:
    """The children of `pid` that are alive."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [child for child in map(int, text.split()) if alive(child)]


def alive(pid: int) -> bool:
    """True for a process that runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: object, what: str) -> None:
    assert callable(condition)
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def half_a_message(place: str) -> client.Session:
    """A session whose message has begun: MAIL and RCPT are done."""
    session = client.Session(place, envelope.Envelope())
    assert session.mail(session.envelope) is None
    session.rcpt("recipient@example.net")
    assert session.milter is not None
    session.milter.wire.flush()  # nothing of this is answered: it would wait for the message
    return session


def log_lines(daemon: Daemon) -> list[dict[str, object]]:
    return [json.loads(x) for x in daemon.text().splitlines() if x.startswith("{")]


@pytest.mark.parametrize("kind", ["unix", "inet"])
def test_start_kill_restart_stop(tmp_path: Path, kind: str) -> None:
    """kill -9 of the parent leaves nobody, the next start works at once, TERM ends it."""
    daemon, place = start(tmp_path, kind)
    assert daemon.text().count("ready") == 1
    assert "smtpd_milters = { " in daemon.text()
    assert "default_action=tempfail } -o milter_macro_daemon_name=ORIGINATING" in daemon.text()
    assert deliver(place).action == "accept"
    workers = children(daemon.child.pid)
    assert len(workers) == 3  # and the recorder
    session = half_a_message(place)
    daemon.child.kill()
    daemon.child.wait()
    # At once: the worker with the open message is still there, and holds no port.
    daemon.output.unlink()
    second = Daemon(daemon.config.read_text(), home=tmp_path)
    try:
        assert second.text().count("ready") == 1
        assert session.data(MESSAGE).action == "accept"  # the old worker finished it
        session.close()
        wait_until(lambda: not any(alive(w) for w in workers), "orphans")
        assert deliver(place).action == "accept"
        if kind == "unix":
            assert (tmp_path / "m.sock").stat().st_mode & 0o777 == 0o660
        second.child.send_signal(signal.SIGTERM)
        assert second.child.wait(PATIENCE_S) == 0
    finally:
        second.stop()
    assert not (tmp_path / "m.sock").exists()
    assert records(tmp_path) == 0  # the recorder took in the last words before it left


def records(home: Path) -> int:
    """Journal records that nobody has ingested."""
    found = journal.segments(home / "state" / "journal")
    return sum(1 for path in found for _ in journal.read(path, 0))


def test_interrupt_of_the_whole_group(tmp_path: Path) -> None:
    """Ctrl-C reaches the workers as well; the parent alone decides when they leave."""
    daemon, place = start(tmp_path)
    session = half_a_message(place)
    daemon.signal(signal.SIGINT)
    assert session.data(MESSAGE).action == "accept"
    assert daemon.child.wait(PATIENCE_S) == 0
    assert session.milter is not None
    session.milter.wire.close()


def test_term_drains_fifty_sessions(tmp_path: Path) -> None:
    """Every message that had begun gets its answer, and is in the store."""
    daemon, place = start(tmp_path)
    sessions = [half_a_message(place) for _ in range(50)]
    daemon.child.send_signal(signal.SIGTERM)
    got = [session.data(MESSAGE).action for session in sessions]
    assert got == ["accept"] * 50
    assert daemon.child.wait(PATIENCE_S) == 0
    assert stored(tmp_path) == 50


def stored(home: Path) -> int:
    import sqlite3

    with sqlite3.connect(home / "state" / "gatepost.sqlite") as connection:
        return int(connection.execute("SELECT count(*) FROM message").fetchone()[0])


@pytest.fixture(scope="module")
def service(
    milter_engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Daemon, str]]:
    """A daemon for the tests that leave it running."""
    daemon, place = start(tmp_path_factory.mktemp("life"))
    yield daemon, place
    daemon.stop()


def test_dead_worker_is_replaced(service: tuple[Daemon, str]) -> None:
    """Each child in turn, the recorder included."""
    daemon, place = service
    time.sleep(1.1)  # a child that dies within its first second is replaced after a pause
    for child in children(daemon.child.pid):
        before = set(children(daemon.child.pid))
        os.kill(child, signal.SIGKILL)
        wait_until(
            lambda before=before: len(set(children(daemon.child.pid)) - before) == 1, "no heir"
        )
    wait_until(lambda: len(children(daemon.child.pid)) == 3, "not all there")
    assert deliver(place).action == "accept"
    assert [x for x in log_lines(daemon) if x.get("event") == "child-died"]


def test_workers_ignore_signals_of_their_own(service: tuple[Daemon, str]) -> None:
    """Only the parent tells a worker to leave: libmilter's own handling takes seconds."""
    daemon, place = service
    before = children(daemon.child.pid)
    for child in before:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(child, number)
    assert deliver(place).action == "accept"
    assert children(daemon.child.pid) == before


def test_reload(service: tuple[Daemon, str]) -> None:
    """HUP: new settings for new sessions; a session in the middle keeps its worker."""
    daemon, place = service
    session = half_a_message(place)
    good = daemon.config.read_text()
    listener = 'daemon_names = ["SUBMIT"]'
    daemon.config.write_text(good + f"\n[submission]\n{listener}\n")
    old = set(children(daemon.child.pid))
    reload(daemon)
    assert deliver(place, daemon_name="SUBMIT").edits[0].name == "Received"
    assert session.data(MESSAGE).action == "accept"
    session.close()
    wait_until(lambda: not old & set(children(daemon.child.pid)), "the old generation stays")
    daemon.config.write_text(good)
    reload(daemon)
    assert deliver(place, daemon_name="SUBMIT").edits[0].name == "Authentication-Results"


def reload(daemon: Daemon) -> None:
    before = daemon.text().count('"reloaded"')
    daemon.child.send_signal(signal.SIGHUP)
    wait_until(lambda: daemon.text().count('"reloaded"') > before, "no reload")


def test_reload_with_a_broken_file(service: tuple[Daemon, str]) -> None:
    """The old configuration stays, and one line names file and key."""
    daemon, place = service
    good = daemon.config.read_text()
    wait_until(lambda: len(children(daemon.child.pid)) == 3, "an old one has not left")
    before = children(daemon.child.pid)
    daemon.config.write_text(good + "\n[submission]\ndaemon_nmes = []\n")
    daemon.child.send_signal(signal.SIGHUP)
    wait_until(lambda: "reload-refused" in daemon.text(), "nothing said")
    line = next(x for x in log_lines(daemon) if x.get("event") == "reload-refused")
    assert str(daemon.config) in str(line["error"])
    assert "daemon_nmes" in str(line["error"])
    assert children(daemon.child.pid) == before
    assert deliver(place).action == "accept"
    daemon.config.write_text(good)


def run(*arguments: str, config: str = "", tmp_path: Path) -> tuple[int, str]:
    path = tmp_path / "other.toml"
    path.write_text(config)
    done = subprocess.run(
        [BIN / "gatepost-milter", "--config", path, *arguments],
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr


def milter_socket(place: str) -> str:
    return f'[milter]\nsocket = "{place}"\n[store]\nurl = "sqlite:////nowhere/x.sqlite"\n'


def test_the_first_message_meets_the_traps(tmp_path: Path) -> None:
    """A trap that was made while nothing ran is one when the service is ready."""
    url = f"sqlite:///{tmp_path}/state/gatepost.sqlite"
    settings = from_table(Settings, {"store": {"url": url}})
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.net", at=time.time())
    engine.dispose()
    daemon, place = start(tmp_path)
    try:
        sent = deliver(place, recipients=["trap@example.net"])
        assert (sent.action, sent.stage) == ("reject", "end")
    finally:
        daemon.stop()


def test_socket_that_cannot_be_had(service: tuple[Daemon, str], tmp_path: Path) -> None:
    """One clear line and exit status 3."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (tmp_path / "file").touch()
        for place, words in (
            (f"inet:{taken.getsockname()[1]}@127.0.0.1", "port is in use"),
            ("inet:7@192.0.2.1", "Cannot assign requested address"),
            (service[1], "another process answers on it"),
            (f"unix:{tmp_path}/none/m.sock", "no directory"),
            (f"unix:{tmp_path}/file", "it is no socket"),
        ):
            status, text = run(config=milter_socket(place), tmp_path=tmp_path)
            assert (status, text.count("\n")) == (3, 1), text
            assert words in text
            assert place in text


def test_bad_configuration(tmp_path: Path) -> None:
    """Exit status 2 and one line; a wrong option too."""
    status, text = run(config="[milter]\nsokcet = 1\n", tmp_path=tmp_path)
    assert (status, text.count("\n")) == (2, 1), text
    assert 'did you mean "socket"' in text
    status, text = run("--nonsense", tmp_path=tmp_path)
    assert status == 2


def test_unknown_group(tmp_path: Path) -> None:
    """The socket is not left behind for somebody else to open."""
    place = f"unix:{tmp_path}/m.sock"
    config = milter_socket(place).replace("[store]", 'socket_group = "no-such-group"\n[store]')
    status, text = run(config=config, tmp_path=tmp_path)
    assert status == 3
    assert "no group 'no-such-group'" in text
    assert not (tmp_path / "m.sock").exists()


def test_listening_socket(milter_engine: str) -> None:
    """Non-blocking, because workers race for it; TCP_NODELAY, which accepted sockets inherit."""
    script = (
        "import socket, os\n"
        "from gatepost_milter.engine import engines, listener\n"
        "from gatepost_policy.config.settings import Settings, Milter\n"
        f"s = Settings(milter=Milter(socket='inet:{free_port()}@127.0.0.1'))\n"
        f"o = listener.open_listener(s, engines.load({milter_engine!r}).open_socket)\n"
        "d = socket.socket(fileno=os.dup(o.descriptor))\n"
        "print(os.get_blocking(o.descriptor), d.getsockopt(6, socket.TCP_NODELAY) != 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          check=True)  # fmt: skip
    assert done.stdout.split() == ["False", "True"]


def test_stale_socket_and_wrong_mode(tmp_path: Path) -> None:
    """A socket that nobody answers on is replaced, whatever its mode."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "m.sock"))
    (tmp_path / "m.sock").chmod(0)
    daemon, place = start(tmp_path)
    try:
        assert deliver(place).action == "accept"
    finally:
        daemon.stop()


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ready once the socket answers, reloading and ready again, stopping; sd_notify(3)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        daemon, place = start(tmp_path)

        def heard() -> str:
            return manager.recv(4096).decode().partition("\n")[0]

        assert heard() == "READY=1"
        assert deliver(place).action == "accept"
        reload(daemon)
        assert [heard(), heard()] == ["RELOADING=1", "READY=1"]
        daemon.child.send_signal(signal.SIGTERM)
        assert heard() == "STOPPING=1"
        assert daemon.child.wait(PATIENCE_S) == 0


CANARIES = ("203.0.113.77", "canary-host.example", "canary-helo", "canary-login", "47111",
            "canary-mid.local", "canary-laptop")  # fmt: skip


@pytest.mark.parametrize("kept", ["counts", "full"])
def test_submissions_leave_no_trace(tmp_path: Path, kept: str) -> None:
    """Nothing of a submission's client is in any file that gatepost wrote, sent or refused."""
    place = f"unix:{tmp_path}/m.sock"
    config = CONFIG.replace("{socket}", place)
    config = config.replace("[store]\n", f'[store]\nsubmission = "{kept}"\n')
    config += '[submission]\nnetworks = ["203.0.113.77/32"]\n'
    daemon = Daemon(config, home=tmp_path)
    STARTED.append(daemon)
    message = (
        b"Received: from canary-laptop ([203.0.113.77]) by x; Tue, 14 Nov 2023 22:13:20 +0000\r\n"
        b"Message-ID: <1@canary-mid.local>\r\nX-Mailer: canary-laptop\r\nFrom: a@example.org\r\n"
    )
    ours: dict[str, Any] = {"client": "203.0.113.77", "client_name": "canary-host.example",
                            "port": 47111,
                            "helo": "canary-helo", "sender": "alice@example.org"}  # fmt: skip
    login = {**ours, "login": "canary-login"}
    sent = [
        client.send(place, message + b"\r\nx\r\n", **login),
        client.send(place, message + b"\r\nx\r\n", **ours),
        client.send(place, message + b"\r\nx\r\n", version="Sendmail 8", **login),
        client.send(place, message + b"X: y\r\n" * 6000 + b"\r\nx\r\n", **login),
    ]
    assert [s.action for s in sent] == ["accept", "accept", "tempfail", "reject"]
    for result in sent[:2]:
        for canary in (c for c in CANARIES if c != "canary-mid.local"):
            assert canary.encode() not in result.message
    # Inbound mail is recorded with its client: the search finds what is there to be found.
    client.send(place, MESSAGE, client="198.51.100.9", sender="stranger@example.com")
    daemon.child.send_signal(signal.SIGTERM)
    assert daemon.child.wait(PATIENCE_S) == 0
    written = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file() and p != daemon.config}
    for path, data in written.items():
        for canary in CANARIES:
            assert canary.encode() not in data, (path, canary)
    assert any(b"198.51.100.9" in data for data in written.values())
    database = written[tmp_path / "state" / "gatepost.sqlite"]
    assert (b"alice@example.org" in database) == (kept == "full")
