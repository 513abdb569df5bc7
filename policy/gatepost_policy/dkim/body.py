"""Canonicalise and hash a message body while it arrives (RFC 6376 3.4.3, 3.4.4, 3.7).

How it works. Chunks may be cut anywhere. Each is canonicalised as a whole with bytes operations,
and only where a quick test finds something to do (`in` is memchr: no regular expression runs over a
base64 body). Only what the next chunk can still change is held back: a blank or a CR at the very
end (at most two octets), and the number of line ends seen last. So memory is constant, whatever
arrives.

One `Body` is made for each canonicalization; it feeds one `Sink` for each (hash, `l=`).

Limits: a bare LF is content, not a line end. RFC 5322 2.3 knows only CRLF, an MTA hands over
nothing else, and turning it into CRLF would accept a body that nobody signed.
"""

import hashlib
from collections.abc import Callable
from functools import partial

from gatepost_policy.dkim.blanks import CRLF, squeezed

TAB, BLANK = 0x09, 0x20  # `in` is quicker for a number than for bytes of length one
_MANY = CRLF * 4096

HASHES: dict[str, Callable[..., "hashlib._Hash"]] = {
    "sha256": hashlib.sha256,
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
}


class Sink:
    """One hash over the canonical body, or over its first `limit` octets (`l=`). `room` is how many
    of them are left, `digest` the hash, empty until `Body.close`.
    """

    __slots__ = ("digest", "hash", "limit", "room")

    def __init__(self, name: str, limit: int | None) -> None:
        self.hash = HASHES[name]()
        self.limit = limit
        self.room = limit
        self.digest = b""

    def update(self, data: bytes | memoryview) -> None:
        """Hash `data` as far as `limit` lets it."""
        if self.room is None:
            self.hash.update(data)
        elif self.room:
            if len(data) > self.room:
                data = data[: self.room]
            self.room -= len(data)
            self.hash.update(data)


class Body:
    """The body under one canonicalization. `size` counts the canonical octets."""

    __slots__ = ("held", "pending", "relaxed", "sinks", "size")

    def __init__(self, relaxed: bool) -> None:
        self.relaxed = relaxed
        self.sinks: dict[tuple[str, int | None], Sink] = {}
        self.held = b""  # a blank, a CR or both, at the end of the last chunk
        self.pending = 0  # line ends that count only if text follows
        self.size = 0

    def sink(self, name: str, limit: int | None) -> Sink:
        """The sink for this hash (`name`: sha256, sha1) and `l=` (`limit` octets, None: all),
        shared by all signatures that need it.
        """
        key = (name, limit)
        found = self.sinks.get(key)
        if found is None:
            found = self.sinks[key] = Sink(name, limit)
        return found

    def update(self, chunk: bytes) -> None:
        """Take the next piece of the body, cut anywhere."""
        if self.held:
            chunk = self.held + chunk
            self.held = b""
        if self.relaxed:
            if TAB in chunk:
                chunk = chunk.replace(b"\t", b" ")
            if BLANK in chunk:
                chunk = squeezed(chunk)
        if chunk and chunk[-1] > BLANK:  # the middle of a line: nothing that follows can change it
            self._emit(chunk)
            return
        end = len(chunk)
        if chunk.endswith(b"\r"):
            end -= 1
        if self.relaxed and chunk.endswith(b" ", 0, end):
            end -= 1
        if end != len(chunk):
            self.held = chunk[end:]
        stop = end
        if chunk.endswith(CRLF, 0, end):
            stop = end - 2
            if chunk.endswith(CRLF, 0, stop):
                stop = _text_end(chunk, end)
        if stop:
            self._emit(memoryview(chunk)[:stop])
        self.pending += (end - stop) >> 1

    def _emit(self, text: bytes | memoryview) -> None:
        while self.pending:
            ends = _MANY[: self.pending * 2]
            self.pending -= len(ends) >> 1
            self.size += len(ends)
            for sink in self.sinks.values():
                sink.update(ends)
        self.size += len(text)
        for sink in self.sinks.values():
            if sink.room is None:
                sink.hash.update(text)  # the usual case (no l=), one call less
            else:
                sink.update(text)

    def close(self) -> None:
        """The body is over: end the last line and compute every digest."""
        # RFC 6376 3.4.4: white space at the end of a line is ignored, that of the last one too.
        rest = b"" if self.held == b" " else self.held
        self.held = b""
        if rest:
            self._emit(rest)
        # RFC 6376 3.4.3: an empty body is one CRLF; 3.4.4: relaxed, it is nothing.
        if self.size or not self.relaxed:
            self.pending = 0
            self._emit(CRLF)
        for sink in self.sinks.values():
            sink.digest = sink.hash.digest()


def _text_end(chunk: bytes, end: int) -> int:
    """Where the run of CRLFs that ends at `end` begins."""
    start = len(chunk[:end].rstrip(CRLF))
    # The stripped set is of bytes, not of pairs: find the last place where the pairs break.
    pairs = start
    if chunk[start] == 0x0A:
        pairs = start + 1
    bare_cr = chunk.rfind(b"\r\r", start, end)
    if bare_cr >= 0:
        pairs = max(pairs, bare_cr + 1)
    bare_lf = chunk.rfind(b"\n\n", start, end)
    if bare_lf >= 0:
        pairs = max(pairs, bare_lf + 2)
    return pairs
