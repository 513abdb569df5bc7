"""A sender's history as a strip: months (or quarters, or years) across, families down.

Pure. Each cell shows one family's messages in one period by DKIM result, so that rhythm, gaps and a
change of family can be seen at a glance. A period with different DKIM results has its own symbol,
so that one failure among passes does not look like a pass.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from gatepost_policy.report.standing import NAMES, Mark
from gatepost_policy.system.dataclass import dataclass

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# DKIM result: (in UTF-8, in ASCII, what it means)
SYMBOLS = {
    "pass": ("●", "+", "DKIM pass"),
    "fail": ("×", "x", "DKIM fail"),
    "none": ("○", "o", "unsigned"),
    "other": ("△", "?", "other DKIM result"),
    "mixed": ("◐", "%", "several DKIM results"),
}
NOTHING = ("·", ".")


@dataclass(frozen=True, slots=True)
class Cell:
    """The messages of one family in one period: how many, and how many by DKIM result.

    `counts` has keys of SYMBOLS, in their order.
    """

    messages: int
    counts: Mapping[str, int]

    @property
    def dkim(self) -> str:
        """The DKIM result of all messages; `mixed` where they differ."""
        return next(iter(self.counts)) if len(self.counts) == 1 else "mixed"


@dataclass(frozen=True, slots=True)
class Row:
    """One family, period by period; None where nothing came."""

    name: str
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True)
class Strip:
    """The time line. `traps` counts the messages to traps in each period."""

    periods: tuple[str, ...]  # Nov, Q4, 2010
    years: tuple[str, ...]  # the year where it begins, else empty; all empty for periods of years
    rows: tuple[Row, ...]
    traps: tuple[int, ...]
    earlier: int  # messages before the first period

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells with a message."""
        return tuple(cell for row in self.rows for cell in row.cells if cell is not None)


def strip(marks: Sequence[Mark], columns: int) -> Strip | None:
    """The time line of `marks` in at most `columns` periods; None for no marks. Marks too old for
    `columns` years are counted as `earlier`."""
    if not marks:
        return None
    for months in (1, 3, 12):
        numbers = [_period(mark.at, months) for mark in marks]
        first, last = min(numbers), max(numbers)
        if last - first < columns:
            break
    else:
        first = last - columns + 1
    shown = range(first, last + 1)
    cells: dict[tuple[str, int], Counter[str]] = {}
    traps: Counter[int] = Counter()
    for mark, number in zip(marks, numbers, strict=True):
        if number >= first:
            dkim = mark.dkim if mark.dkim in SYMBOLS else "other"
            cells.setdefault((mark.family, number), Counter())[dkim] += 1
            traps[number] += mark.trap
    families = [family for family in NAMES if any(key[0] == family for key in cells)]
    return Strip(
        periods=tuple(_label(number, months) for number in shown),
        years=tuple(_year(number, months, number == first) for number in shown),
        rows=tuple(
            Row(NAMES[family], tuple(_cell(cells.get((family, number))) for number in shown))
            for family in families
        ),
        traps=tuple(traps[number] for number in shown),
        earlier=sum(number < first for number in numbers),
    )


def _period(at: float, months: int) -> int:
    """The number of the period of so many months that `at` falls into."""
    when = datetime.fromtimestamp(at, UTC)
    return (when.year * 12 + when.month - 1) // months


def _label(number: int, months: int) -> str:
    year, month = divmod(number * months, 12)
    if months == 12:
        return str(year)
    return MONTHS[month] if months == 1 else f"Q{month // 3 + 1}"


def _year(number: int, months: int, leading: bool) -> str:
    year, month = divmod(number * months, 12)
    return str(year) if months < 12 and (leading or month == 0) else ""


def _cell(counted: Counter[str] | None) -> Cell | None:
    if counted is None:
        return None
    return Cell(counted.total(), {key: counted[key] for key in SYMBOLS if counted[key]})
