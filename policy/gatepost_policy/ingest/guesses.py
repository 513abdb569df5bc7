"""Write records of tried addresses that do not exist, and of hosts that try logins, to the store.

Each source (an import, or 0 for a followed log) has rows of its own for all that it has read, also
where another source has read it too: so to undo an import is to delete its rows.

Limits: at most MAX_ROWS addresses and as many hosts; when there are so many, new ones are left out.
Lines that `milterctl watch` reads twice after a crash are no new hits.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import Connection

from gatepost_policy.ingest import import_runs
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import index_key
from gatepost_policy.store import sqltext
from gatepost_policy.store.guess_tables import LIVE, MAX_ROWS
from gatepost_policy.traps.existing import HAD_MAIL

MAX_HOSTS = 16  # of one address
KINDS = ("guess", "groper", "no-guess")
TRIED = ("rcpt", "backscatter", "login")

Key = TypeVar("Key")
Host = tuple[str, float, float]  # prefix, first and last time


@dataclass(slots=True)
class _Row:
    """The values of a row of `mined` or `groper` without its key. Times are Unix seconds; `hosts`
    holds the first and last time by prefix.
    """

    first: float
    last: float
    count: int  # hits, attempts
    names: int = 0
    hosts: dict[str, tuple[float, float]] = field(default_factory=dict)

    def add(self, other: "_Row", live: bool) -> None:
        """Add `other`, which was recorded later. A followed log comes in order of time: a record
        that is not newer was read twice and is not counted.
        """
        if not live or other.last > self.last:
            self.count += other.count
        self.first, self.last = min(self.first, other.first), max(self.last, other.last)
        self.names = max(self.names, other.names)
        for prefix, (first, last) in other.hosts.items():
            before = self.hosts.get(prefix)
            if before is not None:
                self.hosts[prefix] = min(before[0], first), max(before[1], last)
            elif len(self.hosts) < MAX_HOSTS:
                self.hosts[prefix] = first, last


@dataclass(slots=True)
class Guesses:
    """The rows of a batch of records: `mined` by (address, kind), `gropers` by prefix."""

    mined: dict[tuple[str, str], _Row] = field(default_factory=dict)
    gropers: dict[str, _Row] = field(default_factory=dict)
    innocent: set[str] = field(default_factory=set)  # prefixes that logged in with success
    existing: set[str] = field(default_factory=set)  # names that logged in with success

    def read(self, data: Json, live: bool) -> None:
        """Add a record of KINDS. Raises KeyError, TypeError or ValueError where it is damaged."""
        if data["kind"] == "no-guess":
            self.innocent.add(str(data["prefix"]))
            if data.get("address"):
                self.existing.add(str(data["address"]))
            return
        first, last = float(data["first"]), float(data["at"])
        if data["kind"] == "groper":
            row = _Row(first, last, int(data["attempts"]), int(data["names"]))
            _put(self.gropers, str(data["prefix"]), row, live)
            return
        if data["what"] not in TRIED:
            raise ValueError(f"unknown guess {str(data['what'])[:40]!r}")
        hosts = [(str(p), float(a), float(b)) for p, a, b in data["hosts"]]
        row = _Row(first, last, int(data["hits"]))
        row.hosts = {p: (a, b) for p, a, b in hosts[:MAX_HOSTS]}
        address = index_key.fit(index_key.clean(str(data["address"])))
        _put(self.mined, (address, str(data["what"])), row, live)

    def write(self, connection: Connection, learned: float, source: int = LIVE) -> int:
        """Add them to the rows of `source`; returns how many had no room. `learned` in Unix
        seconds.
        """
        live = source == LIVE
        left_out = 0
        if self.mined:
            known = _mined(connection, self.mined, source)
            left_out += _merge(connection, "mined", self.mined, known, live)
            values = [
                (*key, source, row.first, row.last, row.count, json.dumps(_hosts(row)), learned)
                for key, row in sorted(self.mined.items())
            ]
            sql = sqltext.upsert("mined", "first_at<", "last_at>", "hits=", "hosts=", "learned>")
            sqltext.many(connection, sql, values)
        if self.gropers:
            seen = _gropers(connection, self.gropers, source)
            left_out += _merge(connection, "groper", self.gropers, seen, live)
            sql = sqltext.upsert(
                "groper", "first_at<", "last_at>", "attempts=", "names=", "learned>"
            )
            hosts = sorted(self.gropers.items())
            sqltext.many(
                connection,
                sql,
                [(p, source, r.first, r.last, r.count, r.names, learned) for p, r in hosts],
            )
        self._take_back(connection, source)
        return left_out

    def _take_back(self, connection: Connection, source: int) -> None:
        """Remove hosts and names that turned out to be users, and names that only such a host
        tried.
        """
        for prefix in sorted(self.innocent):
            sql = "DELETE FROM groper WHERE prefix = ? AND import_id = ?"
            sqltext.execute(connection, sql, (prefix, source))
            sql = (
                "SELECT address, hosts FROM mined"
                " WHERE kind = 'login' AND import_id = ? AND hosts LIKE ?"
            )
            found = sqltext.execute(connection, sql, (source, f'%"{prefix}"%')).all()
            for row in found:
                left = [host for host in json.loads(row.hosts) if host[0] != prefix]
                where = "WHERE address = ? AND kind = 'login' AND import_id = ?"
                if left:
                    sql = f"UPDATE mined SET hosts = ? {where}"
                    sqltext.execute(connection, sql, (json.dumps(left), row.address, source))
                else:
                    sqltext.execute(connection, f"DELETE FROM mined {where}", (row.address, source))
        sql = "DELETE FROM mined WHERE address = ? AND kind = 'login' AND import_id = ?"
        sqltext.many(connection, sql, [(name, source) for name in sorted(self.existing)])


def _put(rows: dict[Key, _Row], key: Key, row: _Row, live: bool) -> None:
    before = rows.get(key)
    if before is None:
        rows[key] = row
    else:
        before.add(row, live)


def _hosts(row: _Row) -> list[Host]:
    return [(prefix, first, last) for prefix, (first, last) in row.hosts.items()]


def _merge(
    connection: Connection, table: str, told: dict[Key, _Row], known: dict[Key, _Row], live: bool
) -> int:
    """Add the `known` rows to `told`; returns how many new ones had no room and were removed from
    it.
    """
    for key, row in known.items():
        row.add(told[key], live)
        told[key] = row
    fresh = [key for key in told if key not in known]
    if not fresh:
        return 0
    there = int(sqltext.execute(connection, f"SELECT count(*) FROM {table}").scalar_one())
    over = fresh[max(0, MAX_ROWS - there) :]
    for key in over:
        del told[key]
    return len(over)


def _mined(
    connection: Connection, keys: Iterable[tuple[str, str]], source: int
) -> dict[tuple[str, str], _Row]:
    found: dict[tuple[str, str], _Row] = {}
    wanted = set(keys)
    for part in sqltext.chunks(sorted({address for address, _ in wanted})):
        marks = ", ".join("?" * len(part))
        sql = sqltext.locked(
            connection,
            "SELECT address, kind, first_at, last_at, hits, hosts FROM mined"
            f" WHERE address IN ({marks}) AND import_id = ?",
        )
        for row in sqltext.execute(connection, sql, (*part, source)):
            if (row.address, row.kind) in wanted:
                hosts = {prefix: (first, last) for prefix, first, last in json.loads(row.hosts)}
                found[row.address, row.kind] = _Row(
                    row.first_at, row.last_at, row.hits, hosts=hosts
                )
    return found


def _gropers(connection: Connection, prefixes: Iterable[str], source: int) -> dict[str, _Row]:
    found: dict[str, _Row] = {}
    for part in sqltext.chunks(sorted(prefixes)):
        marks = ", ".join("?" * len(part))
        sql = sqltext.locked(
            connection,
            "SELECT prefix, first_at, last_at, attempts, names FROM groper"
            f" WHERE prefix IN ({marks}) AND import_id = ?",
        )
        for row in sqltext.execute(connection, sql, (*part, source)):
            found[row.prefix] = _Row(row.first_at, row.last_at, row.attempts, row.names)
    return found


def write(
    connection: Connection, records: Sequence[Json], learned: float, source: int = LIVE
) -> int:
    """Write these records of KINDS to the rows of `source`; returns how many had no room. `learned`
    is in Unix seconds.

    Raises SQLAlchemyError; KeyError, TypeError or ValueError where a record is damaged.
    """
    found = Guesses()
    for data in records:
        found.read(data, source == LIVE)
    return found.write(connection, learned, source)


def write_import(
    connection: Connection, records: Sequence[Json], learned: float, number: int
) -> int:
    """`write` for the import `number`. Raises what `write` raises, and ImportGoneError where the
    import was undone meanwhile. `learned` is in Unix seconds.
    """
    import_runs.add(connection, number, 0, {})
    return write(connection, records, learned, number)


# Rows of a table that are deleted in one transaction when an import is undone.
UNDO_STEP = 2_000


def take_back(connection: Connection, number: int) -> int:
    """Delete up to UNDO_STEP rows of each table for the import `number`; returns how many."""
    return _delete(connection, "import_id = ?", number, UNDO_STEP)


def remember_accepted(connection: Connection, messages: Sequence[int], learned: float) -> None:
    """Record which recipients of these messages, about to be deleted, were also tried as unknown.

    An address that once had mail must not later look as if it never existed. `learned` is in Unix
    seconds. Raises SQLAlchemyError.
    """
    if sqltext.execute(connection, "SELECT 1 FROM mined LIMIT 1").first() is None:
        return
    for part in sqltext.chunks(messages):
        marks = ", ".join("?" * len(part))
        sql = (
            "SELECT r.trap_key AS address, COALESCE(k.import_id, 0) AS source,"
            " MIN(m.at) AS first, MAX(m.at) AS last, COUNT(DISTINCT m.id) AS hits"
            " FROM recipient r JOIN message m ON m.id = r.message_id"
            " LEFT JOIN message_key k ON k.message_id = m.id"
            f" WHERE r.message_id IN ({marks}) AND {HAD_MAIL}"
            " AND EXISTS (SELECT 1 FROM mined WHERE mined.address = r.trap_key)"
            " GROUP BY r.trap_key, COALESCE(k.import_id, 0)"
        )
        found = sqltext.execute(connection, sql, tuple(part)).all()
        sqltext.many(
            connection,
            sqltext.upsert("mined", "first_at<", "last_at>", "hits+", "learned>"),
            sorted(
                (r.address, "accepted", r.source, r.first, r.last, r.hits, "[]", learned)
                for r in found
            ),
        )


def purge(connection: Connection, before: float, most: int) -> int:
    """Delete rows that were learned before `before` (Unix seconds), at most `most` of each table;
    returns how many.
    """
    return _delete(connection, "learned < ? ORDER BY learned", before, most)


def _delete(connection: Connection, which: str, value: float, most: int) -> int:
    """Delete the rows that fit the SQL condition `which`, at most `most` of each table; returns how
    many.
    """
    gone = 0
    for table, keys in (("mined", "address, kind, import_id"), ("groper", "prefix, import_id")):
        chosen = f"SELECT {keys} FROM {table} WHERE {which} LIMIT ?"
        sql = f"DELETE FROM {table} WHERE ({keys}) IN ({chosen})"
        gone += sqltext.execute(connection, sql, (value, most)).rowcount
    return gone
