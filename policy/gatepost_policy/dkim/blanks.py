"""Squeeze the blanks of a body (RFC 6376 3.4.4): most of what a relaxed body costs.

`squeezed` takes tabs as blanks already and has two ways to the same octets: the standard library's,
and numpy's for long pieces with many runs, where numpy is installed and `load` was called. 64 kB of
HTML with 2300 runs take 400 us with the standard library and 95 us with numpy.
"""

import os
import re
from collections.abc import Callable

CRLF = b"\r\n"
# Two blanks or more, written so that the engine looks for two literal ones. `join` of `split` is
# a fifth faster than `sub`, and than two `replace` (which counts first) by a third.
_split_runs = re.compile(rb"   *").split
# numpy pays only for a chunk of LONG octets or more with MANY pairs of blanks in its first SAMPLE
# octets.
LONG, SAMPLE, MANY = 8_192, 4_096, 24
FEW = 8  # runs that are looked for one by one
_run = re.compile(rb" *").match
_many: Callable[[bytes], bytes] | None = None


def load() -> bool:
    """Use numpy from here on where it is installed; True where it is.

    Called before workers are forked, so that they share what it loads.
    """
    global _many
    if _many is None:
        # Its threads for linear algebra would not survive the fork, and are not needed.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        try:
            _many = _with_numpy()
        except ImportError:
            return False
    return True


def squeezed(chunk: bytes) -> bytes:
    """`chunk` with every run of blanks as one, and none before a line end."""
    # After the text often comes an attachment without blanks. To search 64 kB of it for a pair of
    # blanks takes 80 us, to find the last blank from the end 2 us: what follows that is left alone.
    last = chunk.rfind(b" ") + 3
    rest = chunk[last:]
    if rest:
        chunk = chunk[:last]
    if _many is not None and len(chunk) >= LONG and chunk.count(b"  ", 0, SAMPLE) >= MANY:
        chunk = _many(chunk)
    else:
        chunk = plainly(chunk)
    return chunk + rest if rest else chunk


def plainly(chunk: bytes) -> bytes:
    """`squeezed` with the standard library."""
    at = chunk.find(b"  ")
    if at >= 0:
        # Plain text has few runs: to find them is half the work of the expression.
        begin = 0
        pieces: list[bytes] = []
        while at >= 0 and len(pieces) < FEW:
            pieces.append(chunk[begin : at + 1])
            begin = at + 2
            if chunk.startswith(b" ", begin):
                begin = _run(chunk, begin).end()  # type: ignore[union-attr]  # matches anywhere
            at = chunk.find(b"  ", begin)
        rest = chunk[begin:]
        pieces.append(rest if at < 0 else b" ".join(_split_runs(rest)))
        chunk = b"".join(pieces)
    lines = chunk.split(b" \r\n")
    return CRLF.join(lines) if len(lines) > 1 else chunk


def _with_numpy() -> Callable[[bytes], bytes]:
    import numpy as np

    def many(chunk: bytes) -> bytes:
        octets = np.frombuffer(chunk, np.uint8)
        blank = octets == 0x20
        drop = np.zeros(len(octets), np.bool_)
        # The last blank of a run stays, unless a line end follows it.
        np.logical_and(blank[:-1], blank[1:], out=drop[:-1])
        drop[:-2] |= blank[:-2] & (octets[1:-1] == 0x0D) & (octets[2:] == 0x0A)
        kept: bytes = octets[~drop].tobytes()
        return kept

    return many
