"""Calendar periods (UTC), from hours to years, and which of them fits a chart.

Pure. Times are Unix seconds. A week begins on Monday (ISO 8601).
"""

from datetime import UTC, datetime
from enum import StrEnum

HOUR, DAY = 3600, 86_400
MONDAY = 4 * DAY  # 1970-01-01 was a Thursday


class Unit(StrEnum):
    """How long one period is."""

    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


_MONTHS = {Unit.MONTH: 1, Unit.QUARTER: 3, Unit.YEAR: 12}
_SECONDS = {Unit.HOUR: HOUR, Unit.DAY: DAY, Unit.WEEK: 7 * DAY}
_AVERAGE = _SECONDS | {unit: months * 30.4 * DAY for unit, months in _MONTHS.items()}


def fitting(span: float, most: int) -> Unit:
    """The shortest unit of which at most `most` cover `span` seconds; years where none does."""
    return next((unit for unit in Unit if span / _AVERAGE[unit] <= most - 1), Unit.YEAR)


def begin(at: float, unit: Unit) -> float:
    """When the period that contains `at` begins."""
    if unit in _SECONDS:
        step, off = _SECONDS[unit], MONDAY if unit is Unit.WEEK else 0
        return float((at - off) // step * step + off)
    when = datetime.fromtimestamp(at, UTC)
    months = _MONTHS[unit]
    return _month((when.year * 12 + when.month - 1) // months * months)


def after(start: float, unit: Unit) -> float:
    """When the next period begins; `start` is the beginning of one."""
    if unit in _SECONDS:
        return start + _SECONDS[unit]
    when = datetime.fromtimestamp(start, UTC)
    return _month(when.year * 12 + when.month - 1 + _MONTHS[unit])


def _month(number: int) -> float:
    year, month = divmod(number, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC).timestamp()


def name(start: float, unit: Unit) -> str:
    """The period's name; names sort by time: `2026-11-28 14:00`, `2026-11-28`, `2026 Q4`."""
    when = datetime.fromtimestamp(start, UTC)
    match unit:
        case Unit.HOUR:
            return f"{when:%Y-%m-%d %H:%M}"
        case Unit.DAY:
            return f"{when:%Y-%m-%d}"
        case Unit.WEEK:
            return f"week of {when:%Y-%m-%d}"
        case Unit.MONTH:
            return f"{when:%Y-%m}"
        case Unit.QUARTER:
            return f"{when.year} Q{(when.month + 2) // 3}"
        case _:
            return str(when.year)
