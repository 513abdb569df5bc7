"""Let hosts that share a store add to the same sums without waiting for one another.

How it works: on PostgreSQL one host at a time has the turn to add to the sums (a lock that is
tried, not waited for). A host without the turn leaves the sums of its batch in `waiting_sums`, as
one row, and commits; the host with the turn also adds the waiting rows, oldest first. So the sums
are what one recorder would have counted, only a little later; `fold_all` brings them up to date
before they are read or subtracted from. SQLite has one writer, which always has the turn.

Order matters where a message is subtracted: the sums that counted it were committed earlier, so
they wait before it. A host never adds its own sums before sums that wait.

Limits: with more than QUEUE_MAX rows a host does wait for its turn, so that the queue stays short.
"""

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import orjson
from sqlalchemy import Connection, Engine

from gatepost_policy import store
from gatepost_policy.ingest import deltas
from gatepost_policy.ingest.totals import write_sums
from gatepost_policy.store import revision, sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

FOLD = 16  # rows in one transaction
QUEUE_MAX = 256
# Numbers that no other program is likely to use: all advisory locks of a database share one space.
SUMS_TURN = 0x67617465_0001
LISTINGS_TURN = 0x67617465_0002

_OLDEST = "SELECT id, sums FROM waiting_sums ORDER BY id LIMIT ?"
_PUT = "INSERT INTO waiting_sums (sums) VALUES (?)"


def add(connection: Connection, sums: deltas.Sums, learned: float) -> deltas.Sums | None:
    """Add `sums` and waiting ones to the store, or leave `sums` waiting.

    Returns what was added (without `sums` where more than FOLD rows wait before them), None where
    nothing was. `learned` is now, in Unix seconds. Raises SQLAlchemyError.
    """
    if not turn(connection, SUMS_TURN):
        leave(connection, sums, learned)
        waiting = sqltext.execute(connection, "SELECT count(*) FROM waiting_sums").scalar_one()
        if waiting <= QUEUE_MAX:
            return None
        wait(connection, SUMS_TURN)
        taken = _take(connection)
    else:
        taken = _take(connection)
        if taken.more:
            leave(connection, sums, learned)
        else:
            stamp(sums, learned)
            taken.sums.merge(sums)
    write_sums(connection, taken.sums, learned)
    return taken.sums


def stamp(sums: deltas.Sums, learned: float) -> None:
    """Set `learned` (Unix seconds) in `sums`, which may be written later."""
    for identity in sums.identities.values():
        identity.learned = learned
    for key in sums.keys.values():
        key.learned = learned


def leave(connection: Connection, sums: deltas.Sums, learned: float) -> None:
    """Leave `sums`, learned at `learned` (Unix seconds), in `waiting_sums`. Raises
    SQLAlchemyError.
    """
    stamp(sums, learned)
    sqltext.execute(connection, _PUT, (dump(sums),))


def fold_all(engine: Engine, settings: "Settings", *, patient: bool = True) -> None:
    """Add all sums that wait now, in bounded transactions. Raises StoreError.

    Not `patient`: only while no other host has the turn, which takes them along itself.
    """
    sql = "SELECT max(id) FROM waiting_sums"
    with store.reading(engine) as connection:
        newest = sqltext.execute(connection, sql).scalar()
    more = newest is not None
    while more:
        more = store.persistently(
            engine, lambda connection: fold(connection, settings, patient=patient)
        )
        with store.reading(engine) as connection:
            oldest = sqltext.execute(connection, "SELECT min(id) FROM waiting_sums").scalar()
        # Rows that other hosts leave meanwhile are not waited for, so this ends on a busy store,
        # too.
        more = more and oldest is not None and oldest <= newest


def fold(
    connection: Connection, settings: "Settings", *, whole: bool = False, patient: bool = True
) -> bool:
    """Add waiting sums, at most FOLD rows unless `whole`; True where more is waiting.

    Waits for the turn (not `patient`: does nothing where another host has it), and keeps it until
    the transaction ends: call this before anything is subtracted from the sums. Raises
    SQLAlchemyError.
    """
    if patient:
        wait(connection, SUMS_TURN)
    elif not turn(connection, SUMS_TURN):
        return False
    more = True
    while more:
        taken = _take(connection)
        write_sums(connection, taken.sums, 0.0)
        flag_repeat(connection, taken.sums.identities, taken.sums.since, settings)
        more = taken.more
        if not whole:
            break
    return more


def flag_repeat(
    connection: Connection,
    touched: Collection[deltas.IdentityKey],
    since: float | None,
    settings: "Settings",
) -> bool:
    """Flag those of `touched` that became repeat senders; True where there was one.

    `since` (Unix seconds): all of `touched` were last seen at or after it; None: there are none.
    """
    from gatepost_policy import listings

    if since is None or not _perhaps_repeat(connection, since, settings):
        return False
    if not listings.flag_repeat(connection, since, settings, touched):
        return False
    revision.bump(connection, "repeat")
    return True


# Asked for every batch, and hardly ever finds anything: plain SQL takes a tenth of the time.
_REPEAT = """SELECT 1 FROM identity WHERE trap_messages > 0 AND last_seen >= ? AND NOT repeat
 AND messages >= ? AND days >= ? AND last_seen - first_seen >= ? LIMIT 1"""


def _perhaps_repeat(connection: Connection, since: float, settings: "Settings") -> bool:
    """True where an identity seen since then (Unix seconds) may have become a repeat sender."""
    sender = settings.sender
    values = (since, sender.repeat_messages, sender.repeat_messages, sender.repeat_span)
    return sqltext.execute(connection, _REPEAT, values).first() is not None


def wait(connection: Connection, which: int) -> None:
    """Wait for this turn, and keep it until the transaction ends; a SQLite writer always has it."""
    if connection.dialect.name == "postgresql":
        sqltext.execute(connection, "SELECT pg_advisory_xact_lock(?)", (which,))


def turn(connection: Connection, which: int) -> bool:
    """Take this turn until the transaction ends; False where another host has it."""
    if connection.dialect.name == "sqlite":
        return True
    sql = "SELECT pg_try_advisory_xact_lock(?)"
    return bool(sqltext.execute(connection, sql, (which,)).scalar())


@dataclass(slots=True)
class _Taken:
    """Sums that waited and are to be written now; `more`: others still wait."""

    sums: deltas.Sums
    more: bool


def _take(connection: Connection) -> _Taken:
    """Take the oldest FOLD waiting rows out of the table."""
    sums = deltas.Sums()
    found = sqltext.execute(connection, _OLDEST, (FOLD + 1,)).all()
    taken = found[:FOLD]
    for row in taken:
        sums.merge(load(row.sums))
    sqltext.many(connection, "DELETE FROM waiting_sums WHERE id = ?", [(r.id,) for r in taken])
    return _Taken(sums, len(found) > len(taken))


# Waiting sums are JSON: for each table the fields' names once, and their values for each key. So a
# release with more fields can read what one with fewer has left.


def dump(sums: deltas.Sums) -> str:
    """`sums` as text. `load` reads it."""
    out: dict[str, Any] = {}
    for name, kind in _KINDS.items():
        names = [field.name for field in fields(kind)]
        values: Callable[[Any], tuple[object, ...]] = attrgetter(*names)
        out[name] = {
            "fields": names,
            "rows": [[key, values(one)] for key, one in getattr(sums, name).items()],
        }
    try:
        return orjson.dumps(out, default=sorted).decode()
    except TypeError:  # half of a surrogate pair
        return json.dumps(out, separators=(",", ":"), default=sorted)


def load(text: str) -> deltas.Sums:
    """The sums that `dump` wrote."""
    sums = deltas.Sums()
    try:
        tables = orjson.loads(text)
    except ValueError:
        tables = json.loads(text)
    for name, told in tables.items():
        found, kind = getattr(sums, name), _KINDS[name]
        names = [field.name for field in fields(kind)]
        seen = names.index("seen") if "seen" in names else -1
        if told["fields"] == names:
            for key, values in told["rows"]:
                if seen >= 0:
                    values[seen] = set(values[seen])
                found[tuple(key)] = kind(*values)
            continue
        for key, values in told["rows"]:
            given = dict(zip(told["fields"], values, strict=True))
            if "seen" in given:
                given["seen"] = set(given["seen"])
            found[tuple(key)] = kind(**given)
    return sums


_KINDS: dict[str, Any] = {
    "identities": deltas.IdentitySum,
    "days": deltas.DaySum,
    "hosts": deltas.HostSum,
    "keys": deltas.KeySum,
}
