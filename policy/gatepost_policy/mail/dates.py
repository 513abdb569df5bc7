"""Dates of mail headers: RFC 5322 3.3 in, Unix seconds out, and back in UTC. Pure."""

import re
from datetime import UTC, datetime
from email.utils import mktime_tz, parsedate_tz

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
)  # fmt: skip
# Header fields (lower-case) that hold a date, with its writer's time zone: RFC 5322 3.6.1 and
# 3.6.6 (when it was sent), RFC 4021 2.1 (other times).
SENT = ("date", "resent-date")
DATES = (*SENT, "expires", "expiry-date", "reply-by", "deferred-delivery", "latest-delivery-time")
_COMMENT = re.compile(rb"\([^()]*\)")
MAX_DATE_BYTES = 200
END = 253_402_300_800  # Unix seconds: the year 10000, which datetime cannot hold


def rfc5322(at: float) -> str:
    """`at` (Unix seconds, clamped to 1970-9999) as `Fri, 20 Nov 2026 10:00:00 +0000`."""
    d = datetime.fromtimestamp(min(max(at, 0), END - 1), UTC)
    return (
        f"{_DAYS[d.weekday()]}, {d.day:02d} {_MONTHS[d.month - 1]} {d.year:04d} "
        f"{d.hour:02d}:{d.minute:02d}:{d.second:02d} +0000"
    )


def parse_date(value: bytes) -> int | None:
    """Unix seconds of a header date, None where it is not a date or lies outside 1970-9999."""
    text = _COMMENT.sub(b"", value).strip()
    if not text or len(text) > MAX_DATE_BYTES:
        return None
    try:
        parts = parsedate_tz(text.decode("ascii"))
        if parts is None:
            return None
        when = mktime_tz(parts)
    except (ValueError, TypeError, IndexError, OverflowError):
        # What the standard library raises for text that only looks like a date.
        return None
    return int(when) if 0 <= when < END else None
