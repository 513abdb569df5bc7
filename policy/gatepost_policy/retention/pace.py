"""Up to which time retention may purge: a wall clock that is wrong must not empty the store.

How it works: the store keeps the time of the last purge (`revision`, topic `purge-clock`). The wall
clock is trusted only when it has run evenly with the steady clock for SETTLE_S: since the process
started, or since the wall clock was last set. Where it is then more than SUSPECT_S after the last
purge (a machine that was off for weeks, or a wrong clock), the purge moves on by only SLICE_S every
SETTLE_S. So a clock that is wrong for a moment deletes nothing, one that stays wrong deletes a day
of rows each hour, and after three weeks off the purge is up to date within a day.

Limits: a process that never runs for SETTLE_S purges nothing; `milterctl db purge` does. The steady
clock (CLOCK_BOOTTIME) goes on while a machine sleeps, not while it is off.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from sqlalchemy import Connection, Engine

from gatepost_policy import store
from gatepost_policy.store import revision, sqltext
from gatepost_policy.text.times import timestamp

TOPIC = "purge-clock"
SETTLE_S = 3_600.0
SUSPECT_S = 2 * 86_400.0
SLICE_S = 86_400.0
# Seconds: more than a leap second, and than an NTP daemon may slew in an hour (0.5 ms a second: 2
# s).
LEAP_S = 60.0

Log = Callable[[str, str], None]  # level, text


def steady() -> float:
    """Seconds of a clock that cannot be set, and that runs on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@dataclass
class Pace:
    """What one process knows of its clock. `settled` (steady seconds) is when the wall clock was
    last set, or when the process started.
    """

    log: Log
    settled: float = field(default_factory=steady)
    _offset: float | None = None
    _slice: float | None = None
    _said: bool = False
    _begun: bool = False
    _first: float | None = None  # `forgotten` at the start, for a store that was never purged

    def begin(self, engine: Engine) -> None:
        """Read the store's time before this process writes to it. Raises StoreError."""
        if not self._begun:
            self._first = forgotten(engine)
            self._begun = True

    def look(self, now: float, at: float) -> bool:
        """True where the wall clock has run evenly for SETTLE_S. Call it often.

        `now` is the wall clock (Unix seconds), `at` the steady one.
        """
        offset = now - at
        leap = 0.0 if self._offset is None else offset - self._offset
        if abs(leap) > LEAP_S:
            self.settled, self._slice = at, None
            self.log(
                "warning",
                f"retention: the clock was set by {leap:+.0f} s; nothing is forgotten for an hour",
            )
        self._offset = offset
        return at - self.settled >= SETTLE_S

    def target(self, engine: Engine, now: float, at: float) -> float | None:
        """The time up to which to purge (Unix seconds), used as "now"; None: not yet. Raises
        StoreError.
        """
        if not self.look(now, at):
            return None
        self.begin(engine)
        with store.reading(engine) as connection:
            kept = revision.number(connection, TOPIC)
        base = float(kept) if kept else self._first
        if base is None or now - base <= SUSPECT_S:
            self._said = False
            return now
        if not self._said:
            self.log(
                "warning",
                f"retention: the clock says {timestamp(now)}, the store was last at "
                f"{timestamp(base)}: it is followed by a day an hour",
            )
            self._said = True
        if self._slice is not None and at - self._slice < SETTLE_S:
            return None
        self._slice = at
        return base + SLICE_S


def forgotten(engine: Engine) -> float | None:
    """The time of the last purge (Unix seconds); in a store without one, when its newest row was
    learned.

    None for a store without rows. Raises StoreError.
    """
    with store.reading(engine) as connection:
        number = revision.number(connection, TOPIC)
        if number:
            return float(number)
        newest = connection.exec_driver_sql(
            "SELECT learned FROM message ORDER BY id DESC LIMIT 1"
        ).scalar()
        return None if newest is None else float(newest)


def remember(engine: Engine, upto: float, *, back: bool = False) -> None:
    """Record a purge up to `upto` (Unix seconds). Raises StoreError.

    The time goes back only with `back`, where the operator says that the clock is right now.
    """
    with store.writing(engine) as connection:
        sql = (
            "INSERT INTO revision (topic, number) VALUES (?, ?) ON CONFLICT (topic)"
            " DO UPDATE SET number = excluded.number"
        ) + ("" if back else " WHERE excluded.number > revision.number")
        sqltext.execute(connection, sql, (TOPIC, int(upto)))


def by_hand(engine: Engine, now: float) -> float | None:
    """The time of the last purge, where the clock is too far after it to be trusted by a command;
    else None.

    `now` and the result are Unix seconds. Raises StoreError.
    """
    base = forgotten(engine)
    return base if base is not None and now - base > SUSPECT_S else None


def learned(connection: Connection, now: float) -> float:
    """The `learned` time of a record that is written now (Unix seconds): never before the last
    purge.

    Otherwise a clock at 1970 after a start would make today's mail look old.
    """
    return max(now, float(revision.number(connection, TOPIC)))
