"""Times in log lines: text in, Unix seconds out, fast enough for millions of lines.

A log without a time zone is read in the zone it was written in; a syslog line has no year, which
is taken so that the line is not later than the file (`reference`). Nothing here raises: a time
that does not exist is None.
"""

from collections.abc import Callable
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
# A leap day is found again within so many years.
LEAP_YEARS = 9


class Clock:
    """Reads times of one file. `zone` None is the machine's; `reference` in Unix seconds."""

    def __init__(self, zone: tzinfo | None, reference: float) -> None:
        self.zone = zone
        self.reference = reference
        self._minutes: dict[str, float | None] = {}

    def iso(self, minute: str, seconds: str, offset: str | None = None) -> float | None:
        """`2026-11-20 10:00` (or with T), seconds `05` or `05.123`, offset None, Z or +0200."""
        key = minute if offset is None else minute + offset
        base = self._cached(key, lambda: self._iso(minute, offset))
        return None if base is None else _plus(base, seconds)

    def syslog(self, month: str, day: str, minute: str, seconds: str) -> float | None:
        """`Nov`, ` 5`, `10:00`, `05`: the latest such time that is not after the reference."""
        base = self._cached(f"{month} {day} {minute}", lambda: self._syslog(month, day, minute))
        return None if base is None else _plus(base, seconds)

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
