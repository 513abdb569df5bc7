"""Journal segments as files: how a record is framed, found again, and checked.

A record is: 2 bytes magic, 1 byte version of this frame, 1 byte zero, length and CRC-32 of the
JSON (4 bytes each, big-endian), the JSON in UTF-8. A segment is a row of records; it is locked
(flock) for as long as its writer lives.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson

from gatepost_policy.journal.record import Json
from gatepost_policy.system.locked import is_locked

MAGIC = b"\xa7g"
FRAME_VERSION = 1
HEAD = struct.Struct(">2sBBII")
SUFFIX = ".seg"
# Far above any message's record; a length beyond it is damage, not data.
MAX_RECORD_BYTES = 16_777_216

_encoder = json.JSONEncoder(separators=(",", ":"), check_circular=False)


def encode(obj: Json) -> bytes:
    """`obj` as JSON in UTF-8, without blanks."""
    try:
        return orjson.dumps(obj)
    except TypeError:
        # orjson refuses lone surrogates (mail text that is no UTF-8) and integers beyond 64 bits.
        return _encoder.encode(obj).encode("ascii")


def _decoded(body: bytes) -> object:
    """The object in `body`. Raises ValueError or RecursionError for what is no JSON."""
    try:
        return orjson.loads(body)
    except ValueError:
        return json.loads(body)  # orjson refuses what `encode` had to leave to `json`


def frame(obj: Json) -> bytes:
    """`obj` as the bytes of one record."""
    body = encode(obj)
    return HEAD.pack(MAGIC, FRAME_VERSION, 0, len(body), zlib.crc32(body)) + body


def blank(size: int, body: bytes) -> bytes:
    """A valid record of exactly `size` bytes with the content `body` (JSON, padded with blanks)."""
    body = body.ljust(size - HEAD.size)
    return HEAD.pack(MAGIC, FRAME_VERSION, 0, len(body), zlib.crc32(body)) + body


def segments(directory: Path) -> list[Path]:
    """Every segment there is, oldest first. Raises OSError where the directory is no directory.

    Other things with such a name (a directory, a pipe, a link) are left out: to read a pipe without
    a writer would block the recorder for ever.
    """
    try:
        found = [
            e
            for e in os.scandir(directory)
            if e.name.endswith(SUFFIX) and e.is_file(follow_symlinks=False)
        ]
    except FileNotFoundError:
        return []
    aged: list[tuple[int, str]] = []
    for entry in found:
        try:
            aged.append((entry.stat().st_ctime_ns, entry.path))
        except FileNotFoundError:
            continue  # the recorder has removed it meanwhile
    return [Path(path) for _, path in sorted(aged)]


def size_of(directory: Path) -> int:
    """The bytes of all files in `directory` together. Raises OSError."""
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

    Ends before a record that is not complete: it may just be being written. Damage in the middle is
    given as a piece without data. Where nothing is given, there is no valid record in the rest of
    the file, however long a damaged part is. Raises OSError.
    """
    with path.open("rb") as file:
        file.seek(offset)
        data = file.read(limit)
        while True:
            pieces = parse(data, offset)
            first = next(pieces, None)
            if first is not None:
                yield first
                yield from pieces
                return
            more = file.read(max(limit, len(data)))
            if not more:
                return
            data += more


def parse(data: bytes, base: int = 0) -> Iterator[Piece]:
    """The complete records in `data`, whose first byte is at offset `base` of its segment."""
    at = 0
    while len(data) - at >= HEAD.size:
        end, obj = _record(data, at)
        if obj is None:
            # Damage, or the last record that is still being written: no valid record follows that
            # one. The length in a damaged head is not used: one wrong bit in it would hide all
            # records behind it.
            end = _next_record(data, at + 1)
            if end < 0:
                return
            yield Piece(base + at, base + end, None, data[at:end])
        else:
            yield Piece(base + at, base + end, obj)
        at = end


def _record(data: bytes, at: int) -> tuple[int, Json | None]:
    """(end, object) of the record at `at`; object None: damaged, or not complete."""
    magic, version, zero, length, crc = HEAD.unpack_from(data, at)
    start = at + HEAD.size
    end = start + length
    if (magic, version, zero) != (MAGIC, FRAME_VERSION, 0):
        return start, None
    if length > MAX_RECORD_BYTES or end > len(data):
        return start, None
    body = data[start:end]
    if zlib.crc32(body) != crc:
        return start, None
    try:
        obj = _decoded(body)
    except (ValueError, RecursionError):
        return start, None
    return end, obj if isinstance(obj, dict) else None


def _next_record(data: bytes, at: int) -> int:
    """Where the next valid record begins, at or after `at`; -1: nowhere in these bytes."""
    while (at := data.find(MAGIC, at)) >= 0:
        if len(data) - at >= HEAD.size and _record(data, at)[1] is not None:
            return at
        at += 1
    return -1


def is_torn(data: bytes) -> bool:
    """True where `data` is the beginning of one record, as a killed process may leave it.

    A record with complete JSON but a wrong length is damaged, not cut short.
    """
    if len(data) < HEAD.size:
        return data.startswith(MAGIC[: len(data)])
    magic, version, zero, length, _ = HEAD.unpack_from(data)
    body = data[HEAD.size :]
    if (magic, version, zero) != (MAGIC, FRAME_VERSION, 0) or len(body) >= length:
        return False
    if length > MAX_RECORD_BYTES or not _may_be_text(body):
        return False
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return body[:1] in (b"", b"{")
    return False


def _may_be_text(body: bytes) -> bool:
    """True for UTF-8, also where it is cut within a character."""
    try:
        body.decode()
    except UnicodeDecodeError as error:
        return error.end == len(body) and error.reason == "unexpected end of data"
    return True


def abandoned(path: Path) -> bool:
    """True where the segment's writer is gone: nothing will be appended any more. Raises
    OSError.
    """
    try:
        return not is_locked(path)
    except FileNotFoundError:
        return True
