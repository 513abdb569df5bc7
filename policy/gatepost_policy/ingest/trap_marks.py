"""Mark mail that came before its recipient became a trap as trap mail.

How it works: when the traps have changed or a log was imported since the last time (revisions
`traps` and `old-mail` against `hindsight`), `settle` looks for recipients that are traps now and
are not marked, marks them, and adds the hits to every sum. When a trap is removed, these marks are
removed too; a hit on an address that was a trap when the mail came stays one. Nobody is listed by
these marks: only a hit at the time of delivery lists a sender.

Locks are taken in the order of `ingest` (messages, sums, identities, each sorted), because the
recorders of all hosts write meanwhile.

Limits: when a domain trap or a pattern is removed, its marks stay; only those of exact traps are
removed.
"""

import re
import time
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fnmatch import translate
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sqlalchemy import Connection, Engine, select

from gatepost_policy import config, store, traps
from gatepost_policy.ingest import deltas, out_of_date, rows, totals, waiting, waiting_hits
from gatepost_policy.ingest.rows import RecipientRow, Row
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.tables import Message, MessageRecipient, TrapRow

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

TOPIC = "hindsight"
OLD_MAIL = "old-mail"
LEFT = "hindsight-left"  # how many messages are still to be marked
BATCH = 500  # messages in one transaction of `take_back`
STEP = 100  # and of `settle`: each of their senders may have to be judged anew
SOON = 2_000  # messages that a report marks itself, where a recorder would do it


@dataclass(slots=True)
class _Todo:
    """The messages whose marks were found out of date when the traps' number was `wanted`."""

    wanted: int
    ids: "array[int]"
    done: int = 0


# By engine: what a `settle` that was bounded has left. To look for it anew each time would read the
# whole table for every few hundred messages.
_todo: "WeakKeyDictionary[Engine, _Todo]" = WeakKeyDictionary()


def settle(
    engine: Engine,
    settings: "Settings",
    *,
    seconds: float | None = None,
    batch: int = STEP,
    patient: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Bring the marks of old mail up to date with the traps; returns how many messages changed.

    Works in transactions of `batch` messages and calls `progress` (done, total) after each. Stops
    after `seconds` (None: when all is done); the next call goes on from there. Cheap where the
    traps have not changed. Also adds waiting sums, see `waiting.fold_all` for `patient`. Raises
    StoreError.
    """
    begun = time.monotonic()
    waiting.fold_all(engine, settings, patient=patient)
    changed = 0
    while True:
        with store.reading(engine) as connection:
            wanted = _wanted(connection)
            if wanted is None:
                _todo.pop(engine, None)
                return changed
            todo = _todo.get(engine)
            carried_on = todo is not None and todo.wanted == wanted
            if todo is None or not carried_on:
                todo = _todo[engine] = _Todo(wanted, out_of_date.ids(connection))
        while todo.done < len(todo.ids):
            part = list(todo.ids[todo.done : todo.done + batch])
            left = len(todo.ids) - todo.done - len(part)
            mark = partial(_mark_again, ids=part, left=left, settings=settings)
            changed += store.persistently(engine, mark)
            todo.done += len(part)
            progress(todo.done, len(todo.ids))
            if seconds is not None and left and time.monotonic() - begun >= seconds:
                return changed
        _todo.pop(engine, None)
        if not carried_on:
            store.persistently(engine, partial(_remember, number=wanted))
            return changed
        # It took several calls: mail that was recorded meanwhile may be out of date as well.


def settle_soon(
    engine: Engine,
    settings: "Settings",
    *,
    seconds: float,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """`settle` for somebody who waits for a report; returns how many messages are left at least.

    Takes `seconds`. Where more than SOON messages are left, and there is a recorder, which marks
    them in the background, it does nothing. Raises StoreError.
    """
    waiting.fold_all(engine, settings)
    recorded = store.recording(config.journal_dir(settings))
    with store.reading(engine) as connection:
        if _wanted(connection) is None:
            return 0
        if recorded:
            left = revision.number(connection, LEFT)
            left = left if left > SOON else len(out_of_date.ids(connection, SOON + 1))
            if left > SOON:
                return left
    settle(engine, settings, seconds=seconds, progress=progress)
    with store.reading(engine) as connection:
        return 0 if _wanted(connection) is None else revision.number(connection, LEFT)


def _wanted(connection: Connection) -> int | None:
    """The number of the traps and of old mail that old mail is not compared with yet."""
    wanted = revision.number(connection, "traps") + revision.number(connection, OLD_MAIL)
    return None if revision.number(connection, TOPIC) >= wanted else wanted


def _mark_again(connection: Connection, ids: list[int], left: int, settings: "Settings") -> int:
    """Mark these messages as the traps are now, and note how many are `left`."""
    changed = _mark(connection, ids, out_of_date.flips(connection, ids), settings)
    sqltext.many(connection, sqltext.upsert("revision", "number="), [(LEFT, left)])
    return changed


def take_back(engine: Engine, settings: "Settings", name: str) -> int:
    """Undo all hits of `name`, which was a trap by mistake; returns how many messages were hits.

    Marks, sums, evidence, listings with no other evidence and flags of repeat senders are undone,
    in bounded transactions. Call it after the trap was removed. Raises StoreError, and ValueError
    for what cannot be a trap.

    Limits: a hit that a listing counted without keeping evidence (EVIDENCE_MAX) stays counted
    there.
    """
    kind, key = traps.classify(name)
    with store.reading(engine) as connection:
        found = _hit_by(connection, kind, key)
    for batch in sqltext.chunks(sorted(found), BATCH):
        flips = {number: dict.fromkeys(found[number], False) for number in batch}
        mark = partial(_mark, ids=batch, flips=flips, settings=settings)
        store.persistently(engine, mark)
        store.persistently(engine, partial(_forget_hits, flips=flips))
    return len(found)


def _hit_by(connection: Connection, kind: str, key: str) -> dict[int, list[str]]:
    """The messages that hit this trap, with the addresses that were hit; addresses that are still
    traps are left out.
    """
    recipient = MessageRecipient
    query = (
        select(recipient.message_id, recipient.trap_key)
        .join(Message, Message.id == recipient.message_id)
        .where(recipient.trap, Message.traps > 0)
    )
    if kind == "exact":
        query = query.where(recipient.trap_key == key)
    found: dict[int, list[str]] = {}
    pattern = re.compile(translate(key.replace("[", "[[]"))) if kind == "pattern" else None
    domains = {key} if kind == "domain" else set[str]()
    names: dict[str, bool] = {}
    for number, name in connection.execute(query):
        if kind != "exact":
            if name not in names:
                patterns = [pattern] if pattern is not None else []
                names[name] = any(out_of_date.matching([name], domains, patterns))
            if not names[name]:
                continue
        found.setdefault(number, []).append(name)
    still = {
        k
        for part in sqltext.chunks(sorted({k for keys in found.values() for k in keys}))
        for k in connection.scalars(
            select(TrapRow.key).where(TrapRow.kind == "exact", TrapRow.key.in_(part), traps.live())
        )
    }
    kept = {number: [k for k in keys if k not in still] for number, keys in found.items()}
    return {number: keys for number, keys in kept.items() if keys}


def _forget_hits(connection: Connection, flips: dict[int, dict[str, bool]]) -> None:
    from gatepost_policy import listings

    waiting_hits.change(
        connection,
        sorted(flips),
        lambda number, told: waiting_hits.without_traps(told, flips[number]),
    )
    if listings.take_back(connection, {number: list(keys) for number, keys in flips.items()}):
        revision.bump(connection, "listings")


def unsettle(connection: Connection) -> None:
    """Record that old mail was added whose recipients were not compared with the traps: the next
    `settle` does it.
    """
    # A number that grows, not a flag: a `settle` under way may have missed this mail, and at its
    # end it records only the number that it began with.
    revision.bump(connection, OLD_MAIL)


def _remember(connection: Connection, number: int) -> None:
    # An upsert, because two processes may be here at once with no row yet.
    sql = sqltext.upsert("revision", "number=")
    sqltext.many(connection, sql, [(LEFT, 0), (TOPIC, number)])


def _mark(
    connection: Connection,
    ids: list[int],
    flips: dict[int, dict[str, bool]],
    settings: "Settings",
) -> int:
    """Set the marks of these messages and correct every sum; returns how many changed.

    New repeat senders are flagged here, too: at the end, a `settle` that was interrupted would
    leave nothing by which the next one could find them.
    """
    from gatepost_policy import listings

    waiting.fold(connection, settings, whole=True)
    # Locked, so that the recorder of another host cannot replace a row meanwhile.
    lock = select(Message.id).where(Message.id.in_(ids)).order_by(Message.id).with_for_update()
    connection.execute(lock).all()
    sums = deltas.Sums()
    steps: dict[deltas.IdentityKey, int] = {}
    since = float("inf")
    marks: list[tuple[bool, int, int]] = []
    numbers: list[tuple[int, int]] = []
    for _, row in sorted(rows.load(connection, ids).items()):
        wanted = flips[row.id]
        recipients = [
            replace(recipient, trap=wanted.get(recipient.trap_key, bool(recipient.trap)))
            for recipient in row.recipients
        ]
        if recipients == row.recipients:
            continue
        for position, (old, new) in enumerate(zip(row.recipients, recipients, strict=True)):
            if old.trap != new.trap:
                marks.append((bool(new.trap), row.id, position))
        identities, step = _recount(sums, row, recipients)
        numbers.append((row.traps, row.id))
        for identity in identities:
            steps[identity] = steps.get(identity, 0) + step
        since = min(since, row.at)
    sql = "UPDATE recipient SET trap = ? WHERE message_id = ? AND position = ?"
    sqltext.many(connection, sql, marks)
    sqltext.many(connection, "UPDATE message SET traps = ? WHERE id = ?", numbers)
    totals.write_sums(connection, sums, 0.0)
    sql = "UPDATE identity SET trap_messages = trap_messages + ? WHERE kind = ? AND value = ?"
    sqltext.many(
        connection,
        sql,
        [(step, kind, value) for (kind, value), step in sorted(steps.items())],
    )
    if steps and listings.flag_repeat(connection, since, settings, steps):
        revision.bump(connection, "repeat")
    fewer = [(kind, value) for (kind, value), step in sorted(steps.items()) if step < 0]
    if fewer:
        # A repeat sender is one that hit a trap.
        sql = (
            "UPDATE identity SET repeat = (1 = 0)"
            " WHERE trap_messages <= 0 AND kind = ? AND value = ?"
        )
        sqltext.many(connection, sql, fewer)
        revision.bump(connection, "repeat")
    return len(numbers)


def _recount(
    sums: deltas.Sums, row: Row, recipients: list[RecipientRow]
) -> tuple[Iterable[deltas.IdentityKey], int]:
    """Count `row` with these recipients; returns the identities whose trap messages change, and by
    how much.
    """
    names = row.keys()[1]
    before = row.traps
    sums.add(row, names, -1, identities=False)
    row.recipients = recipients
    row.message.traps = row.traps
    sums.add(row, names, 1, identities=False)
    step = bool(row.traps) - bool(before)
    of_this = deltas.Sums()
    if step:
        of_this.add(row, ())
    return of_this.identities, step
