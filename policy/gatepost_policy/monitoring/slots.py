"""What each milter worker tells the metrics endpoint: a page of numbers in a shared file.

A worker writes its own slot and nobody else's; whoever serves the metrics adds the slots up.
The file lies in the state directory and is made anew by the milter's parent before it forks, so
it starts from zero with every start of the milter. Nothing but numbers is in it. It is written, not
mapped: a mapped file that somebody cuts short in place is the end of the worker (SIGBUS), while a
file that is written heals, because each worker has its own numbers.

Layout: MAGIC, then SLOTS slots of WORDS unsigned 64-bit words in the machine's own order.
"""

import os
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

MAGIC = b"gpslots1"
SLOTS = 128  # two generations of at most 64 workers, while a reload replaces one by the other
# Upper bounds of the end-of-message latency histogram, seconds.
BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
FIXED = ("pid", "in_flight", "connections", "exceptions", "messages", "latency_us")
WORDS = 32
SIZE = 64 + SLOTS * WORDS * 8
NAME = "slots"
LATE_S = 0.05  # figures of messages may be written so much later

PID, IN_FLIGHT, CONNECTIONS, EXCEPTIONS, MESSAGES, LATENCY_US, BUCKETS = range(len(FIXED) + 1)
CAPTURES_FAILED = BUCKETS + len(BOUNDS) + 1
STARTED = CAPTURES_FAILED + 1  # when the process `pid` began, as proc(5) counts it


@dataclass(frozen=True, slots=True)
class Sum:
    """All workers together. `buckets` are counts up to each of BOUNDS, not yet cumulative."""

    workers: int
    in_flight: int
    connections: int
    exceptions: int
    messages: int
    latency_seconds: float
    buckets: tuple[int, ...]
    captures_failed: int


def create(directory: Path) -> Path:
    """A fresh file, all zero; replaces an older one in one step. Raises OSError."""
    path = directory / NAME
    aside = directory / f"{NAME}.{os.getpid()}"
    with aside.open("wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(MAGIC.ljust(SIZE, b"\0"))
    aside.replace(path)
    return path


class Slot:
    """One worker's numbers. Callbacks run on several threads of one process: hence the lock."""

    def __init__(self, path: Path, number: int) -> None:
        """Take slot `number` (0 to SLOTS-1) of the file. Raises OSError, ValueError."""
        if not 0 <= number < SLOTS:
            raise ValueError(f"slot {number}: want 0 to {SLOTS - 1}")
        self._file = path.open("r+b", buffering=0)
        self._start = 64 + number * WORDS * 8
        known = os.pread(self._file.fileno(), WORDS * 8, self._start)
        self._words = array("Q", known.ljust(WORDS * 8, b"\0"))
        self._lock = Lock()
        self._write_at = 0.0  # monotonic
        # A slot that is used again keeps its counters: only the process is another one.
        self._words[PID] = os.getpid()
        self._words[STARTED] = _started(os.getpid()) or 0
        self._words[IN_FLIGHT] = 0
        self._write()

    def _heal(self) -> None:
        """Somebody may have emptied the file: it is one again, with what its workers write."""
        with suppress(OSError):
            if os.pread(self._file.fileno(), len(MAGIC), 0) != MAGIC:
                os.pwrite(self._file.fileno(), MAGIC.ljust(64, b"\0"), 0)
                os.ftruncate(self._file.fileno(), SIZE)

    def _write(self) -> None:
        self._write_at = time.monotonic() + LATE_S
        # 256 octets at once: a figure that is read meanwhile is the old or the new one.
        with suppress(OSError):
            os.pwrite(self._file.fileno(), self._words, self._start)

    def connected(self) -> None:
        """One more connection from an MTA."""
        with self._lock:
            self._words[CONNECTIONS] += 1
            self._heal()
            self._write()

    def began(self) -> None:
        """A message is in flight from MAIL FROM on."""
        with self._lock:
            self._words[IN_FLIGHT] += 1
            # The first one at once: where it hangs, nothing would be written any more, and the
            # figures would say that nothing is in flight.
            if self._words[IN_FLIGHT] == 1 or time.monotonic() >= self._write_at:
                self._write()

    def ended(self) -> None:
        """A message was answered or abandoned."""
        with self._lock:
            if self._words[IN_FLIGHT]:
                self._words[IN_FLIGHT] -= 1
                # A write is as dear as all other figures of a message: none is late for longer
                # than messages are in flight.
                if not self._words[IN_FLIGHT] or time.monotonic() >= self._write_at:
                    self._write()

    def answered(self, seconds: float) -> None:
        """A message got its final answer, `seconds` after its end had arrived."""
        place = 0
        for bound in BOUNDS:
            if seconds <= bound:
                break
            place += 1
        with self._lock:
            self._words[MESSAGES] += 1
            self._words[LATENCY_US] += max(0, int(seconds * 1e6))
            self._words[BUCKETS + place] += 1
            if not self._words[IN_FLIGHT]:
                self._write()  # else `ended` follows

    def failed(self) -> None:
        """A callback ended in the `except` that carries the direction's stance."""
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
    where there is none. A number alone is no proof of life: after a boot or a kill it is given to
    somebody else, and the file is still there."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state, *rest = file.read().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return None
    return None if state in (b"Z", b"X") else int(rest[18])
