"""The journal: each record is written here, in one write(), before the MTA is answered.

How it works: each process appends to a segment of its own, which lives as long as the process (or
until it is large). The file is created under a private name, locked (flock) and then renamed, so a
reader that sees `*.seg` without a lock knows that its writer is gone: nothing more will come, and a
record cut short at the end belongs to a message that was never answered. A segment is never
reopened for appending. It survives kill -9 of every process because the page cache does;
`sync="power"` adds an fdatasync, shared by all writers that wait at the moment.

After each write it is checked that the segment is still there. One that was removed (its directory
was removed or restored by hand) is made again under the same name with all its content: the
recorder's watermark is a name and an offset, so nothing is lost or counted twice.

`segment` says what a record looks like and how it is read.

Limits: the size limit is checked every LOOK_BYTES, so each process may exceed it by that much.
Losses that a process could not record before it was killed are missing in the gap records.
"""

import errno
import fcntl
import os
import secrets
import stat
import sys
import threading
import time
from pathlib import Path

from gatepost_policy.journal import record
from gatepost_policy.journal.losses import LOSSES, Tell
from gatepost_policy.journal.record import Json
from gatepost_policy.journal.segment import SUFFIX, frame, size_of
from gatepost_policy.system import directories, faults

POKE = "poke"
SEGMENT_BYTES = 8_388_608
LOOK_BYTES = 262_144
RETRY_S = 0.25
PROBE_BYTES = 4_096
FULL = (errno.ENOSPC, errno.EDQUOT)  # errors that may end without help
# How the encoder writes a recipient that is a trap. Text from mail cannot contain it, because
# quotes are escaped there.
TRAP_HIT = b'"trap":true'


def to_stderr(text: str) -> None:
    """Report losses on standard error, where the caller gave no `tell`."""
    print(text, file=sys.stderr, flush=True)


class Writer:
    """The journal's writer of this process. Thread-safe; opens its segment at the first write.

    It can be made before a fork, but must write only after it. `lost` counts the records that could
    not be written since the last gap record; `tell` is called with a line for the log when records
    are lost, and when they are kept again.
    """

    def __init__(
        self, directory: Path, *, max_bytes: int, sync: str, tell: Tell = to_stderr
    ) -> None:
        self.directory = directory
        self._tell = tell
        self._why = ""
        self._path = directory  # of the segment that is open
        # the path as text, and (inode, device) of the open file
        self._name, self._inode = "", (0, 0)
        self.max_bytes = max_bytes
        self.lost = 0
        self._lost_since = 0.0
        self._lost_until = 0.0
        self._retry_at = 0.0  # on the monotonic clock
        self._handle = -1
        self._size = 0
        self._room = 0  # bytes until the size of the whole journal is looked at again
        self._lock = threading.Lock()
        self._power = _Power() if sync == "power" else None
        self._poke = -1

    def write(self, obj: Json) -> bool:
        """Append one record; False where it is lost (counted, a gap record follows later), or where
        `sync="power"` could not make it safe.

        Never raises OSError: mail must not stop.
        """
        data = frame(obj)
        with self._lock:
            if not self._ready(len(data)):
                self._lose(obj)
                return False
            if self.lost and not self._confess():
                self._lose(obj)
                return False
            if not self._append(data) or not self._kept(data):
                self._lose(obj)
                return False
            handle, ticket = self._handle, self._power.enter() if self._power else 0
            # A listing must reach the other processes soon: wake the recorder now.
            if TRAP_HIT in data:
                self._wake()
        if self._power is None or self._power.wait(handle, ticket):
            return True
        LOSSES.unsafe(self._power.why, self._tell)
        return False

    def close(self) -> None:
        """Close the segment, so that the recorder can finish it. A later write opens a new one."""
        with self._lock:
            self._room, self._retry_at = -1, 0.0  # a last try
            if self.lost and self._ready(0):
                self._confess()
            self._leave()
            if self._poke >= 0:
                os.close(self._poke)
            self._poke = -1

    def _ready(self, size: int) -> bool:
        """True where a segment is open and there is room for `size` more bytes."""
        if self._handle >= 0 and self._room >= size and self._size < SEGMENT_BYTES:
            return True
        if self.lost and time.monotonic() < self._retry_at:
            return False
        try:
            if self._handle >= 0 and self.lost and not self._kept():
                return False
            if self._handle < 0 or self._size >= SEGMENT_BYTES:
                self._leave()
                self._open()
            left = self.max_bytes - size_of(self.directory)
            self._room = min(left, LOOK_BYTES + size)
            if self._room < size:
                self._why = "it has reached store.journal_max_bytes"
        except OSError as error:
            self._room = 0
            self._why = _reason(error)
        # A segment that cannot take this record may still take a smaller one.
        return self._handle >= 0 and self._room >= size

    def _open(self, name: str = "", content: bytes = b"") -> None:
        faults.disk_full("open")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # 128 random bits: no two segments of any host ever share a name.
        name = name or secrets.token_hex(16)
        aside, final = self.directory / f".{name}", self.directory / f"{name}{SUFFIX}"
        # For reading, too: a removed segment is made again.
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(aside, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            faults.point("segment-created")
            if content and os.write(handle, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.rename(aside, final)
            if self._power:
                directories.sync(self.directory)
        except OSError:
            os.close(handle)
            aside.unlink(missing_ok=True)
            raise
        self._handle, self._size, self._path = handle, len(content), final
        self._name, mine = str(final), os.fstat(handle)
        self._inode = mine.st_ino, mine.st_dev

    def _kept(self, last: bytes = b"") -> bool:
        """True where the segment is still found by its name; makes it again where it is not.

        After each write, and while none succeeds: its file system may be broken and another one
        be mounted in its place.
        """
        try:
            there = os.stat(self._name)
            if (there.st_ino, there.st_dev) == self._inode:
                return there.st_size >= self._size or self._cut(last)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError:
            return True  # we may not look (a mode was changed); the open file has the record
        old, path, aside = self._handle, self._path, ""
        try:
            content = os.pread(old, self._size, 0)
            if not _is_beginning(path, content):
                os.rename(path, aside := f"{path}.{secrets.token_hex(4)}")
                aside = f"; what lay there is now {aside}"
            self._open(path.stem, content)
        except OSError as error:
            return self._put_off(len(last), error)
        self._let_go(old)
        self._tell(
            "journal: the segment was taken away under its writer; it was made again with "
            f"what it held: {self._path}{aside}"
        )
        return True

    def _cut(self, last: bytes) -> bool:
        """The open segment was made shorter in place, and `last` stands where the recorder may have
        read before: write it into a new one. False where that fails."""
        old, path = self._handle, self._path
        try:
            end = os.fstat(old).st_size - len(last)
            if end >= 0 and os.pread(old, len(last), end) == last:
                os.ftruncate(old, end)
            self._open(content=last)
        except OSError as error:
            self._leave()
            self._why = _reason(error)
            return False
        self._let_go(old)
        self._tell(
            "journal: the segment was cut short under its writer; what was not stored yet is lost, "
            f"a new one was begun: {path}"
        )
        return True

    def _put_off(self, last: int, error: OSError) -> bool:
        """No other segment can be made now: the open file, without a name, keeps what was accepted
        until one can, but not its `last` octets, whose record is lost. False."""
        self._why, self._room = _reason(error), 0
        if last:
            try:
                os.ftruncate(self._handle, self._size - last)
                self._size -= last
            except OSError:
                self._leave()
        return False

    def _let_go(self, old: int) -> None:
        """Close a segment that another one has followed."""
        if self._power:
            self._power.leave(old)
        os.close(old)

    def _append(self, data: bytes) -> bool:
        try:
            faults.disk_full("write")
            faults.point("before-write")
            written = os.write(self._handle, data)
            if written < len(data):
                self._why = os.strerror(errno.ENOSPC)
        except OSError as error:
            written = 0
            self._why = _reason(error)
        if written == len(data):
            faults.point("after-write")
            self._size += written
            self._room -= written
            return True
        self._room = 0
        if written:
            # Half a record in the middle would be read as damage: cut it off.
            try:
                os.ftruncate(self._handle, self._size)
            except OSError:
                self._leave()
        return False

    def _confess(self) -> bool:
        """Write the gap record for what was lost, before any other record."""
        gap = frame(record.gap(self._lost_since, self._lost_until, self.lost))
        if not self._append(gap):
            return False
        self._tell(f"journal: records are kept again; {self.lost} were lost by this process")
        self.lost = 0
        return True

    def _wake(self) -> None:
        """Wake the recorder, where one runs: it reads the other end of a named pipe."""
        try:
            if self._poke < 0:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._poke = os.open(self.directory / POKE, flags)
            os.write(self._poke, b".")
        except BlockingIOError:
            pass  # the pipe is full, so it is awake
        except OSError:
            # No recorder runs; one that starts reads the journal in any case.
            if self._poke >= 0:
                os.close(self._poke)
            self._poke = -1

    def _lose(self, obj: Json) -> None:
        at = float(obj["at"])
        self._lost_since = min(self._lost_since, at) if self.lost else at
        self._lost_until = max(self._lost_until, at) if self.lost else at
        self.lost += 1
        LOSSES.add(self._why or "it cannot be written", self._tell)
        # Only after a try: mail that comes more often than RETRY_S must not put the next one off.
        if (now := time.monotonic()) >= self._retry_at:
            self._retry_at = now + RETRY_S

    def _leave(self) -> None:
        if self._handle >= 0:
            if self._power:
                self._power.leave(self._handle)
            os.close(self._handle)
        self._handle, self._size, self._room = -1, 0, 0


def refused(directory: Path, make: bool = True) -> OSError | None:
    """Why no record can be written into `directory` now; None where one can be.

    Tried with a file of PROBE_BYTES, if possible without a name. `make`: make a missing directory.
    Never raises.
    """
    flags, name = os.O_WRONLY | os.O_CLOEXEC, None
    try:
        faults.disk_full("open")
        if make:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            handle = os.open(directory, os.O_TMPFILE | flags, 0o600)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.EOPNOTSUPP):
                raise
            name = directory / f".probe.{secrets.token_hex(8)}"
            handle = os.open(name, os.O_CREAT | os.O_EXCL | flags, 0o600)
        try:
            if os.write(handle, bytes(PROBE_BYTES)) < PROBE_BYTES:
                return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            # A network file system may report a full disk only here.
            os.fsync(handle)
        finally:
            os.close(handle)
            if name is not None:
                name.unlink()
    except OSError as error:
        return error
    return None


def _is_beginning(path: Path, content: bytes) -> bool:
    """True where `path` may be replaced by `content`: there is nothing, or an older copy of it."""
    try:
        status = os.lstat(path)
        if not stat.S_ISREG(status.st_mode) or status.st_size > len(content):
            return False
        return content.startswith(path.read_bytes())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__


class _Power:
    """One fdatasync for all writers that wait: the first one syncs, the others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._written = 0  # tickets given out; each stands for a record that was written
        self._synced = 0
        self._failed = 0  # the last ticket that was in an fdatasync that failed
        self._busy = False
        self.why = ""  # the last one failed

    def enter(self) -> int:
        """A ticket for a record that was just written. Call under the writer's lock."""
        with self._changed:
            self._written += 1
            return self._written

    def wait(self, handle: int, ticket: int) -> bool:
        """Wait until the record of `ticket` is on the disk; False where fdatasync failed."""
        with self._changed:
            while self._synced < ticket:
                if self._busy:
                    self._changed.wait()
                    continue
                self._sync(handle)
            return ticket > self._failed

    def leave(self, handle: int) -> None:
        """Call before a segment is closed: waits until all its records are synced."""
        with self._changed:
            while self._synced < self._written:
                if self._busy:
                    self._changed.wait()
                    continue
                self._sync(handle)

    def _sync(self, handle: int) -> None:
        self._busy, upto = True, self._written
        self._changed.release()
        failed = False
        try:
            os.fdatasync(handle)
        except OSError as error:
            failed, self.why = True, _reason(error)
        finally:
            self._changed.acquire()
            self._busy, self._synced = False, upto
            if failed:
                self._failed = upto
            self._changed.notify_all()
