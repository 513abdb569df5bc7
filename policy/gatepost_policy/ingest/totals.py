"""Add what a batch amounts to (`deltas.Sums`) to the store's sums, identities and DKIM keys.

Everything is upserted in sorted order, the tables always in the same order, so that the recorders
of several hosts take their locks alike.
"""

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter, itemgetter
from typing import TypeVar

from sqlalchemy import Connection, text

from gatepost_policy.ingest import deltas
from gatepost_policy.store import sqltext
from gatepost_policy.store.tables import DomainDay, DomainHost

Key = TypeVar("Key", bound=tuple[object, ...])
Sum = TypeVar("Sum")

# The columns behind the primary key, and a sum's values in that order.
_DAY_COLUMNS = tuple(c.name for c in DomainDay.__table__.columns if not c.primary_key)
_HOST_COLUMNS = tuple(c.name for c in DomainHost.__table__.columns if not c.primary_key)
_day_values = attrgetter(*_DAY_COLUMNS)
_host_values = attrgetter(*_HOST_COLUMNS)
_COUNTED = ("messages", "trap_messages", "trap_hits", *(f"dkim_{r}" for r in deltas.RESULTS))


def by_key(sums: Mapping[Key, Sum]) -> list[tuple[Key, Sum]]:
    """`sums` in the order in which every recorder takes its locks."""
    return sorted(sums.items(), key=itemgetter(0))


def write_sums(connection: Connection, sums: deltas.Sums, learned: float) -> None:
    """Add `sums` to the store's."""
    dialect = connection.dialect.name
    sqltext.many(
        connection,
        sqltext.upsert(
            dialect, "domain_day", *(f"{c}+" for c in _COUNTED), "first_at<", "last_at>"
        ),
        [(*key, *_day_values(day)) for key, day in by_key(sums.days)],
    )
    sqltext.many(
        connection,
        sqltext.upsert(
            dialect,
            "domain_host",
            "messages+",
            "last_at>",
            "name:=CASE WHEN new.name IS NOT NULL AND new.last_at >= old.last_at"
            " THEN new.name ELSE old.name END",
        ),
        [(*key, *_host_values(host)) for key, host in by_key(sums.hosts)],
    )
    _drop_empty(connection, sums)
    _identities(connection, sums, learned)
    sqltext.many(
        connection,
        sqltext.upsert(
            dialect,
            "dkim_key",
            "algorithm:=COALESCE(new.algorithm, old.algorithm)",
            "key_bits:=COALESCE(new.key_bits, old.key_bits)",
            "previous_bits:=CASE WHEN new.key_bits <> old.key_bits"
            " THEN old.key_bits ELSE old.previous_bits END",
            "changed:=CASE WHEN new.key_bits <> old.key_bits THEN new.last_seen"
            " ELSE old.changed END",
            "first_seen<",
            "last_seen>",
            "learned>",
            "messages+",
        ),
        [
            (back, selector, k.domain, k.algorithm, k.key_bits, None, None, k.first, k.last,
             learned, k.messages)
            for (back, selector), k in by_key(sums.keys)
        ],
    )  # fmt: skip


def _drop_empty(connection: Connection, sums: deltas.Sums) -> None:
    """Sums that something was taken out of, and that count nothing any more."""
    dialect = connection.dialect.name
    sqltext.many(
        connection,
        sqltext.native(
            dialect,
            "DELETE FROM domain_day WHERE reversed = ? AND day = ? AND family = ? AND shared = ?"
            " AND messages <= 0",
        ),
        [key for key, day in by_key(sums.days) if day.messages < 0],
    )
    sqltext.many(
        connection,
        sqltext.native(
            dialect,
            "DELETE FROM domain_host WHERE reversed = ? AND host = ? AND shared = ?"
            " AND messages <= 0",
        ),
        [key for key, host in by_key(sums.hosts) if host.messages < 0],
    )


# A day counts when it lies outside of what is known. One that lies inside and had no message yet
# (an older log imported late) is not counted: nobody is called a repeat sender by a guess.
_NEW_DAY = (
    "days:=old.days + CASE WHEN {new.first_seen} > {old.last_seen}"
    " OR {new.last_seen} < {old.first_seen} THEN 1 ELSE 0 END"
)
# SQLite's cast cuts and PostgreSQL's rounds, which would move half of each day to the next.
_DAY_OF = {"sqlite": r"CAST(\1 / 86400 AS bigint)", "postgresql": r"floor(\1 / 86400)"}
_IDENTITY = ("first_seen<", "last_seen>", "learned>", "messages+", "trap_messages+", "ipv4+",
             "ipv6+")  # fmt: skip


def _identities(connection: Connection, sums: deltas.Sums, learned: float) -> None:
    dialect = connection.dialect.name
    one = sqltext.upsert(
        dialect, "identity", *_IDENTITY, re.sub(r"\{(.*?)\}", _DAY_OF[dialect], _NEW_DAY)
    )
    one_day: list[tuple[object, ...]] = []
    several: list[deltas.IdentityKey] = []
    for key, i in by_key(sums.identities):
        kind, value = key
        if len(i.days) > 1:
            several.append(key)
            continue
        one_day.append(
            (kind, value, i.reversed, i.first, i.last, learned, i.messages, i.traps, 1, i.ipv4,
             i.ipv6, False, None)
        )  # fmt: skip
    if not several:
        sqltext.many(connection, one, one_day)
        return
    # Days on both sides of what is known need a look at it. One upsert a day, from the known span
    # outwards, counts each of them; all sorted by identity, so that locks are taken in order.
    known = _spans(connection, several)
    folded: list[tuple[object, ...]] = []
    for key in several:
        kind, value = key
        i = sums.identities[key]
        span = known.get(key)
        days = i.days if span is None else {d for d in i.days if not span[0] <= d <= span[1]}
        folded.append(
            (kind, value, i.reversed, i.first, i.last, learned, i.messages, i.traps, len(days),
             i.ipv4, i.ipv6, False, None)
        )  # fmt: skip
    more = sqltext.upsert(dialect, "identity", *_IDENTITY, "days+")
    # Runs of the same statement go out together; the order over all of them stays sorted.
    run: list[tuple[object, ...]] = []
    current = one
    for row, statement in sorted(
        [(row, one) for row in one_day] + [(row, more) for row in folded],
        key=lambda pair: (pair[0][0], pair[0][1]),
    ):
        if statement is not current:
            sqltext.many(connection, current, run)
            run, current = [], statement
        run.append(row)
    sqltext.many(connection, current, run)


def _spans(
    connection: Connection, wanted: Sequence[deltas.IdentityKey]
) -> dict[deltas.IdentityKey, tuple[int, int]]:
    """(first day, last day) of the identities that exist, locked until the end on a server."""
    lock = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    statement = text(
        "SELECT first_seen, last_seen FROM identity WHERE kind = :kind AND value = :value" + lock
    )
    found: dict[deltas.IdentityKey, tuple[int, int]] = {}
    for key in wanted:
        kind, value = key
        row = connection.execute(statement, {"kind": kind, "value": value}).first()
        if row is not None:
            found[key] = (int(row.first_seen // deltas.DAY), int(row.last_seen // deltas.DAY))
    return found
