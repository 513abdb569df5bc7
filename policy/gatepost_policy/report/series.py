"""All selected messages as sums by hour or day, for charts.

How it works: the table `domain_day` has sums by day of each domain and of all mail. Days that the
selected time covers in part, and narrower selections, are counted from rows. All selected messages
are counted: with the newest alone a chart would seem to begin where the sample begins.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, Integer, cast, func, select

from gatepost_policy.mail.results import RESULTS
from gatepost_policy.report import day_sums, periods
from gatepost_policy.report.conditions import conditions
from gatepost_policy.report.periods import DAY, HOUR, Unit
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import DomainDay, Message, MessageSignature

HOURS_MAX = 64 * HOUR  # seconds; up to here slots are hours, beyond it days


@dataclass(slots=True)
class Slot:
    """The mail over one family in one hour or on one day. `dkim` counts signatures by result, and
    unsigned messages as `none`, as a summary does."""

    messages: int = 0
    traps: int = 0  # messages to a trap
    dkim: Counter[str] = field(default_factory=Counter)


Slots = dict[tuple[float, str], Slot]  # begin (Unix seconds), family


@dataclass(frozen=True, slots=True)
class Bar:
    """One period of a chart, `start` to `end` in Unix seconds. `whole`: it ends before the series
    does, so it is complete."""

    start: float
    end: float
    messages: Mapping[str, int]  # by family
    dkim: Mapping[str, int]  # by result; signatures, and messages without any
    traps: int  # messages to a trap
    whole: bool

    @property
    def total(self) -> int:
        """Messages over all families."""
        return sum(self.messages.values())


@dataclass(frozen=True, slots=True)
class Series:
    """The slots of a selection from `start` to `end` (Unix seconds; `end` is at most now)."""

    start: float
    end: float
    slots: Mapping[tuple[float, str], Slot]
    _bars: dict[Unit, list[Bar]] = field(default_factory=dict, compare=False, repr=False)

    def unit(self, most: int) -> Unit:
        """The period that fits a chart of at most `most` bars."""
        span = self.end - self.start
        unit = periods.fitting(span, most)
        return Unit.DAY if unit is Unit.HOUR and span > HOURS_MAX else unit

    def bars(self, most: int) -> list[Bar]:
        """All periods from `start` to `end`, empty ones too; at most `most`, or years."""
        unit = self.unit(most)
        known = self._bars.get(unit)
        if known is None:
            known = self._bars[unit] = self._add_up(unit)
        return known

    def _add_up(self, unit: Unit) -> list[Bar]:
        begins: dict[float, float] = {}  # of each slot, its period
        messages: dict[float, dict[str, int]] = {}
        dkim: dict[float, dict[str, int]] = {}
        traps: dict[float, int] = {}
        for (at, family), slot in self.slots.items():
            begin = begins.get(at)
            if begin is None:
                begin = begins[at] = periods.begin(at, unit)
                messages.setdefault(begin, {})
                dkim.setdefault(begin, {})
            mine, results = messages[begin], dkim[begin]
            mine[family] = mine.get(family, 0) + slot.messages
            for result, count in slot.dkim.items():
                if count:
                    results[result] = results.get(result, 0) + count
            traps[begin] = traps.get(begin, 0) + slot.traps
        found: list[Bar] = []
        begin = periods.begin(self.start, unit)
        last = max([self.end, *messages])
        while begin < last or not found:
            end = periods.after(begin, unit)
            found.append(
                Bar(
                    begin, end, messages.get(begin, {}), dkim.get(begin, {}), traps.get(begin, 0),
                    whole=end <= self.end,
                )
            )  # fmt: skip
            begin = end
        return found


def read(
    connection: Connection, selection: Selection, first: float, last: float, now: float
) -> Series:
    """The series of `selection`, whose messages came from `first` to `last` (Unix seconds).

    It begins with the selected time or the first message and ends with the selected time or `now`,
    so that a chart also shows how long nothing has come. Raises conditions.TooWide.
    """
    start = first if selection.since is None else min(first, selection.since)
    end = max(last, now if selection.until is None else min(now, selection.until))
    slots: Slots = {}
    whole = day_sums.whole_days(selection)
    if end - start <= HOURS_MAX:
        _from_rows(connection, selection, HOUR, slots)
    elif whole is None:
        _from_rows(connection, selection, DAY, slots)
    else:
        day = DomainDay
        columns = [func.sum(day.messages), func.sum(day.trap_messages)]
        columns += [func.sum(getattr(day, f"dkim_{result}")) for result in RESULTS]
        for row in connection.execute(
            select(day.day, day.family, *columns).where(*whole).group_by(day.day, day.family)
        ):
            number, family, messages, traps, *dkim = row
            slot = slots.setdefault((float(number * DAY), family), Slot())
            slot.messages += int(messages)
            slot.traps += int(traps)
            for result, count in zip(RESULTS, dkim, strict=True):
                slot.dkim[result] += int(count)
        for edge in day_sums.edges(selection):
            _from_rows(connection, edge, DAY, slots)
    return Series(start, end, slots)


def _from_rows(connection: Connection, selection: Selection, step: int, slots: Slots) -> None:
    chosen = conditions(connection, selection)
    # floor: a cast alone rounds on PostgreSQL and truncates on SQLite.
    number = cast(func.floor(Message.at / step), Integer)
    for at, family, messages, traps, ended in connection.execute(
        select(
            number,
            Message.family,
            func.count(),
            func.count().filter(Message.traps > 0),
            func.count().filter(Message.stage == "end"),
        )
        .where(*chosen)
        .group_by(number, Message.family)
    ):
        slot = slots.setdefault((float(at * step), family), Slot())
        slot.messages += messages
        slot.traps += traps
        # Only messages seen to their end: after RCPT TO alone signatures are not known.
        slot.dkim["none"] += ended
    row = MessageSignature
    for at, family, result, signatures, signed in connection.execute(
        select(
            number,
            Message.family,
            row.result,
            func.count(),
            # Positions count from 0: each signed message has one signature there.
            func.count().filter(row.position == 0),
        )
        .join(row, row.message_id == Message.id)
        .where(*chosen)
        .group_by(number, Message.family, row.result)
    ):
        slot = slots[float(at * step), family]
        slot.dkim["none"] -= signed
        slot.dkim[result] += signatures


def of(connection: Connection, selection: Selection, told: Report, now: float) -> Series | None:
    """The series for the report `told` on `selection`; None where it has no message.

    `now`: Unix seconds. Raises conditions.TooWide.
    """
    first, last = told.summary.first_seen, told.summary.last_seen
    if first is None or last is None:
        return None
    return read(connection, selection, first, last, now)
