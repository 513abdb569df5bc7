"""The figures of each milter worker for the metrics endpoint, in a shared file.

A worker writes only its own slot; the process that serves the metrics adds the slots up. The file
is in the state directory. The milter's parent makes a new one before it forks, so all figures start
from zero with every start of the milter. It holds only numbers. It is written, not mapped: if
somebody truncates a mapped file, the worker is killed (SIGBUS); here each worker writes its numbers
again.

A serving worker has a thread that writes (`Slot.write_behind`), LATE_S after a figure has changed.
Four writes with each message would cost it a tenth: workers wait for each other at one file.

Layout: MAGIC, then SLOTS slots of WORDS unsigned 64-bit words in the machine's own order.
"""

import os
import time
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Lock, Thread

MAGIC = b"gpslots1"
SLOTS = 128  # during a reload there are two generations of at most 64 workers each
# Upper bounds of the end-of-message latency histogram, seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
FIXED = ("pid", "in_flight", "connections", "exceptions", "messages", "latency_us")
WORDS = 32
SIZE = 64 + SLOTS * WORDS * 8
NAME = "slots"
LATE_S = 0.05  # how much later the figures may be written

PID, IN_FLIGHT, CONNECTIONS, EXCEPTIONS, MESSAGES, LATENCY_US, BUCKETS = range(len(FIXED) + 1)
CAPTURES_FAILED = BUCKETS + len(BOUNDS) + 1
STARTED = CAPTURES_FAILED + 1  # when the process `pid` began (`_started`)


@dataclass(frozen=True, slots=True)
class Sum:
    """The sums over all workers. `buckets`: messages between two of BOUNDS, not cumulative."""

    workers: int
    in_flight: int
    connections: int
    exceptions: int
    messages: int
    latency_seconds: float
    buckets: tuple[int, ...]
    captures_failed: int


def create(directory: Path) -> Path:
    """Make a new file with zeros, atomically, in place of an older one. Raises OSError."""
    path = directory / NAME
    aside = directory / f"{NAME}.{os.getpid()}"
    with aside.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(MAGIC.ljust(SIZE, b"\0"))
    aside.replace(path)
    return path


class Slot:
    """One worker's figures. The lock is needed because callbacks run in several threads."""

    def __init__(self, path: Path, number: int) -> None:
        """Take slot `number` (0 to SLOTS-1) of the file. Each change is written at once, until
        `write_behind` is called. Raises OSError, ValueError."""
        if not 0 <= number < SLOTS:
            raise ValueError(f"slot {number}: want 0 to {SLOTS - 1}")
        self._file = path.open("r+b", buffering=0)
        self._start = 64 + number * WORDS * 8
        known = os.pread(self._file.fileno(), WORDS * 8, self._start)
        self._words = array("Q", known.ljust(WORDS * 8, b"\0"))
        self._lock = Lock()
        self._changed: Event | None = None  # set: the thread has something to write
        self._written = True
        # A slot that is used again keeps its counters, or the sums would go down.
        self._words[PID] = os.getpid()
        self._words[STARTED] = _started(os.getpid()) or 0
        self._words[IN_FLIGHT] = 0
        self.flush()

    def write_behind(self) -> None:
        """From now on a thread writes, so that no message waits for it. Not before a fork. A
        message that never ends is written all the same. Without a thread to be had, all stays as
        it was."""
        changed = Event()
        with suppress(RuntimeError):
            Thread(target=self._write_changes, args=(changed,), daemon=True).start()
            self._changed = changed

    def _write_changes(self, changed: Event) -> None:
        while True:
            changed.wait()
            time.sleep(LATE_S)
            changed.clear()
            self.flush()

    def flush(self) -> None:
        """Write the figures now; restore the file's magic and size first, if somebody has emptied
        it: each worker then writes its own slot again. Errors are ignored."""
        self._written = True
        with suppress(OSError):
            if os.pread(self._file.fileno(), len(MAGIC), 0) != MAGIC:
                os.pwrite(self._file.fileno(), MAGIC.ljust(64, b"\0"), 0)
                os.ftruncate(self._file.fileno(), SIZE)
            # 256 octets in one write: a reader sees the old or the new figures.
            os.pwrite(self._file.fileno(), self._words, self._start)

    def _write(self) -> None:
        """The figures have changed. Call it with the lock held."""
        if self._changed is None:
            self.flush()
        elif self._written:
            self._written = False
            self._changed.set()

    def connected(self) -> None:
        """One more connection from an MTA."""
        with self._lock:
            self._words[CONNECTIONS] += 1
            self._write()

    def began(self) -> None:
        """A message has begun (MAIL FROM) and is in flight."""
        with self._lock:
            self._words[IN_FLIGHT] += 1
            self._write()

    def ended(self) -> None:
        """A message was answered or abandoned."""
        with self._lock:
            if self._words[IN_FLIGHT]:
                self._words[IN_FLIGHT] -= 1
                self._write()

    def answered(self, seconds: float) -> None:
        """A message was answered, `seconds` after its end arrived."""
        place = bisect_left(BOUNDS, seconds)
        with self._lock:
            words = self._words
            words[MESSAGES] += 1
            words[LATENCY_US] += max(0, int(seconds * 1e6))
            words[BUCKETS + place] += 1
            self._write()

    def failed(self) -> None:
        """A callback has failed with an exception."""
        with self._lock:
            self._words[EXCEPTIONS] += 1
            self._write()

    def capture_failed(self) -> None:
        """A trap message could not be kept."""
        with self._lock:
            self._words[CAPTURES_FAILED] += 1
            self._write()


def read(directory: Path) -> Sum | None:
    """The sum over all workers; None where no milter has made the file."""
    try:
        data = (directory / NAME).read_bytes()
    except OSError:
        return None
    if len(data) != SIZE or not data.startswith(MAGIC):
        return None
    words = memoryview(data)[64:].cast("Q")
    slots: list[Sequence[int]] = [words[n * WORDS : (n + 1) * WORDS] for n in range(SLOTS)]
    used = [slot for slot in slots if slot[PID]]
    alive = [slot for slot in used if _started(slot[PID]) == slot[STARTED]]
    return Sum(
        workers=len(alive),
        in_flight=sum(slot[IN_FLIGHT] for slot in alive),
        connections=sum(slot[CONNECTIONS] for slot in used),
        exceptions=sum(slot[EXCEPTIONS] for slot in used),
        messages=sum(slot[MESSAGES] for slot in used),
        latency_seconds=sum(slot[LATENCY_US] for slot in used) / 1e6,
        buckets=tuple(sum(slot[BUCKETS + n] for slot in used) for n in range(len(BOUNDS) + 1)),
        captures_failed=sum(slot[CAPTURES_FAILED] for slot in used),
    )


def _started(pid: int) -> int | None:
    """When process `pid` began, in clock ticks since the boot (proc(5), field 22 of stat); None
    where there is no such process. The pid alone does not prove that a worker still runs: after a
    reboot or a kill another process may have it, while the file is still there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *rest = file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(rest[18])
