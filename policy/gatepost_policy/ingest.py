"""Write a batch of journal records into the store, inside the caller's transaction.

Each record counts once in every place: message, recipients, signatures, search keys, the sums per
domain, the identities, the DKIM keys. Sums are folded per batch and upserted in sorted order, the
tables always in the same order, so that the recorders of several hosts take their locks alike.
Listings are computed in the same transaction.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection, text

from gatepost_policy import derive, doors, partitions, rows, sqltext, traps
from gatepost_policy.record import Json, read_seen
from gatepost_policy.rows import AT, Row

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings

_DIRECTION = AT["direction"]
# What a record that is none raises while it is read (`rows.read`).
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass
class Outcome:
    """What a batch did. `bad` are the records that are none, by position in the batch."""

    messages: int = 0  # new rows, and imported submissions that were counted
    bad: dict[int, str] = field(default_factory=dict)
    listings: bool = False  # what has to be published after the commit
    repeat: bool = False


def ingest(
    connection: Connection, records: Sequence[Json], settings: "Settings", learned: float
) -> Outcome:
    """Write `records` (at most a few thousand); `learned` is now, in Unix seconds.

    A message whose `key` is known already is left out. Raises SQLAlchemyError.
    """
    outcome = Outcome()
    batch: list[Row] = []
    counts: dict[tuple[object, ...], int] = {}
    keyed: dict[str, tuple[object, ...]] = {}  # of an imported log: counted once
    gaps: list[tuple[float, float, int]] = []
    live: list[tuple[str, str, float]] = []
    for position, data in enumerate(records):
        try:
            kind = data["kind"]
            if kind in ("message", "rcpt"):
                batch.append(rows.read(data, learned))
            elif kind == "count":
                day = int(float(data["at"]) // derive.DAY)
                counted = (data["direction"], data["family"], data["action"], data["reason"])
                key = (day, *(str(word) for word in counted))
                if data.get("key") is not None:
                    keyed[derive.fit(derive.clean(data["key"]))] = key
                else:
                    counts[key] = counts.get(key, 0) + 1
            elif kind == "live-trap":
                live.append((str(data["trap"]), str(data["how"]), float(data["at"])))
            elif kind == "gap":
                gaps.append((float(data["since"]), float(data["at"]), int(data["lost"])))
            elif kind == "void":
                continue  # what `data erase` leaves of a record
            else:
                raise ValueError(f"unknown kind {str(kind)[:40]!r}")
        except MALFORMED as error:
            outcome.bad[position] = f"{type(error).__name__}: {error}"
    if batch:
        merged = _write(connection, batch, learned)
        outcome.messages = len(merged.fresh)
        _judge(connection, batch, merged, settings, outcome)
    for key in doors.new_keys(connection, keyed):
        counts[key] = counts.get(key, 0) + 1
        outcome.messages += 1
    for trap, how, at in live:
        traps.seen_live(connection, [trap], at=at, how=how)
    dialect = connection.dialect.name
    sqltext.many(
        connection,
        sqltext.upsert(dialect, "submission_count", "messages+"),
        [(*key, n) for key, n in sorted(counts.items())],
    )
    sqltext.many(
        connection,
        sqltext.native(dialect, 'INSERT INTO journal_gap (since, "until", lost) VALUES (?, ?, ?)'),
        gaps,
    )
    return outcome


def _write(connection: Connection, batch: list[Row], learned: float) -> doors.Merged:
    dialect = connection.dialect.name
    sums = derive.Sums()
    merged = doors.merge(connection, batch, sums)
    ids = partitions.take_ids(connection, len(merged.fresh), learned)
    for row, number in zip(merged.fresh, ids, strict=True):
        row.values[0] = number
    replaced = [*merged.gone, *merged.rewritten]
    if replaced:
        remove(connection, rows.load(connection, replaced).values(), None)
    add(connection, [*merged.fresh, *merged.rewritten.values()], sums)
    sqltext.many(
        connection,
        sqltext.native(dialect, "UPDATE message_key SET message_id = ? WHERE message_id = ?"),
        [(row.id, old) for old, row in sorted(merged.gone.items())],
    )
    sqltext.many(
        connection,
        sqltext.insert(dialect, "message_key"),
        sorted((row.key, row.id) for row in merged.fresh if row.key is not None),
    )
    write_sums(connection, sums, learned)
    return merged


def _judge(
    connection: Connection,
    batch: Sequence[Row],
    merged: doors.Merged,
    settings: "Settings",
    outcome: Outcome,
) -> None:
    """Listings, repeat senders, traps that turn out to be somebody's address."""
    from gatepost_policy import listings, revision

    inbound = [row for row in batch if row.values[_DIRECTION] == "inbound"]
    if not inbound:
        return
    fresh = [
        listings.Fresh(holder.id, read_seen(record.data), tuple(holder.merged))
        for record, holder, hit in sorted(merged.told, key=lambda told: told[0].at)
        if record.data is not None and ((holder.hit if record is holder else hit) or holder.merged)
    ]
    if fresh:
        changes = listings.apply(connection, fresh, settings)
        outcome.listings, outcome.repeat = changes.listings, changes.repeat
    if listings.flag_repeat(connection, min(row.at for row in inbound), settings):
        revision.bump(connection, "repeat")
        outcome.repeat = True
    senders = {row.sender.trap_key for row in inbound if row.sender is not None}
    if senders:
        traps.seen_live(
            connection, sorted(senders), at=max(row.at for row in inbound), how="sender"
        )


def add(connection: Connection, batch: Sequence[Row], sums: derive.Sums) -> None:
    """Insert numbered rows and count them in `sums`."""
    dialect = connection.dialect.name
    recipients: list[tuple[object, ...]] = []
    signatures: list[tuple[object, ...]] = []
    domains: list[tuple[object, ...]] = []
    for row in batch:
        number, at = row.values[0], row.values[1]
        for position, recipient in enumerate(row.recipients):
            recipients.append((number, position, *recipient))
        for position, signature in enumerate(row.signatures):
            signatures.append((number, position, *signature))
        keys, names = row.keys()
        for key, shared in keys:
            domains.append((key, at, number, shared))
        row.add_to(sums, names)
    messages = [tuple(row.values) for row in batch]
    sqltext.many(connection, sqltext.insert(dialect, "message"), messages)
    sqltext.many(connection, sqltext.insert(dialect, "recipient"), recipients)
    sqltext.many(connection, sqltext.insert(dialect, "signature"), signatures)
    domains.sort()
    sqltext.many(connection, sqltext.insert(dialect, "message_domain"), domains)


def remove(connection: Connection, gone: Iterable[Row], sums: derive.Sums | None) -> None:
    """Delete the rows of these messages; with `sums`, take them out of the domains' sums too.

    Identities keep their memory: they have a retention of their own.
    """
    dialect = connection.dialect.name
    ids: list[tuple[object, ...]] = []
    domains: list[tuple[object, ...]] = []
    for row in gone:
        ids.append((row.id,))
        keys, names = row.keys()
        domains.extend((key, row.values[1], row.id, shared) for key, shared in keys)
        if sums is not None:
            row.add_to(sums, names, -1, identities=False)
    for statement in (
        "DELETE FROM message WHERE id = ?",
        "DELETE FROM recipient WHERE message_id = ?",
        "DELETE FROM signature WHERE message_id = ?",
    ):
        sqltext.many(connection, sqltext.native(dialect, statement), ids)
    sqltext.many(
        connection,
        sqltext.native(
            dialect,
            "DELETE FROM message_domain"
            " WHERE reversed = ? AND at = ? AND message_id = ? AND shared = ?",
        ),
        sorted(domains),
    )


_COUNTED = ("messages", "trap_messages", "trap_hits", *(f"dkim_{r}" for r in derive.RESULTS))


def write_sums(connection: Connection, sums: derive.Sums, learned: float) -> None:
    """Add `sums` to the store's."""
    dialect = connection.dialect.name
    sqltext.many(
        connection,
        sqltext.upsert(
            dialect, "domain_day", *(f"{c}+" for c in _COUNTED), "first_at<", "last_at>"
        ),
        [(*key, *row) for key, row in sorted(sums.days.items())],
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
        [(*key, *row) for key, row in sorted(sums.hosts.items())],
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
            for (back, selector), k in sorted(sums.keys.items())
        ],
    )  # fmt: skip


def _drop_empty(connection: Connection, sums: derive.Sums) -> None:
    """Sums that something was taken out of, and that count nothing any more."""
    dialect = connection.dialect.name
    sqltext.many(
        connection,
        sqltext.native(
            dialect,
            "DELETE FROM domain_day WHERE reversed = ? AND day = ? AND family = ? AND shared = ?"
            " AND messages <= 0",
        ),
        [key for key, row in sorted(sums.days.items()) if row[0] < 0],
    )
    sqltext.many(
        connection,
        sqltext.native(
            dialect,
            "DELETE FROM domain_host WHERE reversed = ? AND host = ? AND shared = ?"
            " AND messages <= 0",
        ),
        [key for key, row in sorted(sums.hosts.items()) if row[2] < 0],  # type: ignore[operator]
    )


# A day counts when it lies outside of what is known. One that lies inside and had no message yet
# (an older log imported late) is not counted: nobody is called a repeat sender by a guess.
_NEW_DAY = """days:=old.days + CASE WHEN CAST(new.first_seen / 86400 AS bigint)
 > CAST(old.last_seen / 86400 AS bigint) OR CAST(new.last_seen / 86400 AS bigint)
 < CAST(old.first_seen / 86400 AS bigint) THEN 1 ELSE 0 END"""
_IDENTITY = ("first_seen<", "last_seen>", "learned>", "messages+", "trap_messages+", "ipv4+",
             "ipv6+")  # fmt: skip


def _identities(connection: Connection, sums: derive.Sums, learned: float) -> None:
    dialect = connection.dialect.name
    one_day: list[tuple[object, ...]] = []
    several: list[tuple[str, str]] = []
    for (kind, value), i in sorted(sums.identities.items()):
        if len(i.days) > 1:
            several.append((kind, value))
            continue
        one_day.append(
            (kind, value, i.reversed, i.first, i.last, learned, i.messages, i.traps, 1, i.ipv4,
             i.ipv6, False, None)
        )  # fmt: skip
    if not several:
        sqltext.many(
            connection, sqltext.upsert(dialect, "identity", *_IDENTITY, _NEW_DAY), one_day
        )
        return
    # Days on both sides of what is known need a look at it. One upsert a day, from the known span
    # outwards, counts each of them; all sorted by identity, so that locks are taken in order.
    known = _spans(connection, several)
    folded: list[tuple[object, ...]] = []
    for kind, value in several:
        i = sums.identities[kind, value]
        span = known.get((kind, value))
        days = i.days if span is None else {d for d in i.days if not span[0] <= d <= span[1]}
        folded.append(
            (kind, value, i.reversed, i.first, i.last, learned, i.messages, i.traps, len(days),
             i.ipv4, i.ipv6, False, None)
        )  # fmt: skip
    one = sqltext.upsert(dialect, "identity", *_IDENTITY, _NEW_DAY)
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
    connection: Connection, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], tuple[int, int]]:
    """(first day, last day) of the identities that exist, locked until the end on a server."""
    lock = " FOR UPDATE" if connection.dialect.name == "postgresql" else ""
    statement = text(
        "SELECT first_seen, last_seen FROM identity WHERE kind = :kind AND value = :value" + lock
    )
    found: dict[tuple[str, str], tuple[int, int]] = {}
    for kind, value in wanted:
        row = connection.execute(statement, {"kind": kind, "value": value}).first()
        if row is not None:
            found[kind, value] = (int(row[0] // derive.DAY), int(row[1] // derive.DAY))
    return found
