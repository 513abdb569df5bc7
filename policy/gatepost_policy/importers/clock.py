"""Times in log lines: text in, Unix seconds out, fast enough for millions of lines.

A log without a time zone is read in the zone it was written in. A line of BSD syslog (RFC 3164) has
no year: a log in time order that jumps back has seen New Year's Eve, so the year in which it begins
(`Years`) settles all of them. Where that is not known, a line is the latest such time that is not
after the `reference`. Nothing here raises: a time that does not exist is None.
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
# Distinct minutes kept; a log is in time order, so that a few would do.
CACHE = 4096
# A line may be this much later than its file was last written: clocks differ, zones are mistaken.
SLACK_S = 2 * 86400
# Lines may be so many days out of order, at New Year's Eve too.
DISORDER_DAYS = 2
_YEARLESS = re.compile(r"(?:<\d{1,3}>)?([A-Z][a-z]{2}) ([ \d]\d) \d\d:\d\d:\d\d[ .]")
# A leap day is found again within so many years.
LEAP_YEARS = 9


def turn(before: int, now: int) -> int:
    """How the year changes between two lines, given their days: 1, 0, or -1 for disorder.

    Days are numbered 31 to a month, from `ordinal`.
    """
    if now < before - DISORDER_DAYS:
        return 1
    # 1 January, and then a late line of 31 December.
    return -1 if now - before >= 12 * 31 - 1 - 2 * DISORDER_DAYS else 0


def ordinal(month: int, day: int) -> int:
    """The day's place in a year of 31-day months."""
    return month * 31 + day


@dataclass(slots=True)
class Years:
    """What a log without years tells of them: its last line's day, and the turns before it."""

    lines: int = 0
    turns: int = 0
    month: int = 0
    day: int = 0

    def take(self, lines: Iterable[str]) -> None:
        """Take these lines; others than yearless ones say nothing."""
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
        """The year of the first line, where the last is not after `reference` (Unix seconds).

        None where the log has no such line or the reference is no time.
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
    """True where the first line that says a time says it without a year."""
    return any(_YEARLESS.match(line) for line in lines)


class Clock:
    """Reads times of one file.

    `zone` None is the machine's; `reference` in Unix seconds; `begin` is the year of the first line
    that has none, where it is known: then the lines have to come in their order.
    """

    def __init__(self, zone: tzinfo | None, reference: float, begin: int | None = None) -> None:
        self.zone = zone
        self.reference = reference
        self.begin = begin
        self._minutes: dict[str, float | None] = {}
        self.rewind()

    def rewind(self) -> None:
        """The file is read from its beginning again."""
        self._year, self._day, self._ordinal = self.begin or 0, "", 0

    def move(self, reference: float) -> None:
        """A line may be as late as `reference` (Unix seconds) now: the log goes on."""
        self.reference = reference
        self._minutes.clear()

    def iso(self, minute: str, seconds: str, offset: str | None = None) -> float | None:
        """`2026-11-20 10:00` (or with T), seconds `05` or `05.123`, offset None, Z or +0200."""
        key = minute if offset is None else minute + offset
        base = self._cached(key, lambda: self._iso(minute, offset))
        return None if base is None else _plus(base, seconds)

    def syslog(self, month: str, day: str, minute: str, seconds: str) -> float | None:
        """`Nov`, ` 5`, `10:00`, `05`: this time in the year that the log has come to."""
        if self.begin is not None:
            return self._in_order(month, day, minute, seconds)
        base = self._cached(f"{month} {day} {minute}", lambda: self._syslog(month, day, minute))
        return None if base is None else _plus(base, seconds)

    def _in_order(self, month: str, day: str, minute: str, seconds: str) -> float | None:
        if self._day != month + day:
            number = MONTHS.get(month)
            if number is None or not day.strip().isdecimal():
                return None
            now = ordinal(number, int(day))
            if self._day:
                self._year += turn(self._ordinal, now)
            self._day, self._ordinal = month + day, now
        key = f"{self._year} {month} {day} {minute}"
        base = self._cached(key, lambda: self._at(self._year, month, day, minute))
        return None if base is None else _plus(base, seconds)

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
        # A naive time is the machine's own; the repeated hour in autumn is its first round.
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
    # 60 is a leap second; the pattern of the caller lets digits and one dot through.
    return base + float(seconds)
