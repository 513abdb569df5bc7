"""Add the sums of a batch (`deltas.Sums`) to the store's sums, identities and DKIM keys.

Everything is upserted in sorted order, the tables always in the same order, so that the recorders
of several hosts take their locks in the same order and cannot deadlock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter, itemgetter
from typing import TypeVar

from sqlalchemy import Connection

from gatepost_policy.ingest import deltas
from gatepost_policy.store import sqltext
from gatepost_policy.store.tables import DkimKey, DomainDay, DomainHost, SenderIdentity

Key = TypeVar("Key", bound=tuple[object, ...])
Sum = TypeVar("Sum")

# The columns after the primary key, and a sum's values in that order.
_DAY_COLUMNS = tuple(c.name for c in DomainDay.__table__.columns if not c.primary_key)
_HOST_COLUMNS = tuple(c.name for c in DomainHost.__table__.columns if not c.primary_key)
_day_values = attrgetter(*_DAY_COLUMNS)
_host_values = attrgetter(*_HOST_COLUMNS)
_identity_values = attrgetter(*(c.name for c in SenderIdentity.__table__.columns))
_key_values = attrgetter(*(c.name for c in DkimKey.__table__.columns))
_SPANS = ("first_at", "last_at")
_COUNTED = tuple(name for name in _DAY_COLUMNS if name not in _SPANS)


def by_key(sums: Mapping[Key, Sum]) -> list[tuple[Key, Sum]]:
    """`sums` in the order in which every recorder takes its locks."""
    return sorted(sums.items(), key=itemgetter(0))


def write_sums(connection: Connection, sums: deltas.Sums, learned: float) -> None:
    """Add `sums` to those of the store. `learned` (Unix seconds) is set where a sum has none."""
    sqltext.many(
        connection,
        sqltext.upsert("domain_day", *(f"{c}+" for c in _COUNTED), "first_at<", "last_at>"),
        [(*key, *_day_values(day)) for key, day in by_key(sums.days)],
    )
    sqltext.many(
        connection,
        sqltext.upsert(
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
    for key in sums.keys.values():
        key.learned = key.learned or learned
    sqltext.many(
        connection,
        sqltext.upsert(
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
        [_key_values(key) for _, key in by_key(sums.keys)],
    )


def _drop_empty(connection: Connection, sums: deltas.Sums) -> None:
    """Delete sums whose number of messages has gone down to 0."""
    sqltext.many(
        connection,
        "DELETE FROM domain_day WHERE reversed = ? AND day = ? AND family = ? AND shared = ?"
        " AND messages <= 0",
        [key for key, day in by_key(sums.days) if day.messages <= 0],
    )
    sqltext.many(
        connection,
        "DELETE FROM domain_host WHERE reversed = ? AND host = ? AND shared = ? AND messages <= 0",
        [key for key, host in by_key(sums.hosts) if host.messages <= 0],
    )


# A day is counted when it is before the first or after the last day seen. Within them it may have
# been counted before, so it is not counted again: a guess must not make a repeat sender.
_NEW_DAY = (
    "days:=old.days + CASE WHEN utc_day(new.first_seen) > utc_day(old.last_seen)"
    " OR utc_day(new.last_seen) < utc_day(old.first_seen) THEN 1 ELSE 0 END"
)
_IDENTITY = ("first_seen<", "last_seen>", "learned>", "messages+", "trap_messages+", "ipv4+",
             "ipv6+")  # fmt: skip


def _identities(connection: Connection, sums: deltas.Sums, learned: float) -> None:
    one_day = sqltext.upsert("identity", *_IDENTITY, _NEW_DAY)
    several = [key for key, found in by_key(sums.identities) if len(found.seen) > 1]
    # With several days the known first and last day must be read, to count those outside of them.
    counted = sqltext.upsert("identity", *_IDENTITY, "days+")
    known = _spans(connection, several)
    # Runs of the same statement go out together; the order over all of them stays sorted, so that
    # locks are taken in order.
    run: list[tuple[object, ...]] = []
    current = one_day
    for key, found in by_key(sums.identities):
        statement = one_day
        found.learned = found.learned or learned
        if len(found.seen) > 1:
            statement = counted
            span = known.get(key)
            found.days = sum(1 for day in found.seen if span is None or not span.holds(day))
        if statement is not current:
            sqltext.many(connection, current, run)
            run, current = [], statement
        run.append(_identity_values(found))
    sqltext.many(connection, current, run)


@dataclass(frozen=True, slots=True)
class _Span:
    """The first and the last UTC day of an identity."""

    first: int
    last: int

    def holds(self, day: int) -> bool:
        return self.first <= day <= self.last


def _spans(
    connection: Connection, wanted: Sequence[deltas.IdentityKey]
) -> dict[deltas.IdentityKey, _Span]:
    """The days of the identities that exist; on PostgreSQL their rows stay locked until the
    commit.
    """
    sql = "SELECT first_seen, last_seen FROM identity WHERE kind = ? AND value = ?"
    found: dict[deltas.IdentityKey, _Span] = {}
    for key in wanted:
        row = sqltext.execute(connection, sqltext.locked(connection, sql), key).first()
        if row is not None:
            first, last = int(row.first_seen // deltas.DAY), int(row.last_seen // deltas.DAY)
            found[key] = _Span(first, last)
    return found
