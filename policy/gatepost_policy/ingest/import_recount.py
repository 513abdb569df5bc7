"""First and last times, days and repeat flags, counted anew from the rows that are left.

Used when an import is undone. Only what the import may have set is changed: a time before or after
all its messages stays as it was.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gatepost_policy.ingest import deltas, rows
from gatepost_policy.ingest.rows import Row
from gatepost_policy.mail import index_key
from gatepost_policy.store import sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Sender

AT_ONCE = 20  # so many `Touched` in one transaction


@dataclass(frozen=True, slots=True)
class Touched:
    """A day, host, domain or sender whose times may come from deleted messages
    (`import_tables.ImportTouched`).

    `since` and `until` are the first and last of those messages (Unix seconds).
    """

    kind: str
    value: str
    since: float
    until: float


def keys_used(row: Row) -> Iterator[deltas.DkimKeyKey]:
    """The keys of `dkim_key` for which this message counts, as in `deltas.Sums`."""
    for signature in row.signatures:
        if signature.domain and signature.selector and signature.crypto == "pass":
            back = index_key.fit(index_key.reverse(signature.domain))
            yield back, index_key.fit(signature.selector)


def touch(connection: Connection, number: int, gone: Iterable[Row]) -> None:
    """Record the days, hosts, domains and senders of these messages, which the undo of import
    `number` deletes.
    """
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for row in gone:
        message = row.message
        wanted = {("day", str(int(row.at // deltas.DAY)))}
        host = message.address if message.address is not None else message.prefix
        if host is not None:
            wanted.add(("host", host))
        wanted |= {("domain", name) for name, _ in row.keys()[1] if name}
        if row.sender is not None and row.sender.local and not row.sender.domain:
            wanted.add(("sender", row.sender.key))
        for one in wanted:
            since, until = found.get(one, (row.at, row.at))
            found[one] = min(since, row.at), max(until, row.at)
    sqltext.many(
        connection,
        sqltext.upsert("import_touched", "since<", "until>"),
        [(number, *one, *span) for one, span in sorted(found.items())],
    )


def recount(connection: Connection, touched: Touched, sender: "Sender") -> None:
    """Set the times and flags of what is `touched` from the rows that are left."""
    if touched.kind == "day":
        _day(connection, touched)
        return
    left = _Left()
    for row in _rows(connection, touched):
        left.take(row)
    if touched.kind == "host":
        _hosts(connection, touched, left)
        prefix = index_key.prefix_of(touched.value) if "/" not in touched.value else touched.value
        _identities(connection, touched, left, sender, "kind = 'prefix' AND value = ?", prefix)
    elif touched.kind == "domain":
        where = "kind IN ('dkim', 'spf', 'sender', 'sender-domain', 'from-domain') AND reversed = ?"
        _identities(connection, touched, left, sender, where, touched.value)
        _keys(connection, touched, left)
    else:
        where = "kind = 'sender' AND value = ?"
        _identities(connection, touched, left, sender, where, touched.value)


@dataclass(slots=True)
class _Key:
    """One DKIM key's history, from its messages in the order in which they were learned."""

    first_seen: float
    last_seen: float
    learned: float
    messages: int = 0
    algorithm: str | None = None
    key_bits: int | None = None
    previous_bits: int | None = None
    changed: float | None = None


@dataclass(slots=True)
class _Left:
    """The sums of the rows that are left."""

    sums: deltas.Sums = field(default_factory=deltas.Sums)
    learned: dict[deltas.IdentityKey, float] = field(default_factory=dict)
    names: dict[deltas.HostKey, tuple[float, str | None]] = field(default_factory=dict)
    last: dict[deltas.HostKey, float] = field(default_factory=dict)
    keys: dict[deltas.DkimKeyKey, _Key] = field(default_factory=dict)

    def take(self, row: Row) -> None:
        """Add one message; they must come in the order of their ids."""
        message = row.message
        one = deltas.Sums()
        one.add(row, row.keys()[1])
        self.sums.merge(one)
        for who in one.identities:
            self.learned[who] = max(self.learned.get(who, 0.0), message.learned)
        for key, host in one.hosts.items():
            self.last[key] = max(self.last.get(key, row.at), row.at)
            at, _ = self.names.get(key, (float("-inf"), None))
            if host.name is not None and row.at >= at:
                self.names[key] = row.at, host.name
        if message.direction != "inbound":
            return
        used = list(keys_used(row))
        for name, told in one.keys.items():
            known = self.keys.setdefault(name, _Key(row.at, row.at, message.learned))
            known.messages += used.count(name)
            known.first_seen = min(known.first_seen, row.at)
            known.last_seen = max(known.last_seen, row.at)
            known.learned = max(known.learned, message.learned)
            known.algorithm = told.algorithm or known.algorithm
            if told.key_bits is not None and known.key_bits not in (None, told.key_bits):
                known.previous_bits, known.changed = known.key_bits, row.at
            known.key_bits = told.key_bits if told.key_bits is not None else known.key_bits


def _rows(connection: Connection, touched: Touched) -> Iterator[Row]:
    """The messages of what is `touched`, by id."""
    value = touched.value
    if touched.kind == "host":
        # The row holds its address, or the prefix that retention has left of it.
        sql = "SELECT id FROM message WHERE prefix = ? ORDER BY id"
        values: tuple[object, ...] = (value if "/" in value else index_key.prefix_of(value),)
    elif touched.kind == "domain":
        # The domain itself and its addresses; `A` follows `@`.
        sql = (
            "SELECT DISTINCT message_id FROM message_domain"
            " WHERE reversed = ? OR (reversed >= ? AND reversed < ?) ORDER BY message_id"
        )
        values = (value, f"{value}@", f"{value}A")
    else:
        sql = "SELECT id FROM message WHERE sender_key = ? ORDER BY id"
        values = (value,)
    ids = sqltext.execute(connection, sql, values).scalars().all()
    yield from _loaded(connection, ids)


def _loaded(connection: Connection, ids: Sequence[int]) -> Iterator[Row]:
    for part in sqltext.chunks(ids):
        yield from (row for _, row in sorted(rows.load(connection, part).items()))


def _day(connection: Connection, touched: Touched) -> None:
    day = int(touched.value)
    sql = "SELECT id FROM message WHERE at >= ? AND at < ? ORDER BY id"
    span = (float(day * deltas.DAY), float((day + 1) * deltas.DAY))
    sums = deltas.Sums()
    for row in _loaded(connection, sqltext.execute(connection, sql, span).scalars().all()):
        sums.add(row, row.keys()[1], identities=False)
    where = "reversed = ? AND day = ? AND family = ? AND shared = ?"
    for column, sign, edge in (("first_at", ">=", touched.since), ("last_at", "<=", touched.until)):
        sql = f"UPDATE domain_day SET {column} = ? WHERE {where} AND {column} {sign} ?"
        changes = [
            (getattr(found, column), *key, edge)
            for key, found in sorted(sums.days.items(), key=lambda item: item[0])
        ]
        sqltext.many(connection, sql, changes)


def _hosts(connection: Connection, touched: Touched, left: _Left) -> None:
    changes: list[tuple[object, ...]] = []
    for key, last in sorted(left.last.items()):
        if key[1] == touched.value:
            changes.append((last, left.names.get(key, (0.0, None))[1], *key, touched.until))
    sql = (
        "UPDATE domain_host SET last_at = ?, name = ?"
        " WHERE reversed = ? AND host = ? AND shared = ? AND last_at <= ?"
    )
    sqltext.many(connection, sql, changes)


def _identities(
    connection: Connection,
    touched: Touched,
    left: _Left,
    sender: "Sender",
    where: str,
    value: str,
) -> None:
    sql = (
        "SELECT kind, value, first_seen, last_seen, learned, days, messages, trap_messages, repeat"
        f" FROM identity WHERE {where} ORDER BY kind, value"
    )
    for stored in sqltext.execute(connection, sqltext.locked(connection, sql), (value,)).all():
        who = (stored.kind, stored.value)
        found = left.sums.identities.get(who)
        if found is None:
            continue  # its rows are purged: the stored sums are all there is
        whole = found.messages == stored.messages
        first, last = stored.first_seen, stored.last_seen
        if whole or first >= touched.since:
            first = found.first_seen
        if whole or last <= touched.until:
            last = found.last_seen
        span = int(last // deltas.DAY) - int(first // deltas.DAY) + 1
        days = len(found.seen) if whole else min(stored.days, span)
        learned = left.learned[who] if whole else stored.learned
        repeat = bool(stored.repeat) and (
            stored.trap_messages > 0
            and stored.messages >= sender.repeat_messages
            and days >= sender.repeat_messages
            and last - first >= sender.repeat_span
        )
        sqltext.execute(
            connection,
            "UPDATE identity SET first_seen = ?, last_seen = ?, learned = ?, days = ?, repeat = ?"
            " WHERE kind = ? AND value = ?",
            (first, last, learned, days, repeat, *who),
        )


def _keys(connection: Connection, touched: Touched, left: _Left) -> None:
    sql = "SELECT * FROM dkim_key WHERE reversed = ? ORDER BY selector"
    for stored in (
        sqltext.execute(connection, sqltext.locked(connection, sql), (touched.value,))
        .mappings()
        .all()
    ):
        key = (str(stored["reversed"]), str(stored["selector"]))
        found = left.keys.get(key)
        if found is None:
            continue
        whole = found.messages == stored["messages"]
        new = dict(stored)
        if whole or new["first_seen"] >= touched.since:
            new["first_seen"] = found.first_seen
        if whole or new["last_seen"] <= touched.until:
            new["last_seen"] = found.last_seen
        if whole:
            for name in ("learned", "algorithm", "key_bits", "previous_bits", "changed"):
                new[name] = getattr(found, name)
        names = ("first_seen", "last_seen", "learned", "algorithm", "key_bits", "previous_bits",
                 "changed")  # fmt: skip
        sqltext.execute(
            connection,
            f"UPDATE dkim_key SET {', '.join(f'{n} = ?' for n in names)}"
            " WHERE reversed = ? AND selector = ?",
            (*(new[name] for name in names), *key),
        )
