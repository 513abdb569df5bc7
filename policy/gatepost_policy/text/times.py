"""Times as commands take and print them: ISO 8601 in UTC, or `30d`. Pure."""

import math
import re
from datetime import UTC, datetime

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}

LAST = 253_402_300_799  # Unix seconds: the end of year 9999


def moment(text: str, now: float) -> float:
    """`2011-04-28`, `2011-04-28T12:40:26Z` or `30d` (before `now`) as Unix seconds.

    A time without a zone is UTC, like all times in reports. Raises ValueError, which says what is
    wanted.
    """
    text = text.strip()
    ago = re.fullmatch(r"(\d{1,6})([smhdwy])", text, re.ASCII)
    if ago:
        return now - int(ago.group(1)) * UNITS[ago.group(2)]
    try:
        when = datetime.fromisoformat(text)
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        raise ValueError(f'want a time such as "2011-04-28" or "30d", got {text!r}') from None


def timestamp(at: float) -> str:
    """`at` (Unix seconds) as ISO 8601 in UTC, in whole seconds. A time before year 1, or NaN, is
    given as the beginning of year 1, a time after year 9999 as the end of that."""
    if math.isnan(at) or at < -62135596800:
        return "0001-01-01T00:00:00Z"
    when = datetime.fromtimestamp(min(at, LAST), UTC).replace(tzinfo=None)
    return when.isoformat(timespec="seconds") + "Z"
