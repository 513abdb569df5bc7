"""A log file as lines of text, whatever it is packed in, and how far it has been read.

Bytes that are no UTF-8 come as surrogates. A line over MAX_LINE_BYTES is handed out cut, so that
a file without line ends cannot fill the memory.
"""

import bz2
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Iterator
from typing import cast

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 16
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))
DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, ValueError)


class LogFile:
    """One log, or standard input for `-`. Raises OSError where it cannot be opened or read."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.damage: str | None = None  # why reading ended early
        # Both can look ahead, so that standard input is recognised like a file.
        raw = sys.stdin.buffer if path == "-" else open(path, "rb")  # noqa: SIM115
        self._raw = cast("io.BufferedReader", raw)
        self.size: int | None = None  # bytes of the file as it is, packed or not
        self.modified: float | None = None  # Unix seconds
        if path != "-":
            found = os.fstat(self._raw.fileno())
            self.size, self.modified = found.st_size, found.st_mtime

    def close(self) -> None:
        """Done with it."""
        if self.path != "-":
            self._raw.close()

    @property
    def position(self) -> int:
        """How many bytes of the file as it is have been read."""
        return self._raw.tell() if self.path != "-" else 0

    def blocks(self) -> Iterator[bytes]:
        """The content in whole lines, about a megabyte at a time."""
        stream = self._unpacked()
        rest = b""
        try:
            # read1: what was unpacked before the damage is not lost with it.
            while data := stream.read1(CHUNK_BYTES):
                data = rest + data
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
        if rest:
            yield rest

    def lines(self) -> Iterator[list[str]]:
        """The lines, without their ends, in lists."""
        for block in self.blocks():
            if b"\r\n" in block:
                block = block.replace(b"\r\n", b"\n")
            lines = block.decode("utf-8", "surrogateescape").split("\n")
            if not lines[-1]:
                lines.pop()
            yield lines

    def head(self, count: int = 50) -> list[str]:
        """The first lines, for a look; reading starts at the beginning all the same."""
        if self.path == "-":
            block = self._raw.peek(MAX_LINE_BYTES)
        else:
            block = next(self.blocks(), b"")
            self._raw.seek(0)
            self.damage = None
        return block[:MAX_LINE_BYTES].decode("utf-8", "surrogateescape").split("\n")[:count]

    def _unpacked(self) -> io.BufferedReader:
        magic = self._raw.peek(6)
        for start, opener in _PACKED:
            if magic.startswith(start):
                return cast("io.BufferedReader", opener(self._raw, "rb"))
        return self._raw


def _after_line(stream: io.BufferedReader) -> bytes:
    """Skip to the end of an endless line; what follows it."""
    while data := stream.read1(CHUNK_BYTES):
        cut = data.find(b"\n")
        if cut >= 0:
            return data[cut + 1 :]
    return b""
