"""How many messages came on which day of the week and at which hour (UTC)."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Integer, cast, func, select

from gatepost_policy.report.conditions import conditions
from gatepost_policy.report.day_sums import times
from gatepost_policy.report.selection import Selection
from gatepost_policy.system.dataclass import dataclass

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
THURSDAY = 3  # the weekday of 1970-01-01, counted from Monday


@dataclass(frozen=True, slots=True)
class Hours:
    """Messages by (day of the week from Monday, 0 to 6; hour, 0 to 23)."""

    counts: Mapping[tuple[int, int], int]

    @property
    def busiest(self) -> tuple[int, int]:
        """(day, hour) with most messages; the earliest of several."""
        return max(self.counts, key=lambda key: (self.counts[key], -key[0], -key[1]))

    @property
    def sentence(self) -> str:
        """The chart's content in words, for its label."""
        total, most = sum(self.counts.values()), self.busiest
        weekend = sum(n for (day, _), n in self.counts.items() if day > 4)
        return (
            f"most on {DAYS[most[0]]} at {most[1]:02}:00 UTC, {self.counts[most]} of {total}; "
            f"{weekend} at weekends; at {len({hour for _, hour in self.counts})} of 24 hours"
        )


def read(connection: Connection, selection: Selection) -> Hours | None:
    """The selected messages by day and hour; None for no message. Raises conditions.TooWide."""
    at, where = times(selection, conditions(connection, selection))
    # The hour within weeks that begin on Thursday 00:00, as 1970 did. floor: a cast alone rounds
    # on PostgreSQL and truncates on SQLite.
    number = cast(func.floor(at / 3600), Integer) % 168
    found: dict[tuple[int, int], int] = {}
    for hour, count in _counted(connection, number, where):
        found[(hour // 24 + THURSDAY) % 7, hour % 24] = count
    return Hours(found) if found else None


def _counted(
    connection: Connection, number: ColumnElement[int], where: Sequence[ColumnElement[bool]]
) -> Iterable[tuple[int, int]]:
    """(value of `number`, how many rows have it). SQLite sorts all rows to group them; for a sender
    of 400 000 messages that takes more than twice as long as to count them here."""
    if connection.dialect.name != "sqlite":
        query = select(number, func.count()).where(*where).group_by(number)
        return [(hour, count) for hour, count in connection.execute(query)]
    driver: Any = connection.connection.driver_connection
    driver.create_aggregate("tallied", 1, _Tally)
    text: str | None = connection.scalar(select(func.tallied(number)).where(*where))
    # No row, no call: then SQLite gives NULL.
    return [(int(hour), count) for hour, count in json.loads(text or "{}").items()]


class _Tally(list[int]):
    """SQLite's interface of an aggregate: a call of `step` for each row, then one of `finalize`."""

    step = list.append

    def finalize(self) -> str:
        return json.dumps(Counter(self))
