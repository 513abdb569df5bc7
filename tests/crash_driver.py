"""Feed a real gatepost-milter on many connections, kill -9 parts of it, and keep the books.

A `Feeder` is one MTA connection that sends message after message. It writes down which queue id
it has sent the end of a message for (`asked`) and which were answered (`answered`): what was
answered must be in the store, exactly once; what was asked and not answered may be there, once.
"""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from miltertest import constants

from daemons import BIN, with_engine
from gatepost_milter.mta.conversation import MilterSession
from gatepost_milter.mta.queue_file import Field, QueueFile
from gatepost_milter.mta.wire import ProtocolError, Wire
from gatepost_milter.protocol.peer import Peer
from gatepost_policy import journal
from gatepost_policy.recorder import LOCK
from gatepost_policy.system.socket_address import SocketAddress

CONNECTIONS = 8
PATIENCE_S = 60.0
MESSAGE = (
    b"From: News <news@sender.example>\r\nTo: user@home.example\r\nSubject: %d\r\n"
    b"Message-ID: <%s@sender.example>\r\n\r\nHello.\r\n"
)

OWN = Field(b"Received", b" by mx.home.example (Postfix) id X; Thu, 1 Jan 2026 00:00:00 +0000")


class _Marked(Wire):
    """A wire that says when the end of a message has left."""

    left = False

    def send(self, packet: bytes) -> None:
        super().send(packet)
        if packet[4:5] == constants.SMFIC_BODYEOB.encode():
            self.flush()
            self.left = True


@dataclass
class Books:
    """What the MTA knows, over all rounds."""

    answered: set[str] = field(default_factory=set)
    asked: set[str] = field(default_factory=set)  # the end of the message was sent
    cut: int = 0  # ends of messages that never got an answer

    @property
    def open(self) -> set[str]:
        """Asked, not answered: perhaps recorded, perhaps not."""
        return self.asked - self.answered


class Feeder(threading.Thread):
    """One connection after another from one MTA process, until `stop`."""

    def __init__(self, name: str, socket: str, books: Books) -> None:
        super().__init__(name=name, daemon=True)
        self.socket = SocketAddress.parse(socket)
        self.books = books
        self.stop = threading.Event()
        self.wire: _Marked | None = None
        self.waiting = False  # for the answer to an end of message
        self.sent = 0
        self.trap_every = 5
        self.pause = 0.0  # seconds between two messages
        self.slowest = 0.0  # the longest wait for an answer to an end of message, seconds
        self.waits: list[tuple[float, float]] | None = (
            None  # asked at (monotonic), seconds; if kept
        )

    def run(self) -> None:
        while not self.stop.is_set():
            try:
                self._connection()
            except ProtocolError:
                time.sleep(0.01)  # the milter is gone, or not there yet

    def _connection(self) -> None:
        self.wire = wire = _Marked(self.socket, timeout=PATIENCE_S)
        session = MilterSession(wire, {"j": "mx.home.example", "v": "Postfix 3.7.11"})
        current = ""
        try:
            session.negotiate()
            session.connect(Peer("mail.sender.example", "4", 20_000 + self.sent, "192.0.2.9"))
            session.helo("mail.sender.example")
            while not self.stop.is_set():
                self.sent += 1
                current = f"{self.name}-{self.sent}"
                session.values["i"] = current
                session.mail(["<news@sender.example>"])
                # A trap hit: the recorder has more to do, and is poked.
                trap = self.sent % self.trap_every == 0
                session.rcpt(["<trap@home.example>" if trap else "<user@home.example>"])
                queued = QueueFile.receive(MESSAGE % (self.sent, current.encode()), OWN)
                wire.left = False
                self.waiting = True
                asked_at = time.monotonic()
                session.message(queued)
                waited = time.monotonic() - asked_at
                self.slowest = max(self.slowest, waited)
                if self.waits is not None:
                    self.waits.append((asked_at, waited))
                self.waiting = False
                self.books.asked.add(current)
                self.books.answered.add(current)
                if self.pause:
                    time.sleep(self.pause)
            session.quit()
        except ProtocolError:
            if self.waiting and wire.left:
                self.books.asked.add(current)
                self.books.cut += 1
            raise
        finally:
            self.waiting = False
            wire.close()

    def unanswered(self) -> bool:
        """True while an end of message is with the milter."""
        return self.waiting and self.wire is not None and self.wire.left


class Milter:
    """The daemon under test, and how to find its processes."""

    def __init__(self, home: Path, config: str, fault: str = "", prelude: str = "") -> None:
        self.home, self.fault = home, fault
        program = [sys.executable, "-c", prelude] if prelude else [BIN / "gatepost-milter"]
        self.command = [*program, "--config", home / "gatepost.toml"]
        self.socket = f"unix:{home}/m.sock"
        self.config = home / "gatepost.toml"
        milter = f'[milter]\nsocket = "{self.socket}"\nworkers = 3\n'
        self.config.write_text(with_engine(f"{milter}[dkim]\nnameservers = []\n{config}"))
        self.journal = home / "journal"
        self.process: subprocess.Popen[bytes] | None = None
        self._starts = 0
        self._log = home / "log"

    def start(self) -> None:
        """Start and wait for `ready`; again where it ends, as an init system would."""
        end = time.monotonic() + PATIENCE_S
        while not self._start():
            assert time.monotonic() < end, self._log.read_text()[-2000:]
            time.sleep(0.1)

    def _start(self) -> bool:
        self._starts += 1
        self._log = log = self.home / f"log{self._starts}"
        with log.open("ab") as stream:
            self.process = process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                cwd=self.home,
                start_new_session=True,
                env={**os.environ, "GATEPOST_FAULT": self.fault},
            )
        until(lambda: process.poll() is not None or b" ready on " in log.read_bytes())
        return process.poll() is None

    def children(self) -> list[int]:
        """Process ids of workers and recorder."""
        assert self.process is not None
        pid = self.process.pid
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [int(word) for word in text.split()]

    def recorder(self) -> int | None:
        """The child that holds the recorder's lock."""
        try:
            inode = (self.journal / LOCK).stat().st_ino
        except FileNotFoundError:
            return None
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5].endswith(f":{inode}") and "->" not in line:
                return int(words[4])
        return None

    def kill(self, what: str) -> None:
        """kill -9 a worker, the recorder, the parent, or everything."""
        assert self.process is not None
        if what in ("parent", "all"):
            (os.killpg if what == "all" else os.kill)(self.process.pid, signal.SIGKILL)
            self.process.wait(PATIENCE_S)
            return
        recorder = self.recorder()
        workers = [pid for pid in self.children() if pid != recorder]
        victim = recorder if what == "recorder" else random.choice(workers)
        if victim is not None:
            with suppress(ProcessLookupError):  # it has gone by itself since it was looked up
                os.kill(victim, signal.SIGKILL)

    def alive(self) -> bool:
        """True while the parent runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """TERM, and wait until everything of it is gone, what was killed before included."""
        if self.process is not None and self.alive():
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(PATIENCE_S)
        until(lambda: not self.processes(), lambda: "processes outlive their parent")

    def end(self) -> None:
        """Whatever happened: leave nothing behind."""
        for pid in self.processes():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(PATIENCE_S)

    def processes(self) -> list[int]:
        """All that were ever started with our configuration and still run.

        By their command line, never by a remembered id: in an hour of crashes ids come round.
        """
        found: list[int] = []
        mine = os.fsencode(self.config)
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if mine in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def until(what: "object", say: "object" = None) -> None:
    """Wait for `what()`; fail with `say()` after PATIENCE_S."""
    end = time.monotonic() + PATIENCE_S
    while not what():  # type: ignore[operator]
        assert time.monotonic() < end, say() if callable(say) else "waited in vain"
        time.sleep(0.005)


def crash(milter: Milter, feeders: list[Feeder], what: str) -> None:
    """Kill `what` while at least one end of message is unanswered, until one stays so."""
    books = feeders[0].books
    before = books.cut
    for _ in range(200):
        # At a random moment, the first in which somebody waits.
        time.sleep(random.uniform(0.0, 0.2))
        until(lambda: any(f.unanswered() for f in feeders) or not milter.alive())
        milter.kill(what)
        time.sleep(0.05)
        if not milter.alive():
            if what == "parent":
                # Nobody is orphaned: the workers finish what they have, and go. At once:
                milter.start()
            else:
                until(lambda: books.cut > before or not any(f.unanswered() for f in feeders))
                milter.start()
        if books.cut > before or what in ("parent", "recorder"):
            break
    seen = len(books.answered)
    until(lambda: len(books.answered) > seen + CONNECTIONS, lambda: "no mail after the crash")


def journal_is_empty(directory: Path) -> bool:
    """True where every segment has been ingested and unlinked."""
    return not journal.segments(directory)
