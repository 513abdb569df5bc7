"""Write a batch of journal records into the store, inside the caller's transaction.

Each record is counted once in every place: message, recipients, signatures, search keys, the sums
of its domains, identities, DKIM keys. The sums of a batch are added up first and upserted in sorted
order, the tables always in the same order, so that the recorders of several hosts take their locks
in the same order and cannot deadlock. Listings are made in the same transaction, or wait for the
turn (`waiting_hits`).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Connection

from gatepost_policy import traps
from gatepost_policy.ingest import (
    deltas,
    guesses,
    import_runs,
    merge,
    rows,
    waiting,
    waiting_hits,
)
from gatepost_policy.ingest.rows import Row
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import index_key
from gatepost_policy.store import partitions, sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

# What reading a damaged record raises (`rows.read`).
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


@dataclass
class Outcome:
    """What a batch did. `bad`: why records could not be read, by position in the batch."""

    messages: int = 0  # new rows, and imported submissions that were counted
    bad: dict[int, str] = field(default_factory=dict)
    listings: bool = False  # True where they must be published after the commit
    repeat: bool = False
    hits_wait: int = 0  # trap hits of this journal that still wait to be judged


def ingest(
    connection: Connection,
    records: Sequence[Json],
    settings: "Settings",
    learned: float,
    import_id: int | None = None,
    host: str = "",
) -> Outcome:
    """Write `records` (at most a few thousand); `learned` is now, in Unix seconds.

    `host` names the journal they come from ("": none); its hits may wait to be judged. A message
    whose `key` is already known is left out. What is new belongs to `import_id` (None: seen live).
    Raises SQLAlchemyError, and ImportGoneError where the import was undone meanwhile.
    """
    outcome = Outcome()
    batch: list[Row] = []
    counts: dict[tuple[object, ...], int] = {}
    keyed: dict[str, tuple[object, ...]] = {}  # submissions of a log by key: each is counted once
    gaps: list[tuple[float, float, int]] = []
    live: list[tuple[str, str, float]] = []
    watches: dict[tuple[str, str], tuple[object, ...]] = {}
    known: dict[str, tuple[object, ...] | None] = {}  # keys of logs that were read again
    tried = guesses.Guesses()
    for position, data in enumerate(records):
        try:
            kind = data["kind"]
            if kind in ("message", "rcpt"):
                batch.append(rows.read(data, learned))
            elif kind == "count":
                day = int(float(data["at"]) // deltas.DAY)
                counted = (data["direction"], data["family"], data["action"], data["reason"])
                key = (day, *(str(word) for word in counted))
                if data.get("key") is not None:
                    keyed[index_key.fit(index_key.clean(data["key"]))] = key
                else:
                    counts[key] = counts.get(key, 0) + 1
            elif kind == "live-trap":
                live.append((str(data["trap"]), str(data["how"]), float(data["at"])))
            elif kind == "gap":
                gaps.append((float(data["since"]), float(data["at"]), int(data["lost"])))
            elif kind == "watch":
                name = (str(data["host"]), str(data["name"]))
                watches[name] = (*name, json.dumps(data["state"]), float(data["at"]))
            elif kind in guesses.KINDS:
                tried.read(data, live=True)
            elif kind == "void":
                continue  # what `data erase` leaves of a record
            else:
                raise ValueError(f"unknown kind {str(kind)[:40]!r}")
        except MALFORMED as error:
            outcome.bad[position] = f"{type(error).__name__}: {error}"
    if batch:
        sums = deltas.Sums()
        merged = _write(connection, batch, sums, learned, import_id)
        outcome.messages = len(merged.fresh)
        known.update(dict.fromkeys(merged.known))
        added = waiting.add(connection, sums, learned)
        _judge(connection, batch, merged, added, settings, learned, outcome, import_id, host)
    new = merge.new_keys(connection, keyed, import_id)
    of_log: dict[tuple[object, ...], int] = {}
    for key in new.values():
        of_log[key] = of_log.get(key, 0) + 1
    for key, number in of_log.items():
        counts[key] = counts.get(key, 0) + number
    known.update((name, key) for name, key in keyed.items() if name not in new)
    import_runs.attest(connection, known, import_id)
    if import_id is not None:
        import_runs.add(connection, import_id, outcome.messages, of_log)
    outcome.messages += len(new)
    for trap, how, at in live:
        traps.seen_live(connection, [trap], at=at, how=how)
    tried.write(connection, learned)
    sqltext.many(
        connection,
        sqltext.upsert("watch_position", "state=", "at="),
        [values for _, values in sorted(watches.items())],
    )
    sqltext.many(
        connection,
        sqltext.upsert("submission_count", "messages+"),
        [(*key, n) for key, n in sorted(counts.items())],
    )
    sqltext.many(
        connection,
        'INSERT INTO journal_gap (since, "until", lost) VALUES (?, ?, ?)',
        gaps,
    )
    return outcome


def _write(
    connection: Connection,
    batch: list[Row],
    sums: deltas.Sums,
    learned: float,
    import_id: int | None,
) -> merge.Merged:
    merged = merge.merge(connection, batch, sums)
    ids = partitions.take_ids(connection, len(merged.fresh), learned)
    for row, number in zip(merged.fresh, ids, strict=True):
        row.message.id = number
    replaced = [*merged.gone, *merged.rewritten]
    if replaced:
        remove(connection, rows.load(connection, replaced).values(), None)
    add(connection, [*merged.fresh, *merged.rewritten.values()], sums)
    sqltext.many(
        connection,
        "UPDATE message SET delivered = ? WHERE id = ?",
        [(False, number) for number in merged.undelivered],
    )
    sqltext.many(
        connection,
        "UPDATE message_key SET message_id = ?, import_id = NULL WHERE message_id = ?",
        [(row.id, old) for old, row in sorted(merged.gone.items())],
    )
    keys = {(row.key, row.id) for row in merged.fresh if row.key is not None}
    keys |= {(key, row.id) for key, row in merged.adopted.items() if row.id not in merged.gone}
    sqltext.many(
        connection,
        sqltext.insert("message_key"),
        [(key, number, import_id) for key, number in sorted(keys)],
    )
    return merged


def _judge(
    connection: Connection,
    batch: Sequence[Row],
    merged: merge.Merged,
    counted: deltas.Sums | None,
    settings: "Settings",
    learned: float,
    outcome: Outcome,
    import_id: int | None,
    host: str,
) -> None:
    """Find listings, repeat senders, and traps that seem to be in use.

    `counted`: what was added to the sums; None where the sums wait, then repeat senders wait too.
    """
    inbound = [row for row in batch if row.message.direction == "inbound"]
    if not inbound:
        return
    hits = [
        waiting_hits.Hit(one.holder.id, one.record.data, tuple(one.holder.merged))
        for one in sorted(merged.recorded, key=lambda one: one.record.at)
        if one.record.data is not None
        # The hit of a row may have been taken over by another row, or returned, since it was
        # recorded.
        and ((one.holder.hit if one.record is one.holder else one.hit) or one.holder.merged)
    ]
    judged = waiting_hits.judge(connection, hits, settings, host, learned)
    outcome.listings, outcome.repeat = judged.listings, judged.repeat
    outcome.hits_wait = judged.waiting
    first, last = min(row.at for row in inbound), max(row.at for row in inbound)
    # A RCPT TO that joins a stored row counts at the time of that row.
    since = min([first, *(row.at for row in merged.rewritten.values())])
    if counted is not None:
        since = min(since, counted.since or since)
        outcome.repeat |= waiting.flag_repeat(connection, counted.identities, since, settings)
    senders = {row.sender.trap_key for row in inbound if row.sender is not None}
    found = _traps_among(connection, sorted(senders))
    if found:
        if import_id is not None:
            import_runs.note_live(connection, import_id, found, last)
        traps.seen_live(connection, found, at=last, how="sender")


def _traps_among(connection: Connection, keys: Sequence[str]) -> list[str]:
    """Those of `keys` that are exact traps, in force or not."""
    found: list[str] = []
    for part in sqltext.chunks(keys):
        marks = ", ".join("?" * len(part))
        sql = f"SELECT key FROM trap WHERE kind = 'exact' AND key IN ({marks})"
        found.extend(sqltext.execute(connection, sql, tuple(part)).scalars())
    return found


def add(connection: Connection, batch: Sequence[Row], sums: deltas.Sums) -> None:
    """Insert numbered rows and count them in `sums`."""
    recipients: list[tuple[object, ...]] = []
    signatures: list[tuple[object, ...]] = []
    domains: list[tuple[object, ...]] = []
    for row in batch:
        number, at = row.message.id, row.message.at
        for position, recipient in enumerate(row.recipients):
            recipients.append((number, position, *rows.recipient_values(recipient)))
        for position, signature in enumerate(row.signatures):
            signatures.append((number, position, *rows.signature_values(signature)))
        keys, names = row.keys()
        for key, shared in keys:
            domains.append((key, at, number, shared))
        sums.add(row, names)
    messages = [rows.message_values(row.message) for row in batch]
    sqltext.many(connection, sqltext.insert("message"), messages)
    sqltext.many(connection, sqltext.insert("recipient"), recipients)
    sqltext.many(connection, sqltext.insert("signature"), signatures)
    domains.sort()
    sqltext.many(connection, sqltext.insert("message_domain"), domains)


def remove(connection: Connection, gone: Iterable[Row], sums: deltas.Sums | None) -> None:
    """Delete the rows of these messages; with `sums`, subtract them from the sums of domains, too.

    Identities are not changed: they have a retention of their own.
    """
    ids: list[tuple[object, ...]] = []
    domains: list[tuple[object, ...]] = []
    for row in gone:
        ids.append((row.id,))
        keys, names = row.keys()
        domains.extend((key, row.at, row.id, shared) for key, shared in keys)
        if sums is not None:
            sums.add(row, names, -1, identities=False)
    for statement in (
        "DELETE FROM message WHERE id = ?",
        "DELETE FROM recipient WHERE message_id = ?",
        "DELETE FROM signature WHERE message_id = ?",
    ):
        sqltext.many(connection, statement, ids)
    sqltext.many(
        connection,
        "DELETE FROM message_domain"
        " WHERE reversed = ? AND at = ? AND message_id = ? AND shared = ?",
        sorted(domains),
    )
