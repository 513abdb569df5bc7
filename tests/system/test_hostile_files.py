"""Sockets, descriptors and standard files that are taken away, missing, or somebody else's."""

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from daemons import BIN
from fix_store import message
from gatepost_policy.journal import record
from gatepost_policy.mail.facts import Spf, SpfCheck

pytestmark = [pytest.mark.slow, pytest.mark.milter]
LIMIT = 64
WEB = (BIN / "milterctl", "--config", "gatepost.toml", "web", "--listen")


class Running:
    """A program of ours, its log in a file."""

    def __init__(self, home: Path, *command: object, prefix: tuple[str, ...] = ()) -> None:
        self.log = home / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [*prefix, *map(str, command)], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                cwd=home, start_new_session=True,
            )  # fmt: skip
        self.until("ready")

    def text(self) -> str:
        return self.log.read_text()

    def until(self, words: str) -> None:
        for _ in range(3_000):
            if words in self.text():
                return
            if self.process.poll() is not None and words not in self.text():
                break
            time.sleep(0.02)
        raise AssertionError(self.text())

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.process.wait(20)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "gatepost.toml").write_text(
        f'[milter]\nsocket = "unix:{tmp_path}/m.sock"\nworkers = 2\n'
        f'[policy]\nlisten = "unix:{tmp_path}/p.sock"\n[store]\nurl = "{tmp_path}/g.sqlite"\n'
    )
    return tmp_path


@pytest.fixture
def started(home: Path) -> Iterator[list[Running]]:
    running: list[Running] = []
    yield running
    for one in running:
        one.end()


def test_web_leaves_other_files_alone(home: Path) -> None:
    precious = home / "precious"
    precious.write_text("precious")
    link = home / "link"
    link.symlink_to(precious)
    for path in (precious, link, home):
        done = subprocess.run(
            [*WEB, f"unix:{path}"], cwd=home,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 3
        assert "it is no socket" in done.stderr
    assert precious.read_text() == "precious"
    assert link.is_symlink()


def test_web_replaces_a_stale_socket_and_not_a_live_one(home: Path, started: list[Running]) -> None:
    path = home / "w.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    command = (*WEB, f"unix:{path}")
    web = Running(home, *command)
    started.append(web)
    done = subprocess.run(command, cwd=home, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3
    assert "another process answers there" in done.stderr
    web.end()
    assert not path.exists()


def test_policyd_makes_a_removed_socket_again(home: Path, started: list[Running]) -> None:
    daemon = Running(home, BIN / "gatepost-policyd", "--config", home / "gatepost.toml")
    started.append(daemon)
    (home / "p.sock").unlink()
    daemon.until("socket-lost")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(home / "p.sock"))
        client.sendall(b"request=smtpd_access_policy\n\n")
        client.settimeout(20)
        assert client.recv(100).startswith(b"action=")
    # Somebody else's is not taken away again at the end.
    (home / "p.sock").unlink()
    (home / "p.sock").write_text("precious")
    daemon.end()
    assert (home / "p.sock").read_text() == "precious"


def test_the_milter_ends_where_nobody_can_reach_it(home: Path, started: list[Running]) -> None:
    daemon = Running(home, BIN / "gatepost-milter", "--config", home / "gatepost.toml")
    started.append(daemon)
    (home / "m.sock").unlink()
    assert daemon.process.wait(30) == 3
    assert "event=socket-lost" in daemon.text()


@pytest.mark.parametrize("program", ["gatepost-milter", "gatepost-policyd"])
def test_out_of_descriptors(home: Path, started: list[Running], program: str) -> None:
    daemon = Running(
        home, BIN / program, "--config", home / "gatepost.toml",
        prefix=("prlimit", f"--nofile={LIMIT}:{LIMIT}"),
    )  # fmt: skip
    started.append(daemon)
    path = str(home / ("m.sock" if "milter" in program else "p.sock"))
    clients = []
    for _ in range(3 * LIMIT):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(2)
        client.connect(path)
        clients.append(client)
    daemon.until("no-descriptors")
    pids = [daemon.process.pid]
    pids += map(int, Path(f"/proc/{pids[0]}/task/{pids[0]}/children").read_text().split())
    before = sum(map(cpu, pids))
    time.sleep(3)
    assert sum(map(cpu, pids)) - before < 1.0, "nobody spins"
    assert "Traceback" not in daemon.text()
    assert len(daemon.text()) < 5_000
    for client in clients:
        client.close()
    # It answers again.
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(5)
            client.connect(path)
            if "milter" in program:
                client.sendall(b"\0\0\0\x0dO\0\0\0\x06\0\0\x01\xff\0\x1f\xff\xff")
            else:
                client.sendall(b"request=smtpd_access_policy\n\n")
            try:
                if client.recv(10):
                    return
            except OSError:
                continue
    raise AssertionError(daemon.text())


def cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&- 2>&-"])
@pytest.mark.parametrize("words", ["report", "trap list", "db current", "--help"])
def test_commands_without_standard_files(home: Path, words: str, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {BIN}/milterctl --config {home}/gatepost.toml {words} {closed}"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    assert done.returncode == 0, done


def test_a_full_device_is_one_line(home: Path) -> None:
    done = subprocess.run(
        ["sh", "-c", f"exec {BIN}/milterctl --config {home}/gatepost.toml report >/dev/full"],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "No space left on device" in done.stderr


def test_what_is_printed_never_gets_into_the_store(home: Path, started: list[Running]) -> None:
    """Started with everything closed: the next file that is opened must not be standard output."""
    (home / "log").write_text("")
    process = subprocess.Popen(
        ["sh", "-c", f"exec {BIN}/gatepost-policyd --config {home}/gatepost.toml 0<&- 1>&- 2>&-"],
        cwd=home, start_new_session=True,
    )  # fmt: skip
    try:
        for _ in range(1_000):
            if (home / "p.sock").exists():
                break
            time.sleep(0.02)
        for number in ("0", "1", "2"):
            assert os.readlink(f"/proc/{process.pid}/fd/{number}") == "/dev/null"
    finally:
        process.terminate()
        process.wait(20)


def test_a_strangers_texts_are_bounded() -> None:
    long = "x" * 60_000
    told = record.read_seen(message(1, sender=f"{long}@s.example", message_id=f"<{long}>"))
    helo = SpfCheck(result="none", domain=long, mechanism=long)
    told = replace(told, facts=replace(told.facts, spf=Spf(helo, helo)))
    kept = record.message(told)
    assert len(kept["message_id"]) == len(kept["sender"]) == record.MAX_TEXT
    assert not re.search("x{1000}", str(kept))
