"""Delete rows older than the `[retention]` periods, a bounded number in each step.

How it works: message ids grow with `learned`, the time at which the recorder stored a message, so
each class goes through them once, from the id where it stopped (`revision`, topic `purge-*`) up to
its age. Ages count from `learned`, not from when the mail came: an old log that was just imported
is kept as well.

| class | age | what becomes of it |
|---|---|---|
| recipients | `recipients` | of mail without a trap: deleted |
| addresses | `addresses` | of mail without a trap: the client becomes a /24 or /48, names go |
| rows | `rows` | of mail without a trap: a number in `message_count` |
| traps | `traps` | trap mail and its listings: likewise |

Identities and DKIM keys have no such order: a pass over them once a day, in primary-key order,
deletes identities without a trap hit that were not recorded for `rows` (a client: `addresses`), and
other identities and all keys after `traps`. Sums per domain follow the rows: a message that is
deleted is subtracted from them. Tried addresses that do not exist are deleted after `guesses`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from gatepost_policy import ingest, store
from gatepost_policy.ingest import deltas, rows
from gatepost_policy.ingest.rows import Row
from gatepost_policy.listings.table import CHANGES_KEPT
from gatepost_policy.mail import index_key
from gatepost_policy.store import StoreError, partitions, sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

# Messages in one step: one short transaction, because the recorder waits meanwhile.
STEP = 500
CLASSES = ("recipients", "addresses", "rows", "traps")
NEVER = ("", "")
NOTICES_S = 30 * 86_400
# Its values are the limits of `learned` (Unix seconds) for identities that hit a trap, for clients,
# and for all others.
OLD_IDENTITY = "learned < CASE WHEN trap_messages > 0 THEN ? WHEN kind = 'prefix' THEN ? ELSE ? END"

# What a class still has to delete of a message whose row stays.
STILL_THERE = {
    "recipients": "EXISTS (SELECT 1 FROM recipient WHERE recipient.message_id = message.id)",
    "addresses": "(address IS NOT NULL OR client_name IS NOT NULL OR helo IS NOT NULL)",
}


@dataclass(slots=True)
class Purged:
    """How much was purged, for `db purge`."""

    recipients: int = 0  # messages that lost their recipients
    addresses: int = 0  # messages whose client became a prefix
    rows: int = 0  # messages that became counts
    identities: int = 0
    keys: int = 0
    guesses: int = 0  # rows of tried addresses and of hosts that try logins
    partitions: int = 0

    def __str__(self) -> str:
        """What was purged, for the log; empty where nothing was."""
        words = (
            (self.recipients, "messages lost their recipients"),
            (self.addresses, "client addresses became prefixes"),
            (self.rows, "messages became counts"),
            (self.identities, "identities went"),
            (self.keys, "DKIM keys went"),
            (self.guesses, "guesses went"),
            (self.partitions, "partitions went"),
        )
        return ", ".join(f"{number} {what}" for number, what in words if number)


@dataclass
class Purger:
    """The purge of one process. `step` does a part of it; `done` is what all steps did together."""

    engine: Engine
    settings: "Settings"
    done: Purged = field(default_factory=Purged)
    _todo: list[str] = field(default_factory=list)
    _cursor: tuple[str, str] = NEVER

    def step(self, now: float) -> bool:
        """Purge a part of what is too old at `now` (Unix seconds); True where more is to do. Raises
        StoreError.
        """
        if not self._todo:
            self._todo = [*CLASSES, "identity", "dkim_key", "rest"]
        kind = self._todo[0]
        try:
            if kind in CLASSES:
                more = self._walk(kind, now)
            elif kind == "rest":
                more = self._rest(now)
            else:
                more = self._pass(kind, now)
        except StoreError as error:
            if isinstance(error.__cause__, SQLAlchemyError) and store.retryable(error.__cause__):
                return True  # another host works on the same rows; this part is done again
            raise
        if not more:
            self._todo.pop(0)
        return bool(self._todo)

    def _walk(self, kind: str, now: float) -> bool:
        return self._in_order(kind, now) or self._ahead(kind, now)

    def _in_order(self, kind: str, now: float) -> bool:
        """The next messages of a class, by their ids; True where more may be due."""
        cutoff = now - getattr(self.settings.retention, kind)
        topic = f"purge-{kind}"
        with store.writing(self.engine) as connection:
            mark = _mark(connection, topic)
            looked = _looked(connection, mark, now)
            due = 0
            while due < len(looked) and looked[due].learned < cutoff:
                due += 1
            found = [(row.id, row.traps) for row in looked[:due]]
            if not found:
                return False
            trapped = kind == "traps"
            ids = [number for number, traps in found if (traps > 0) is trapped]
            if ids:
                ingest.fold(connection, self.settings, whole=True)
                getattr(self, f"_{kind}")(connection, ids, now)
            _set_mark(connection, topic, found[-1][0])
        return len(found) == STEP

    def _ahead(self, kind: str, now: float) -> bool:
        """The same for messages that a clock far ahead has numbered (PostgreSQL): their ids are of
        a month to come, so in the order of ids their turn would come in years.
        """
        if self.engine.dialect.name != "postgresql":
            return False  # ids count up there, whatever the clock says
        first = partitions.first_id(partitions.month_of(now) + 2)
        with store.writing(self.engine) as connection:
            # When they were learned is not known; at the latest now.
            sql = (
                "UPDATE message SET learned = ? WHERE id IN"
                " (SELECT id FROM message WHERE id >= ? AND learned > ? ORDER BY id LIMIT ?)"
            )
            dated = sqltext.execute(connection, sql, (now, first, now, STEP)).rowcount
            sql = (
                "SELECT id FROM message WHERE id >= ? AND learned < ?"
                f" AND traps {'>' if kind == 'traps' else '='} 0"
                f" AND {STILL_THERE.get(kind, 'true')} ORDER BY id LIMIT ?"
            )
            values = (first, now - getattr(self.settings.retention, kind), STEP)
            ids = [int(n) for n in sqltext.execute(connection, sql, values).scalars()]
            if ids:
                ingest.fold(connection, self.settings, whole=True)
                getattr(self, f"_{kind}")(connection, ids, now)
        return STEP in (dated, len(ids))

    def _recipients(self, connection: Connection, ids: list[int], now: float) -> None:
        ingest.guesses.remember_accepted(connection, ids, now)
        sql = "DELETE FROM recipient WHERE message_id = ?"
        sqltext.many(connection, sql, [(i,) for i in ids])
        self.done.recipients += len(ids)

    def _addresses(self, connection: Connection, ids: list[int], now: float) -> None:
        sums = deltas.Sums()
        changes: list[tuple[object, ...]] = []
        for row in rows.load(connection, ids).values():
            prefix = row.message.prefix
            if prefix is None:
                changes.append((None, row.id))
                continue
            coarse = index_key.coarse_prefix(prefix)
            sums.move_host(row, row.message.address or prefix, coarse)
            changes.append((coarse, row.id))
        sql = (
            "UPDATE message SET prefix = ?, address = NULL, client_name = NULL, helo = NULL,"
            " session = NULL, helo_spf_domain = NULL,"
            # For a bounce this is the HELO name (RFC 7208 2.4).
            " spf_domain = CASE WHEN sender_key = '' THEN NULL ELSE spf_domain END WHERE id = ?"
        )
        sqltext.many(connection, sql, changes)
        ingest.write_sums(connection, sums, now)
        self.done.addresses += len(changes)

    def _rows(self, connection: Connection, ids: list[int], now: float) -> None:
        self.done.rows += to_counts(connection, ids, now)

    _traps = _rows

    def _pass(self, table: str, now: float) -> bool:
        """A part of the daily pass over `identity` or `dkim_key`, in primary-key order."""
        first, second = ("kind", "value") if table == "identity" else ("reversed", "selector")
        topic = f"purge-{table}"
        today = int(now // deltas.DAY)
        with store.writing(self.engine) as connection:
            if self._cursor == NEVER and _mark(connection, topic) >= today:
                return False
            sql = (
                f"SELECT {first}, {second} FROM {table} WHERE ({first}, {second}) > (?, ?)"
                f" ORDER BY {first}, {second} LIMIT ?"
            )
            got = sqltext.execute(connection, sql, (*self._cursor, STEP)).all()
            if got:
                last = (str(got[-1][0]), str(got[-1][1]))
                self._drop(connection, table, self._cursor, last, now)
                self._cursor = last
            if len(got) == STEP:
                return True
            self._cursor = NEVER
            _set_mark(connection, topic, today)
        return False

    def _drop(
        self,
        connection: Connection,
        table: str,
        after: tuple[str, str],
        last: tuple[str, str],
        now: float,
    ) -> None:
        ages = self.settings.retention
        limits: tuple[float, ...]
        if table == "identity":
            sql = (
                "DELETE FROM identity WHERE (kind, value) > (?, ?) AND (kind, value) <= (?, ?)"
                f" AND {OLD_IDENTITY}"
            )
            limits = (now - ages.traps, now - ages.addresses, now - ages.rows)
        else:
            sql = (
                "DELETE FROM dkim_key WHERE (reversed, selector) > (?, ?)"
                " AND (reversed, selector) <= (?, ?) AND learned < ?"
            )
            limits = (now - ages.traps,)
        gone = sqltext.execute(connection, sql, (*after, *last, *limits)).rowcount
        if table == "identity":
            self.done.identities += gone
        else:
            self.done.keys += gone

    def _rest(self, now: float) -> bool:
        ages = self.settings.retention
        with store.writing(self.engine) as connection:
            # Evidence is deleted with its listing (ON DELETE CASCADE); in parts here too.
            sql = (
                "DELETE FROM listing WHERE id IN"
                " (SELECT id FROM listing WHERE until < ? ORDER BY until LIMIT ?)"
            )
            gone = sqltext.execute(connection, sql, (now - ages.traps, STEP)).rowcount
            sql = (
                "DELETE FROM listing_change WHERE id <"
                " (SELECT COALESCE(MAX(id), 0) FROM listing_change) - ?"
            )
            sqltext.execute(connection, sql, (CHANGES_KEPT,))
            # Hits are kept for as long as they may double a listing.
            sql = "DELETE FROM trap_hit WHERE at < ?"
            sqltext.execute(connection, sql, (now - self.settings.sender.listing_memory,))
            # Acts of operators are kept as long as the listings that they made.
            sqltext.execute(connection, "DELETE FROM act WHERE at < ?", (now - ages.traps,))
            # Events of notices; the rows that they came from have their own periods.
            sql = "DELETE FROM notice WHERE last < ?"
            sqltext.execute(connection, sql, (now - min(NOTICES_S, ages.traps),))
            sql = 'DELETE FROM journal_gap WHERE "until" < ?'
            sqltext.execute(connection, sql, (now - ages.rows,))
            forgotten = ingest.guesses.purge(connection, now - ages.guesses, STEP)
            self.done.guesses += forgotten
        if STEP in (gone, forgotten) or forgotten > STEP:
            return True
        self.done.partitions += partitions.drop_empty(self.engine, now - ages.rows)
        return False


def purge(
    engine: Engine,
    settings: "Settings",
    now: float | None = None,
    progress: Callable[[Purged], None] = lambda done: None,
) -> Purged:
    """Purge everything that is due at `now` (Unix seconds, None: the clock), step by step. Raises
    StoreError.
    """
    purger = Purger(engine, settings)
    while purger.step(time.time() if now is None else now):
        progress(purger.done)
    return purger.done


def due(connection: Connection, settings: "Settings", now: float) -> Purged:
    """What a purge at `now` (Unix seconds) would do; partitions are not looked at.

    Each class is counted alone: what one deletes may leave less for the next. Raises StoreError.
    """
    ages, found = settings.retention, Purged()
    for kind in CLASSES:
        mark = "SELECT COALESCE(MAX(number), 0) FROM revision WHERE topic = ?"
        of_class = "traps > 0" if kind == "traps" else "traps = 0"
        sql = f"SELECT COUNT(*) FROM message WHERE id > ({mark}) AND learned < ? AND {of_class}"
        number = int(
            sqltext.execute(
                connection, sql, (f"purge-{kind}", now - getattr(ages, kind))
            ).scalar_one()
        )
        name = "rows" if kind == "traps" else kind
        setattr(found, name, getattr(found, name) + number)
    sql = f"SELECT COUNT(*) FROM identity WHERE {OLD_IDENTITY}"
    limits = (now - ages.traps, now - ages.addresses, now - ages.rows)
    found.identities = int(sqltext.execute(connection, sql, limits).scalar_one())
    sql = "SELECT COUNT(*) FROM dkim_key WHERE learned < ?"
    found.keys = int(sqltext.execute(connection, sql, (now - ages.traps,)).scalar_one())
    for table in ("mined", "groper"):
        sql = f"SELECT COUNT(*) FROM {table} WHERE learned < ?"
        limit = now - ages.guesses
        found.guesses += int(sqltext.execute(connection, sql, (limit,)).scalar_one())
    return found


def to_counts(connection: Connection, ids: list[int], now: float) -> int:
    """Delete these messages and count them in `message_count`; returns how many there were. `now`
    is in Unix seconds.
    """
    gone = list(rows.load(connection, ids).values())
    sums = deltas.Sums()
    ingest.remove(connection, gone, sums)
    ingest.write_sums(connection, sums, now)
    counts: dict[tuple[int, str, str, str], int] = {}
    for row in gone:
        key = _count_key(row)
        counts[key] = counts.get(key, 0) + 1
    sqltext.many(
        connection,
        sqltext.upsert("message_count", "messages+"),
        [(*key, n) for key, n in sorted(counts.items())],
    )
    ingest.import_runs.counted(connection, [row.id for row in gone])
    for table in ("evidence", "message_key", "trap_hit", "waiting_hit"):
        sql = f"DELETE FROM {table} WHERE message_id = ?"
        sqltext.many(connection, sql, [(row.id,) for row in gone])
    return len(gone)


@dataclass(frozen=True, slots=True)
class _Looked:
    """One message in the order of ids."""

    id: int
    learned: float  # Unix seconds, not in the future
    traps: int


def _looked(connection: Connection, mark: int, now: float) -> list[_Looked]:
    """The next STEP messages after the id `mark`.

    Rows with a `learned` in the future, from a wrong clock, would stop the purge until then: they
    count as old as the next row that is not.
    """
    sql = "SELECT id, learned, traps FROM message WHERE id > ? ORDER BY id LIMIT ?"
    got = sqltext.execute(connection, sql, (mark, STEP)).all()
    learned: float | None = None
    if got and got[-1].learned > now:
        sql = "SELECT learned FROM message WHERE id > ? AND learned <= ? ORDER BY id LIMIT 1"
        found = sqltext.execute(connection, sql, (got[-1].id, now)).scalar()
        learned = now if found is None else float(found)
    looked: list[_Looked] = []
    for row in reversed(got):
        learned = float(row.learned) if row.learned <= now or learned is None else learned
        looked.append(_Looked(int(row.id), learned, int(row.traps)))
    looked.reverse()
    return looked


def _count_key(row: Row) -> tuple[int, str, str, str]:
    message = row.message
    return int(row.at // deltas.DAY), message.family, message.action, message.reason


def _mark(connection: Connection, topic: str) -> int:
    """How far a class has come; locked on PostgreSQL, so that hosts take turns."""
    sql = "INSERT INTO revision (topic, number) VALUES (?, 0) ON CONFLICT (topic) DO NOTHING"
    sqltext.execute(connection, sql, (topic,))
    sql = sqltext.locked(connection, "SELECT number FROM revision WHERE topic = ?")
    return int(sqltext.execute(connection, sql, (topic,)).scalar_one())


def _set_mark(connection: Connection, topic: str, number: int) -> None:
    sql = "UPDATE revision SET number = ? WHERE topic = ?"
    sqltext.execute(connection, sql, (number, topic))
