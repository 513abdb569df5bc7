"""What the journal could not keep: counted for all processes of a service, and logged at once.

How it works: the numbers are in memory that the parent shares with its children (made when this
module is first imported, before any fork). The process that notices a loss logs it, unless one of
them did within SAY_S; the process that answers /healthz and /metrics reads the numbers.
"""

import fcntl
import mmap
import os
import time
from collections.abc import Callable
from contextlib import suppress

SAY_S = 60.0
RED_S = 60.0  # after the last lost record
_LOST, _LAST, _SAID, _FIRST = range(4)

Tell = Callable[[str], None]


class Losses:
    """Numbers shared by a parent and its children. Times are on the monotonic clock, in ms."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, mmap.PAGESIZE)
        self._words = memoryview(self._memory).cast("Q")
        made = os.memfd_create("gatepost-losses", os.MFD_CLOEXEC)
        # Above 2: at import it is not yet checked that the three standard files are open.
        self._file = fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 3)
        os.close(made)

    @property
    def total(self) -> int:
        """Records lost since the service started."""
        return self._words[_LOST]

    def active(self) -> bool:
        """True where a record was lost within RED_S."""
        last = self._words[_LAST]
        return bool(last) and _now() - last < RED_S * 1000

    def add(self, why: str, tell: Tell) -> None:
        """Count a lost record; `tell` is called with a line for the log, at most once in SAY_S."""
        with _Locked(self._file):
            words = self._words
            words[_LOST] += 1
            words[_LAST] = now = _now()
            if words[_SAID] and now - words[_SAID] < SAY_S * 1000:
                return
            lost, words[_FIRST], words[_SAID] = words[_LOST] - words[_FIRST], words[_LOST], now
        number = "a record is" if lost == 1 else f"{lost} records are"
        tell(f"journal: {number} lost, the mail flows on: {why}")


class _Locked:
    """A lock between processes; the threads of one process are under their writer's lock."""

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> None:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            fcntl.lockf(self._file, fcntl.LOCK_UN)


def _now() -> int:
    return int(time.monotonic() * 1000)


LOSSES = Losses()
