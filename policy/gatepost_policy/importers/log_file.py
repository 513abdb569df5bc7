"""A log file as lines of text, also a compressed one, and how far it has been read.

With a byte order mark it is read as UTF-16; else bytes that are not UTF-8 become surrogates. A line
over MAX_LINE_BYTES is cut, so that a file without line ends cannot fill the memory.
"""

import bz2
import codecs
import gzip
import io
import lzma
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import IO, cast

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 16
_DATEEXT = re.compile(r"[-.](20\d\d)-?(\d\d)-?(\d\d)(?!\d)")
_HOLE = re.compile(rb"\0{2,}")
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open),
           (b"\x5d\0\0", lzma.open))  # fmt: skip
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError)


class LogFile:
    """One log, or standard input for `-`. Raises OSError where it cannot be opened or read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage: str | None = None  # why reading ended early
        # Both have peek(), so that the kind of standard input can be recognised too.
        raw = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        self._raw = cast("io.BufferedReader", raw)
        self._aside: IO[bytes] | None = None
        self.size: int | None = None  # octets of the file itself, compressed or not
        self.modified: float | None = None  # Unix seconds
        if path != "-":
            found = os.fstat(self._raw.fileno())
            self.size, self.modified = found.st_size, found.st_mtime

    def close(self) -> None:
        """Close the file."""
        if self.path != "-":
            self._raw.close()
        if self._aside is not None:
            self._aside.close()

    @property
    def position(self) -> int:
        """How many octets of the file itself have been read; 0 for standard input."""
        return self._raw.tell() if self.path != "-" else 0

    def blocks(self) -> Iterator[bytes]:
        """The content in whole lines, about a megabyte at a time. Reading ends early where the file
        is damaged (`damage`). Raises OSError."""
        stream = self._unpacked()
        rest = b""
        decode: codecs.IncrementalDecoder | None = None
        first = True
        try:
            # read1 returns what could be decompressed before a damaged part.
            while data := stream.read1(CHUNK_BYTES):
                if first:
                    # A log that was emptied while its writer kept its offset begins with NULs.
                    data = data.lstrip(b"\0")
                    if not data:
                        continue
                    if data[257:262] == b"ustar":  # POSIX pax, ustar: the magic of a tar header
                        self.damage = "a tar archive: tar -xOf FILE | milterctl import ... -"
                        return
                    data, decode, first = *_marked(data), False
                if decode is not None:
                    data = decode.decode(data).encode("utf-8", "surrogatepass")
                data = rest + data
                cut = data.rfind(b"\n") + 1
                if not cut and len(data) > MAX_LINE_BYTES:
                    data = without_holes(data)
                    cut = data.rfind(b"\n") + 1
                if not cut and len(data) > MAX_LINE_BYTES:
                    yield data[:MAX_LINE_BYTES] + b"\n"
                    rest = _after_line(stream)
                    continue
                rest = data[cut:]
                if cut:
                    yield data[:cut]
        except DAMAGED as error:
            self.damage = str(error) or type(error).__name__
        except OSError as error:
            if error.errno is not None:
                raise
            self.damage = str(error)  # bz2 raises OSError without an errno for a damaged block
        if rest:
            yield rest

    def lines(self) -> Iterator[list[str]]:
        """The lines, without their line ends, in lists. Raises OSError."""
        for block in self.blocks():
            block = without_holes(block)
            if b"\r\n" in block:
                block = block.replace(b"\r\n", b"\n")
            lines = block.decode("utf-8", "surrogateescape").split("\n")
            if not lines[-1]:
                lines.pop()
            yield lines

    def packed_at(self) -> float | None:
        """When the file in a gzip was last changed (Unix seconds, RFC 1952 2.3.1), else None."""
        start = self.start()
        if not start.startswith(b"\x1f\x8b") or len(start) < 8:
            return None
        return float(int.from_bytes(start[4:8], "little")) or None

    def named_date(self) -> float | None:
        """The end (Unix seconds, UTC) of the day in the file's name, as logrotate's `dateext`
        writes it; None where there is none."""
        found = _DATEEXT.search(os.path.basename(self.path))
        if found is None:
            return None
        try:
            year, month, number = (int(part) for part in found.groups())
            day = datetime(year, month, number, tzinfo=UTC)
        except ValueError:
            return None
        return day.timestamp() + 86400

    def again(self) -> None:
        """Read from the beginning again; for standard input call `keep_aside` before."""
        self.damage = None
        if self._aside is None:
            self._raw.seek(0)
            return
        self._aside.seek(0)
        self._raw = cast("io.BufferedReader", self._aside)

    def keep_aside(self) -> None:
        """Copy standard input to a temporary file without a name, because it must be read twice."""
        if self.path != "-" or self._aside is not None:
            return
        self._aside = tempfile.TemporaryFile()
        shutil.copyfileobj(self._raw, self._aside)
        self.again()

    def start(self) -> bytes:
        """The first 64 octets of the file itself, compressed or not. Raises OSError."""
        if self.path == "-":
            return self._raw.peek(64)[:64]
        with open(self.path, "rb") as file:
            return file.read(64)

    def head(self, count: int = 50) -> list[str]:
        """The first lines (at most `count`); reading still starts at the beginning afterwards."""
        if self.path == "-":
            block = self._raw.peek(MAX_LINE_BYTES)
        else:
            block = next(self.blocks(), b"")
            self._raw.seek(0)
            self.damage = None
        if self.path == "-":
            block = _marked(block)[0]
        block = without_holes(block)
        return block[:MAX_LINE_BYTES].decode("utf-8", "surrogateescape").split("\n")[:count]

    def _unpacked(self) -> io.BufferedReader:
        magic = self._raw.peek(6)
        for start, opener in _PACKED:
            if magic.startswith(start):
                return cast("io.BufferedReader", opener(self._raw, "rb"))
        return self._raw


def without_holes(data: bytes) -> bytes:
    """`data` with a line end in place of each hole, and without single NULs.

    A hole is a run of NULs: octets that were never written, in a file that was emptied while its
    writer kept its offset, or whose host crashed. A line stands behind it.
    """
    return _HOLE.sub(b"\n", data).replace(b"\0", b"") if b"\0" in data else data


def _marked(data: bytes) -> tuple[bytes, codecs.IncrementalDecoder | None]:
    """(data without its byte order mark, a decoder where it is UTF-16, else None)."""
    for mark, name in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[2:], codecs.getincrementaldecoder(name)("replace")
    return data.removeprefix(codecs.BOM_UTF8), None


def _after_line(stream: io.BufferedReader) -> bytes:
    """Skip the rest of a line that is too long; returns the octets after it."""
    while data := stream.read1(CHUNK_BYTES):
        cut = data.find(b"\n")
        if cut >= 0:
            return data[cut + 1 :]
    return b""
