"""The journal: a record is here, in one write(), before the MTA is answered.

How it works: each process appends to a segment of its own, which lives as long as the process
(or until it is large). The file is created under a private name, locked (flock) and then renamed,
so whoever sees `*.seg` without a lock knows that its writer is gone: nothing more will come, and
a record cut short at its very end is one whose message was never answered. A segment is never
reopened for appending. It survives kill -9 of every process because the page cache does;
`sync="power"` adds an fdatasync, shared by all writers that wait at the moment.

A record is: 2 bytes magic, 1 byte version of this frame, 1 byte zero, length and CRC-32 of the
JSON (4 bytes each, big-endian), the JSON in ASCII.

Limits: the size limit is looked at every LOOK_BYTES, so that it may be exceeded by that much for
each process. Losses that a process could not write down before it was killed are not counted.
"""

import fcntl
import json
import os
import secrets
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gatepost_policy import faults, record
from gatepost_policy.record import Json

MAGIC = b"\xa7g"
FRAME_VERSION = 1
HEAD = struct.Struct(">2sBxII")
SUFFIX = ".seg"
POKE = "poke"
SEGMENT_BYTES = 8_388_608
LOOK_BYTES = 262_144
RETRY_S = 0.25
# How the encoder writes a recipient that is a trap; a text cannot hold it, its quotes are escaped.
TRAP_HIT = b'"trap":true'
# Far above any message's record; a length beyond it is damage, not data.
MAX_RECORD_BYTES = 16_777_216

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode


class Writer:
    """This process's end of the journal. Thread-safe; opens its segment at the first write.

    Make it before or after a fork, but write only after it. `lost` counts the records that could
    not be written since the last gap record.
    """

    def __init__(self, directory: Path, *, max_bytes: int, sync: str) -> None:
        self.directory = directory
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
        """Append one record; False where it is lost (counted, a gap record follows later).

        Never raises OSError: the mail flows on.
        """
        data = frame(obj)
        with self._lock:
            if not self._ready(len(data)):
                self._lose(obj)
                return False
            if self.lost and not self._confess():
                self._lose(obj)
                return False
            if not self._append(data):
                self._lose(obj)
                return False
            handle, ticket = self._handle, self._power.enter() if self._power else 0
            # A listing has to reach the other processes soon: do not wait for the next look.
            if TRAP_HIT in data:
                self._wake()
        return self._power is None or self._power.wait(handle, ticket)

    def close(self) -> None:
        """Leave the segment to the recorder. A later write opens a new one."""
        with self._lock:
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
            if self._handle < 0 or self._size >= SEGMENT_BYTES:
                self._leave()
                self._open()
            left = self.max_bytes - size_of(self.directory)
            self._room = min(left, LOOK_BYTES + size)
        except OSError:
            self._room = 0
        # A segment that cannot take this record may still take a smaller one.
        return self._handle >= 0 and self._room >= size

    def _open(self) -> None:
        faults.disk_full("open")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # 128 random bits: no two segments of any host ever share a name.
        name = secrets.token_hex(16)
        aside, final = self.directory / f".{name}", self.directory / f"{name}{SUFFIX}"
        flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
        handle = os.open(aside, flags, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            faults.point("segment-created")
            os.rename(aside, final)
            if self._power:
                _sync_directory(self.directory)
        except OSError:
            os.close(handle)
            aside.unlink(missing_ok=True)
            raise
        self._handle, self._size = handle, 0

    def _append(self, data: bytes) -> bool:
        try:
            faults.disk_full("write")
            faults.point("before-write")
            written = os.write(self._handle, data)
        except OSError:
            written = 0
        if written == len(data):
            faults.point("after-write")
            self._size += written
            self._room -= written
            return True
        self._room = 0
        if written:
            # Half a record in the middle would end the segment for every reader.
            try:
                os.ftruncate(self._handle, self._size)
            except OSError:
                self._leave()
        return False

    def _confess(self) -> bool:
        """Write down what was lost before anything else goes on."""
        gap = frame(record.gap(self._lost_since, self._lost_until, self.lost))
        if not self._append(gap):
            return False
        self.lost = 0
        return True

    def _wake(self) -> None:
        """Poke the recorder, where there is one: it holds the other end of a named pipe."""
        try:
            if self._poke < 0:
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
                self._poke = os.open(self.directory / POKE, flags)
            os.write(self._poke, b".")
        except BlockingIOError:
            pass  # it has more than enough to read already
        except OSError:
            # No recorder, or one that has gone: the next one looks by itself.
            if self._poke >= 0:
                os.close(self._poke)
            self._poke = -1

    def _lose(self, obj: Json) -> None:
        at = float(obj["at"])
        self._lost_since = min(self._lost_since, at) if self.lost else at
        self._lost_until = max(self._lost_until, at) if self.lost else at
        self.lost += 1
        self._retry_at = time.monotonic() + RETRY_S

    def _leave(self) -> None:
        if self._handle >= 0:
            if self._power:
                self._power.leave(self._handle)
            os.close(self._handle)
        self._handle, self._size, self._room = -1, 0, 0


class _Power:
    """One fdatasync for all writers that wait: the first one syncs, the others wait for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._written = 0  # tickets given out; each stands for a record that was written
        self._synced = 0
        self._failed = 0  # tickets up to this one were in an fdatasync that failed
        self._busy = False

    def enter(self) -> int:
        """A ticket for a record that was just written. Call under the writer's lock."""
        with self._changed:
            self._written += 1
            return self._written

    def wait(self, handle: int, ticket: int) -> bool:
        """Until the record of `ticket` is on the disk; False where the disk refused."""
        with self._changed:
            while self._synced < ticket:
                if self._busy:
                    self._changed.wait()
                    continue
                self._sync(handle)
            return ticket > self._failed

    def leave(self, handle: int) -> None:
        """Before a segment is closed: nobody may still wait for it."""
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
        except OSError:
            failed = True
        finally:
            self._changed.acquire()
            self._busy, self._synced = False, upto
            if failed:
                self._failed = upto
            self._changed.notify_all()


def frame(obj: Json) -> bytes:
    """`obj` as the bytes of one record."""
    body = _encode(obj).encode("ascii")
    return HEAD.pack(MAGIC, FRAME_VERSION, len(body), zlib.crc32(body)) + body


def blank(size: int, body: bytes) -> bytes:
    """A sound record of exactly `size` bytes that says `body` (JSON, padded with blanks)."""
    body = body.ljust(size - HEAD.size)
    return HEAD.pack(MAGIC, FRAME_VERSION, len(body), zlib.crc32(body)) + body


def segments(directory: Path) -> list[Path]:
    """Every segment there is, oldest first. Raises OSError where the directory is no directory."""
    try:
        found = [e for e in os.scandir(directory) if e.name.endswith(SUFFIX)]
    except FileNotFoundError:
        return []
    aged: list[tuple[int, str]] = []
    for entry in found:
        try:
            aged.append((entry.stat().st_ctime_ns, entry.path))
        except FileNotFoundError:
            continue  # the recorder was faster
    return [Path(path) for _, path in sorted(aged)]


def size_of(directory: Path) -> int:
    """Bytes of all segments together."""
    total = 0
    for entry in os.scandir(directory):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:
            continue
    return total


@dataclass(frozen=True, slots=True)
class Piece:
    """What `read` found: a record, or damage. `start` and `end` are offsets in the segment."""

    start: int
    end: int
    data: Json | None  # None: these bytes are no record
    raw: bytes = b""  # of damage only


def read(path: Path, offset: int, limit: int = 4_194_304) -> Iterator[Piece]:
    """The complete records from `offset` on, up to about `limit` bytes.

    Ends quietly before a record that is not complete: perhaps it is just being written. Damage in
    the middle is handed out as a piece without data. Raises OSError.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        if len(data) >= HEAD.size:
            magic, _, length, _ = HEAD.unpack_from(data)
            if magic == MAGIC and len(data) < HEAD.size + length <= MAX_RECORD_BYTES:
                data += file.read(HEAD.size + length - len(data))
    yield from parse(data, offset)


def parse(data: bytes, base: int = 0) -> Iterator[Piece]:
    """The complete records in `data`, whose first byte is at offset `base` of its segment."""
    at = 0
    while len(data) - at >= HEAD.size:
        found = _record(data, at)
        if found is None:
            return
        end, obj = found
        if obj is None:
            end = _next_record(data, at + 1)
            if end < 0:
                return
            yield Piece(base + at, base + end, None, data[at:end])
        else:
            yield Piece(base + at, base + end, obj)
        at = end


def _record(data: bytes, at: int) -> tuple[int, Json | None] | None:
    """(end, object) of the record at `at`; object None: damaged; None: not complete."""
    magic, version, length, crc = HEAD.unpack_from(data, at)
    start = at + HEAD.size
    if magic != MAGIC or version != FRAME_VERSION or length > MAX_RECORD_BYTES:
        return start, None
    if len(data) - start < length:
        return None
    body = data[start : start + length]
    if zlib.crc32(body) != crc:
        return start, None
    try:
        obj = json.loads(body)
    except ValueError:
        return start, None
    return start + length, obj if isinstance(obj, dict) else None


def _next_record(data: bytes, at: int) -> int:
    """Where the next sound record begins, at or after `at`; -1: nowhere in these bytes."""
    while (at := data.find(MAGIC, at)) >= 0:
        if len(data) - at >= HEAD.size:
            found = _record(data, at)
            if found is not None and found[1] is not None:
                return at
        at += 1
    return -1


def is_torn(data: bytes) -> bool:
    """True where `data` is the beginning of one record: what a killed process may leave."""
    if len(data) < HEAD.size:
        return MAGIC.startswith(data[:2])
    magic, version, length, _ = HEAD.unpack_from(data)
    whole = len(data) >= HEAD.size + length
    return magic == MAGIC and version == FRAME_VERSION and not whole


def abandoned(path: Path) -> bool:
    """True where the segment's writer is gone: nothing will be appended any more."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
