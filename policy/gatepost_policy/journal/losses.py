"""What the journal could not keep: counted for all processes of a service, and logged at once.

How it works: the numbers are in memory that the parent shares with its children (made when this
module is first imported, before any fork). The process that notices a loss logs it, unless one of
them did within SAY_S. One service of a host answers /healthz and /metrics for all of them, so each
one tells its numbers in a file, too, which has its full size from the start: there may be no room
when something is lost.
"""

import fcntl
import mmap
import os
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

SAY_S = 60.0
RED_S = 60.0  # after the last lost record
_LOST, _LAST, _SAID, _FIRST, _UNSAFE_SAID = range(5)
PREFIX = "losses."
_TOLD = struct.Struct("=QQ")  # records lost, and when the last one was

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
        self._told, self._name = -1, ""

    def tell_in(self, directory: Path, service: str) -> None:
        """From now on tell the numbers in a file of `directory` as well. Call it before any fork.

        Where there is no file, only the log and this service know of losses. Never raises.
        """
        with suppress(OSError):
            name = f"{PREFIX}{service}"
            flags = os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW
            self._told = os.open(directory / name, flags, 0o640)
            self._name = name
            self._tell()

    def _tell(self) -> None:
        if self._told >= 0:
            with suppress(OSError):
                os.pwrite(self._told, _TOLD.pack(self._words[_LOST], self._words[_LAST]), 0)

    @property
    def total(self) -> int:
        """Records lost since the service started."""
        return self._words[_LOST]

    def of_host(self, directory: Path) -> tuple[int, bool]:
        """(records that this and the other services lost since each of them started, True where one
        was lost within RED_S). The others are those that tell it in `directory`. Never raises."""
        found = [(self.total, self._words[_LAST])]
        with suppress(OSError):
            for entry in os.scandir(directory):
                if entry.name.startswith(PREFIX) and entry.name != self._name and entry.is_file():
                    with suppress(OSError, struct.error):
                        found.append(_TOLD.unpack(Path(entry.path).read_bytes()[: _TOLD.size]))
        now = _now()
        red = any(last and 0 <= now - last < RED_S * 1000 for _, last in found)
        return sum(lost for lost, _ in found), red

    def add(self, why: str, tell: Tell) -> None:
        """Count a lost record; `tell` is called with a line for the log, at most once in SAY_S."""
        with _Locked(self._file):
            words = self._words
            words[_LOST] += 1
            words[_LAST] = now = _now()
            self._tell()
            if words[_SAID] and now - words[_SAID] < SAY_S * 1000:
                return
            lost, words[_FIRST], words[_SAID] = words[_LOST] - words[_FIRST], words[_LOST], now
        number = "a record is" if lost == 1 else f"{lost} records are"
        tell(f"journal: {number} lost, the mail flows on: {why}")

    def unsafe(self, why: str, tell: Tell) -> None:
        """A record was written, but its fdatasync failed; `tell` as with `add`."""
        with _Locked(self._file):
            now, said = _now(), self._words[_UNSAFE_SAID]
            if said and now - said < SAY_S * 1000:
                return
            self._words[_UNSAFE_SAID] = now
        tell(f"journal: what is written may be lost at a power cut: {why}")


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
