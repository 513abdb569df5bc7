"""Remove the times of erased messages from sums, identities and DKIM keys.

The first and last time of a day's sum are found anew among the rows that are left. Hosts,
identities and DKIM keys may be older than the rows: where an erased message was the first or the
newest, the time is cut to its UTC day (which `message_count` holds as well).

Call it in the transaction that erases, after the rows were deleted.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from gatepost_policy.ingest import deltas, rows, totals
from gatepost_policy.ingest.deltas import DayKey
from gatepost_policy.ingest.rows import Row
from gatepost_policy.store import sqltext

# Messages loaded at once: the first or last one of a sum is mostly among the first few.
LOOK = 100
# So many of a day's are looked at; then those of the domain alone. Of a rare domain there may be
# none left that day, and others wait for the lock meanwhile.
LOOK_MAX = 300


@dataclass(frozen=True, order=True, slots=True)
class _Time:
    """The primary key of a sum, with `at` and `learned` of an erased message in it (Unix
    seconds).
    """

    key: tuple[str | int, ...]
    at: float
    learned: float


def forget(connection: Connection, gone: Sequence[Row]) -> None:
    """Remove every time of the messages `gone`, whose rows are deleted, from the sums."""
    sums = deltas.Sums()
    hosts: set[_Time] = set()
    identities: set[_Time] = set()
    keys: set[_Time] = set()
    for row in gone:
        one = deltas.Sums()
        names = row.keys()[1]
        sums.add(row, names)
        one.add(row, names)
        learned = row.message.learned
        hosts.update(_Time(key, row.at, learned) for key in one.hosts)
        identities.update(_Time(key, row.at, learned) for key in one.identities)
        keys.update(_Time(key, row.at, learned) for key in one.keys)
    _days(connection, sums)
    _to_the_day(connection, "domain_host", ("reversed", "host", "shared"), hosts, ("last_at",))
    seen = ("first_seen", "last_seen")
    _to_the_day(connection, "identity", ("kind", "value"), identities, seen)
    _to_the_day(connection, "dkim_key", ("reversed", "selector"), keys, (*seen, "changed"))


def _days(connection: Connection, sums: deltas.Sums) -> None:
    """Set the first and last time of each day's sums anew, where it was an erased message's."""
    sql = (
        "SELECT first_at, last_at FROM domain_day"
        " WHERE reversed = ? AND day = ? AND family = ? AND shared = ?"
    )
    ends: dict[str, dict[tuple[int, str], set[DayKey]]] = {"first_at": {}, "last_at": {}}
    for key, erased in totals.by_key(sums.days):
        found = sqltext.execute(connection, sql, key).first()
        if found is None:
            continue
        for column, stored, ours in (
            ("first_at", found.first_at, erased.first_at),
            ("last_at", found.last_at, erased.last_at),
        ):
            if stored == ours:
                _, day, family, _ = key
                ends[column].setdefault((day, family), set()).add(key)
    for column, wanted in ends.items():
        changes: list[tuple[object, ...]] = []
        for (day, family), missing in wanted.items():
            at = _nearest(connection, day, family, missing, newest=column == "last_at")
            changes += [(at.get(key, day * deltas.DAY), *key) for key in missing]
        sql = (
            f"UPDATE domain_day SET {column} = ?"
            " WHERE reversed = ? AND day = ? AND family = ? AND shared = ?"
        )
        sqltext.many(connection, sql, sorted(changes, key=lambda c: c[1:]))


def _nearest(
    connection: Connection, day: int, family: str, wanted: set[DayKey], *, newest: bool
) -> dict[DayKey, float]:
    """The time of the first (or newest) message of that day in each of these sums."""
    order = "DESC" if newest else "ASC"
    span = (float(day * deltas.DAY), float((day + 1) * deltas.DAY))
    sql = (
        "SELECT id FROM message WHERE at >= ? AND at < ? AND family = ?"
        f" ORDER BY at {order}, id LIMIT ?"
    )
    ids = sqltext.execute(connection, sql, (*span, family, LOOK_MAX)).scalars().all()
    found: dict[DayKey, float] = {}
    _look(connection, ids, day, wanted, found)
    # `org.example.` is a d=, `org.example.@local` an address (`store.tables.MessageDomain`).
    where = "at >= ? AND at < ?"
    sql = (
        f"SELECT message_id, at FROM message_domain WHERE reversed = ? AND {where}"
        " UNION SELECT message_id, at FROM message_domain"
        f" WHERE reversed >= ? AND reversed < ? AND {where} ORDER BY at {order}, message_id"
    )
    for name in sorted(
        {key[0] for key in wanted if key not in found} if len(ids) == LOOK_MAX else ()
    ):
        values = (name, *span, f"{name}@", f"{name}A", *span)
        mine = {key for key in wanted if key[0] == name}
        _look(
            connection, sqltext.execute(connection, sql, values).scalars().all(), day, mine, found
        )
    return found


def _look(
    connection: Connection,
    ids: Sequence[int],
    day: int,
    wanted: set[DayKey],
    found: dict[DayKey, float],
) -> None:
    """Note in `found` the time of the first of these messages that is in each of these sums."""
    for part in sqltext.chunks(ids, LOOK):
        if all(key in found for key in wanted):
            return
        loaded = rows.load(connection, part)
        for number in part:
            row = loaded[number]
            for name, shared in row.keys()[1]:
                key = (name, day, row.message.family, shared)
                if key in wanted:
                    found.setdefault(key, row.at)


def _to_the_day(
    connection: Connection,
    table: str,
    key: tuple[str, ...],
    times: Iterable[_Time],
    columns: tuple[str, ...],
) -> None:
    """Cut `columns` to the start of their day where they are an erased message's time."""
    where = " AND ".join(f"{name} = ?" for name in key)
    ordered = sorted(times)
    cut = sorted({(time.key, time.at) for time in ordered})
    for column in columns:
        # `first_seen` is cut first; `last_seen` must not get before it.
        value = "CAST(? AS double precision)"
        if column == "last_seen":
            value = f"CASE WHEN first_seen > {value} THEN first_seen ELSE {value} END"
        marks = value.count("?")
        sql = f"UPDATE {table} SET {column} = {value} WHERE {where} AND {column} = ?"
        changes = [(*[_day(at)] * marks, *row_key, at) for row_key, at in cut]
        sqltext.many(connection, sql, changes)
    if "first_seen" in columns:
        sql = f"UPDATE {table} SET learned = ? WHERE {where} AND learned = ?"
        learned = sorted({(time.key, time.learned) for time in ordered})
        changes = [(_day(at), *row_key, at) for row_key, at in learned]
        sqltext.many(connection, sql, changes)


def _day(at: float) -> float:
    return float(at // deltas.DAY * deltas.DAY)
