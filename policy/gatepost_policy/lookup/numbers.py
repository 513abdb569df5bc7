"""The sorted numbers of a published file, read so that a change of the file cannot crash us.

If a mapped file is cut short in place (`cp` over it, a script that empties it), the next access is
a SIGBUS: it ends the worker and all messages that it has under way. So files are read, not mapped:
up to COPY_MAX octets as a whole, of a larger one only the part in which a number must be. The
numbers are hashes, spread evenly, so where one stands is known to within a few hundred places.
"""

import os
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from io import BufferedReader
from math import isqrt
from pathlib import Path
from typing import Any, overload

COPY_MAX = 4 << 20
_OCTETS = 8
_MARGIN = 64


class OnDisk:
    """`count` sorted 64-bit hashes from octet `start` of `file` on. `file` must stay open."""

    def __init__(self, file: BufferedReader, start: int, count: int) -> None:
        self._file, self._start, self._count = file, start, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        return iter(self._part(0, self._count))

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> "array[int]": ...
    def __getitem__(self, place: int | slice) -> "int | array[int]":
        """Raises IndexError where the file has become shorter."""
        if isinstance(place, slice):
            first, last, _ = place.indices(self._count)
            return self._part(first, last)
        return self._part(place, place + 1)[0]

    def has(self, wanted: int) -> bool:
        """True where `wanted` is one of them; False also where the file has become shorter or
        cannot be read.
        """
        count = self._count
        middle, around = wanted * count >> 64, 4 * isqrt(count) + _MARGIN
        first, last = max(0, middle - around), min(count, middle + around)
        try:
            part = self._part(first, last)
            if (first and part[0] > wanted) or (last < count and part[-1] < wanted):
                first, part = 0, self._part(0, count)  # not evenly spread: read all
        except (IndexError, OSError):
            return False
        index = bisect_left(part, wanted)
        return index < len(part) and part[index] == wanted

    def _part(self, first: int, last: int) -> "array[int]":
        octets = (last - first) * _OCTETS
        got = os.pread(self._file.fileno(), octets, self._start + first * _OCTETS)
        return array("Q", got[: len(got) // _OCTETS * _OCTETS])


def contains(numbers: Any, wanted: int) -> bool:
    """True where `wanted` is among the sorted `numbers`."""
    if isinstance(numbers, OnDisk):
        return numbers.has(wanted)
    index = bisect_left(numbers, wanted)
    return index < len(numbers) and numbers[index] == wanted


def whole(path: Path) -> memoryview:
    """What is in the file now. Raises OSError."""
    return memoryview(path.read_bytes())
