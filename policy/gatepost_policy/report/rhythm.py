"""How often a sender came back: gaps between messages, months, and both as one sentence.

Pure. Slow senders send so rarely that a rate per minute shows nothing; months are counted instead.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.plural import plural

DAY = 86400
MONTH_DAYS = 365.2425 / 12
EXACT_DAYS = 100  # gaps from here on are printed in whole days,
YEARS_DAYS = 730  # and from here on in years and months

# Median gap in days, up to and including: the word for it.
_WORDS = (
    (0.011, "many an hour"),  # every quarter of an hour
    (0.06, "about hourly"),
    (0.7, "several a day"),
    (1.5, "daily"),
    (4.5, "every few days"),
    (10, "weekly"),
    (18, "fortnightly"),
    (50, "monthly"),
    (75, "every two months"),
    (120, "quarterly"),
    (250, "twice a year"),
    (500, "yearly"),
)


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When a sender's messages came: `first` and `last` in Unix seconds, gaps in days (None under
    two messages)."""

    messages: int
    first: float
    last: float
    days: int  # distinct UTC days
    months: int  # distinct calendar months (UTC) with a message
    median_gap: float | None
    shortest_gap: float | None = None
    longest_gap: float | None = None
    # The median in days, not rounded: an hour is 0.0 where it is. None: as median_gap.
    gap: float | None = None

    @property
    def span_days(self) -> float:
        """Days from the first message to the last."""
        return (self.last - self.first) / DAY

    @property
    def month_span(self) -> int:
        """Calendar months (UTC) from the first message to the last, both included."""
        first, last = (datetime.fromtimestamp(t, UTC) for t in (self.first, self.last))
        return (last.year - first.year) * 12 + last.month - first.month + 1

    @property
    def word(self) -> str:
        """`monthly`, `weekly`, ...; `once` for one message, `in one go` within an hour."""
        if self.median_gap is None:
            return "once"
        if self.span_days < 1 / 24:
            return "in one go"
        days = self.median_gap if self.gap is None else self.gap
        return next((word for most, word in _WORDS if days <= most), "rarely")

    @property
    def sentence(self) -> str:
        """The rhythm in words."""
        if self.messages == 1:
            return "once"
        text = f"{self.word}, median gap {gap(self.median_gap)}"
        if self.shortest_gap is not None and self.messages > 2:
            text += _range(gap(self.shortest_gap), gap(self.longest_gap))
        if self.month_span > 1:
            text += f", in {self.months} of {self.month_span} months"
        return text

    def json(self) -> dict[str, Any]:
        """The object in the report's `rhythm`; days to one decimal."""
        return {
            "word": self.word,
            "days": self.days,
            "months": self.months,
            "span_days": round(self.span_days, 1),
            "median_gap_days": self.median_gap,
            "shortest_gap_days": self.shortest_gap,
            "longest_gap_days": self.longest_gap,
            "sentence": self.sentence,
        }


def number(value: float | None) -> str:
    """`23` rather than `23.0`, to one decimal."""
    return "unknown" if value is None else f"{value:.1f}".removesuffix(".0")


def in_words(days: float) -> str:
    """A span of time as a person says it: `9 days`, `6 months`, `4 years and 11 months`."""
    if round(days) < 60:
        return plural(number(round(days)), "day")
    months = round(days / MONTH_DAYS)
    if months < 24:
        return plural(months, "month")
    years, months = divmod(months, 12)
    return plural(years, "year") + (f" and {plural(months, 'month')}" if months else "")


def gap(value: float | None) -> str:
    """A gap of `value` days as text: to a tenth of a day under EXACT_DAYS, rounded above."""
    if value is None:
        return "unknown"
    if value == 0:
        return "under 0.1 days"
    if value < EXACT_DAYS:
        return plural(number(value), "day")
    return plural(round(value), "day") if value < YEARS_DAYS else in_words(value)


def _range(shortest: str, longest: str) -> str:
    """` (from SHORTEST to LONGEST)`; empty where both have the same text."""
    if shortest == longest:
        return ""
    if all(text.endswith((" days", " day")) for text in (shortest, longest)):
        shortest, longest = (text.rpartition(" ")[0] for text in (shortest, longest))
    return f" (from {shortest} to {longest})"


def of(times: Sequence[float]) -> Rhythm | None:
    """The rhythm of messages received at `times` (Unix seconds, any order), None for none."""
    if not times:
        return None
    ordered = sorted(times)
    gaps = sorted(b - a for a, b in pairwise(ordered))
    found = {int(t // DAY) for t in ordered}
    return Rhythm(
        messages=len(ordered),
        first=ordered[0],
        last=ordered[-1],
        days=len(found),
        months=count_months(found),
        median_gap=days(_middle(gaps)) if gaps else None,
        shortest_gap=days(gaps[0]) if gaps else None,
        longest_gap=days(gaps[-1]) if gaps else None,
        gap=_middle(gaps) / DAY if gaps else None,
    )


def _middle(ordered: Sequence[float]) -> float:
    """The median. (`statistics` is not used: each command would take longer to start.)"""
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def dense(messages: int, first: float, last: float, day_numbers: Collection[int]) -> Rhythm:
    """The rhythm of `messages` that are `certainly_dense`, without their times: for the word their
    mean gap stands in for the median. `first`, `last`: Unix seconds; days from 1970-01-01."""
    months = count_months(day_numbers)
    mean = (last - first) / (messages - 1) / DAY
    return Rhythm(messages, first, last, len(day_numbers), months, median_gap=0.0, gap=mean)


def days(seconds: float) -> float:
    """Seconds as days, to one decimal."""
    return round(seconds / DAY, 1)


def count_months(day_numbers: Iterable[int]) -> int:
    """How many calendar months hold these days (numbered from 1970-01-01)."""
    return len({month_of(day * DAY) for day in day_numbers})


def month_of(at: float) -> tuple[int, int]:
    """(year, month) of a Unix time, UTC."""
    when = datetime.fromtimestamp(at, UTC)
    return when.year, when.month


def certainly_dense(messages: int, first: float, last: float) -> bool:
    """True where the median gap rounds to 0.0 days, whatever the times in between are.

    Half of the gaps are at least as long as the median, and all of them together are the span:
    the median is at most twice the mean. For a heavy sender this saves reading every time.
    """
    return messages > 1 and 2 * (last - first) / (messages - 1) < 0.05 * DAY
