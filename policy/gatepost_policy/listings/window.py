"""Rows of one identity by time, read once for all trap hits of a batch.

In a storm, each hit asks for the newest rows up to its own time, a few milliseconds after the last.
A `Window` holds the rows up to the end of the batch; where it does not have all that is asked for,
it says so, and the store is asked. Pure.
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Window(Generic[T]):
    """Rows with time (Unix seconds) and number, read newest first; `cut`: there are older ones."""

    def __init__(self, rows: Iterable[tuple[float, int, T]], *, cut: bool) -> None:
        self._rows = sorted(rows, key=_place)
        self._cut = cut

    def newest(
        self, since: float, until: float, most: int, *, behind: bool = False
    ) -> list[T] | None:
        """The `most` newest rows from `since` to `until` (Unix seconds, both included; with
        `behind` those after `since`), newest first; None where rows that were not read may belong
        to them.
        """
        end = bisect_right(self._rows, until, key=_at)
        find = bisect_right if behind else bisect_left
        begin = find(self._rows, since, key=_at)
        # There may be more rows of the same time as the oldest one that was read.
        if self._cut and not begin and end - begin < most:
            return None
        return [row for _, _, row in self._rows[max(begin, end - most) : end][::-1]]

    def add(self, at: float, number: int, row: T) -> None:
        """Add a row that was written since."""
        insort(self._rows, (at, number, row), key=_place)


def _at(row: tuple[float, int, T]) -> float:
    return row[0]


def _place(row: tuple[float, int, T]) -> tuple[float, int]:
    return row[:2]
