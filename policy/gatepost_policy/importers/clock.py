"""Times in log lines: text in, Unix seconds out, fast enough for millions of lines.

Times without a zone are read in the `zone` of the `Clock`. A line of BSD syslog (RFC 3164) has no
year. A log is in time order, so where the date jumps back a new year has begun; with the year of
its first line (`Years`) all years are known. Without that, a line gets the latest year in which it
is not after the `reference`. Nothing here raises: a time that does not exist is None.
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone, tzinfo

MONTHS = {
    m: n
    for n, m in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), 1
    )
}
# Different minutes kept in the cache; a log is in time order, so few are needed.
CACHE = 4096
# A line may be this much later than its file's last change: clocks differ, zones may be wrong.
SLACK_S = 2 * 86400
# Lines may be this many days out of order, also around New Year.
DISORDER_DAYS = 2
# The same within a night, in seconds.
DISORDER_S = 60.0
_YEARLESS = re.compile(r"(?:<\d{1,3}>)?([A-Z][a-z]{2}) ([ \d]\d) \d\d:\d\d:\d\d[ .]")
# 29 February may be missing for up to 8 years (1896 to 1904), so this many years are tried.
LEAP_YEARS = 9


def turn(before: int, now: int) -> int:
    """By how much the year changes between two lines: 1, 0, or -1 where they are out of order.

    `before` and `now` are their days, from `ordinal`.
    """
    if now < before - DISORDER_DAYS:
        return 1
    # -1: a line of 1 January, then a late one of 31 December.
    return -1 if now - before >= 12 * 31 - 1 - 2 * DISORDER_DAYS else 0


def ordinal(month: int, day: int) -> int:
    """The day's place in a year of 31-day months."""
    return month * 31 + day


@dataclass(slots=True)
class Years:
    """Reads the days of a log without years: the last line's `month` and `day`, and `turns`, how
    often a new year began before it."""

    lines: int = 0
    turns: int = 0
    month: int = 0
    day: int = 0

    def take(self, lines: Iterable[str]) -> None:
        """Read these lines; those that do not begin with a time without a year are skipped."""
        last = ""
        for line in lines:
            if line[:6] == last:
                continue
            found = _YEARLESS.match(line)
            if found is None or (month := MONTHS.get(found.group(1))) is None:
                continue
            last, day = line[:6], int(found.group(2))
            if self.lines:
                self.turns += turn(ordinal(self.month, self.day), ordinal(month, day))
            self.lines, self.month, self.day = self.lines + 1, month, day

    def begin(self, reference: float) -> int | None:
        """The year of the first line, if the last line is not after `reference` (Unix seconds).

        None where the log has no line without a year, or the reference is out of range.
        """
        try:
            latest = datetime.fromtimestamp(reference, UTC)
        except (ValueError, OverflowError, OSError):
            return None
        if not self.lines:
            return None
        late = ordinal(self.month, self.day) > ordinal(latest.month, latest.day)
        return latest.year - int(late) - self.turns


def yearless(lines: Iterable[str]) -> bool:
    """True where any of these lines begins with a time without a year."""
    return any(_YEARLESS.match(line) for line in lines)


class Clock:
    """Reads times of one file.

    `zone`: None is the machine's; `reference`: Unix seconds that no line is later than; `begin`:
    the year of the first line that has none, if known. With it, lines must be read in order.
    """

    def __init__(self, zone: tzinfo | None, reference: float, begin: int | None = None) -> None:
        self.zone = zone
        self.reference = reference
        self.begin = begin
        self._minutes: dict[str, float | None] = {}
        self._base: float | None = None
        self.rewind()

    def rewind(self) -> None:
        """Start again with the first line of the file."""
        self._year, self._day, self._ordinal = self.begin or 0, "", 0
        # Most lines are of the same minute as the line before.
        self._minute, self._base = "", None
        self._reached: float | None = None

    def move(self, reference: float) -> None:
        """Set a new `reference` (Unix seconds), for a log that is still being written."""
        self.reference = reference
        self._minutes.clear()
        self._minute = ""

    def iso(self, minute: str, seconds: str, offset: str | None = None) -> float | None:
        """Unix seconds of `2026-11-20 10:00` (or with T), seconds `05` or `05.123`, and the offset
        None, Z or +0200; None for an invalid time."""
        key = minute if offset is None else minute + offset
        if key != self._minute:
            self._base = self._cached(key, lambda: self._iso(minute, offset))
            if offset is None:
                self._base = self._in_hour(self._base)
            self._minute = key
        return None if self._base is None else _plus(self._base, seconds)

    def syslog(self, minute: str, seconds: str) -> float | None:
        """Unix seconds of `Nov  5 10:00`, seconds `05` or `05.123`, in the year that the log has
        reached; None for an invalid time."""
        if minute != self._minute:
            month, day, clock = minute.split()
            if self.begin is None:
                self._base = self._cached(minute, lambda: self._syslog(month, day, clock))
            else:
                self._base = self._in_order(month, day, clock)
            self._base = self._in_hour(self._base)
            self._minute = minute
        return None if self._base is None else _plus(self._base, seconds)

    def _in_hour(self, base: float | None) -> float | None:
        """`base`, or an hour later where this is the second time of an hour that comes twice.

        In autumn the log goes back an hour while time goes on.
        """
        last, self._reached = self._reached, base
        if base is None or last is None or base >= last - DISORDER_S:
            return base
        again = datetime.fromtimestamp(base, self.zone).replace(fold=1).timestamp()
        if again <= base or again < last - DISORDER_S:
            return base
        self._reached = again
        return again

    def _in_order(self, month: str, day: str, minute: str) -> float | None:
        if self._day != month + day:
            number = MONTHS.get(month)
            if number is None or not day.strip().isdecimal():
                return None
            now = ordinal(number, int(day))
            if self._day:
                self._year += turn(self._ordinal, now)
            self._day, self._ordinal = month + day, now
        key = f"{self._year} {month} {day} {minute}"
        return self._cached(key, lambda: self._at(self._year, month, day, minute))

    def _at(self, year: int, month: str, day: str, minute: str) -> float | None:
        try:
            naive = datetime(year, MONTHS[month], int(day), int(minute[:2]), int(minute[3:5]))
            return self._seconds(naive, None)
        except (ValueError, OverflowError, OSError):
            return None

    def _cached(self, key: str, read: Callable[[], float | None]) -> float | None:
        try:
            return self._minutes[key]
        except KeyError:
            if len(self._minutes) >= CACHE:
                self._minutes.clear()
            value = self._minutes[key] = read()
            return value

    def _iso(self, minute: str, offset: str | None) -> float | None:
        try:
            naive = datetime(
                int(minute[0:4]), int(minute[5:7]), int(minute[8:10]),
                int(minute[11:13]), int(minute[14:16]),
            )  # fmt: skip
            return self._seconds(naive, _zone(offset))
        except (ValueError, OverflowError, OSError):
            return None

    def _syslog(self, month: str, day: str, minute: str) -> float | None:
        number = MONTHS.get(month)
        if number is None:
            return None
        latest = self.reference + SLACK_S
        try:
            year = datetime.fromtimestamp(latest, UTC).year
        except (ValueError, OverflowError, OSError):
            return None
        for candidate in range(year, max(year - LEAP_YEARS, 1), -1):
            try:
                naive = datetime(candidate, number, int(day), int(minute[:2]), int(minute[3:5]))
                at = self._seconds(naive, None)
            except (ValueError, OverflowError, OSError):
                continue  # 29 February of a year without one
            if at <= latest:
                return at
        return None

    def _seconds(self, naive: datetime, zone: tzinfo | None) -> float:
        zone = zone or self.zone
        # A naive time is the machine's own; of an hour that comes twice, the first (`_in_hour`).
        return (naive if zone is None else naive.replace(tzinfo=zone)).timestamp()


def _zone(offset: str | None) -> tzinfo | None:
    if offset is None:
        return None
    if offset in ("Z", "z"):
        return UTC
    digits = offset[1:].replace(":", "")
    span = timedelta(hours=int(digits[:2]), minutes=int(digits[2:4] or 0))
    return timezone(-span if offset[0] == "-" else span)


def _plus(base: float, seconds: str) -> float:
    # 60 is a leap second. The caller's pattern allows only digits and one dot.
    return base + float(seconds)
