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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from fnmatch import translate
from functools import partial
from re import Pattern
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, and_, not_, or_, select, update

from gatepost_policy import store, traps
from gatepost_policy.ingest import deltas, rows, totals, waiting, waiting_hits
from gatepost_policy.ingest.rows import RecipientRow, Row
from gatepost_policy.mail.address import OPEN
from gatepost_policy.mail.decision import Reason
from gatepost_policy.rules.excuses import CLASSES
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.tables import Message, MessageRecipient, TrapRow

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

TOPIC = "hindsight"
OLD_MAIL = "old-mail"
# Reasons of decisions that are made only where a recipient is a trap at that moment.
OF_TRAPS = (
    Reason.TRAP,
    Reason.TRAP_MIXED,
    Reason.REPLAYED,
    Reason.ONE_WITNESS,
    Reason.GOOD_SENDER,
    *(reason for reason, _ in CLASSES),
)
BATCH = 500  # messages in one transaction


def settle(
    engine: Engine,
    settings: "Settings",
    *,
    seconds: float | None = None,
    batch: int = BATCH,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Bring the marks of old mail up to date with the traps; returns how many messages changed.

    Works in transactions of `batch` messages and calls `progress` (done, total) after each. Stops
    after `seconds` (None: when all is done); the next call goes on from there. Cheap where the
    traps have not changed. Raises StoreError.
    """
    begun = time.monotonic()
    waiting.fold_all(engine, settings)
    with store.reading(engine) as connection:
        wanted = revision.number(connection, "traps") + revision.number(connection, OLD_MAIL)
        if revision.number(connection, TOPIC) >= wanted:
            return 0
        flips = _flips(connection)
    changed = done = 0
    for part in sqltext.chunks(sorted(flips), batch):
        mark = partial(_mark, ids=part, flips=flips, settings=settings)
        changed += store.persistently(engine, mark)
        done += len(part)
        progress(done, len(flips))
        if seconds is not None and done < len(flips) and time.monotonic() - begun >= seconds:
            return changed
    store.persistently(engine, lambda connection: _remember(connection, wanted))
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
                names[name] = any(_matching([name], domains, patterns))
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
    sqltext.many(connection, sql, [(TOPIC, number)])


def _flips(connection: Connection) -> dict[int, dict[str, bool]]:
    """For each message whose marks are out of date: what the mark of each trap key should be."""
    found: dict[int, dict[str, bool]] = {}
    recipient = MessageRecipient
    now = select(recipient.message_id, recipient.trap_key).where(not_(recipient.trap))
    exact = now.join(
        TrapRow,
        and_(TrapRow.kind == "exact", TrapRow.key == recipient.trap_key, traps.live()),
    )
    for message_id, key in connection.execute(exact):
        found.setdefault(message_id, {})[key] = True
    for keys in sqltext.chunks(_by_pattern(connection)):
        for message_id, key in connection.execute(now.where(recipient.trap_key.in_(keys))):
            found.setdefault(message_id, {})[key] = True
    # Marks made here for a trap that is removed: the mail is older than the trap. Where the reason
    # of the decision is one of OF_TRAPS, it was a trap then as well (and was added again later).
    gone = (
        select(recipient.message_id, recipient.trap_key)
        .join(
            TrapRow,
            and_(
                TrapRow.kind == "exact",
                TrapRow.key == recipient.trap_key,
                TrapRow.removed.is_not(None),
            ),
        )
        .join(Message, Message.id == recipient.message_id)
        .where(
            recipient.trap,
            Message.at < TrapRow.added,
            Message.reason.not_in([str(reason) for reason in OF_TRAPS]),
        )
    )
    for message_id, key in connection.execute(gone):
        found.setdefault(message_id, {}).setdefault(key, False)
    return found


def _by_pattern(connection: Connection) -> Iterator[str]:
    """The recorded trap keys that a domain trap or a pattern covers."""
    domains: set[str] = set()
    patterns: list[Pattern[str]] = []
    for kind, key in connection.execute(
        select(TrapRow.kind, TrapRow.key).where(
            or_(TrapRow.kind == "domain", TrapRow.kind == "pattern"), traps.live()
        )
    ):
        if kind == "domain":
            domains.add(key)
        else:
            # `[` is not legal in an unquoted address: here it is a plain character, no class as in
            # a shell.
            patterns.append(re.compile(translate(key.replace("[", "[[]"))))
    if not domains and not patterns:
        return
    seen = connection.execution_options(yield_per=10_000).scalars(
        select(MessageRecipient.trap_key).distinct()
    )
    yield from _matching(seen, domains, patterns)


def _matching(
    keys: Iterable[str], domains: set[str], patterns: list[Pattern[str]]
) -> Iterator[str]:
    for key in keys:
        local, _, domain = key.rpartition("@")
        if local not in OPEN and (
            "@" + domain in domains or any(pattern.match(key) for pattern in patterns)
        ):
            yield key


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
    changed = 0
    for _, row in sorted(rows.load(connection, ids).items()):
        wanted = flips[row.id]
        recipients = [
            replace(recipient, trap=wanted.get(recipient.trap_key, bool(recipient.trap)))
            for recipient in row.recipients
        ]
        if recipients == row.recipients:
            continue
        changed += 1
        identities, step = _recount(connection, sums, row, recipients)
        for identity in identities:
            steps[identity] = steps.get(identity, 0) + step
        since = min(since, row.at)
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
    return changed


def _recount(
    connection: Connection,
    sums: deltas.Sums,
    row: Row,
    recipients: list[RecipientRow],
) -> tuple[Iterable[deltas.IdentityKey], int]:
    """Count `row` with these recipients; returns the identities whose trap messages change, and by
    how much.
    """
    names = row.keys()[1]
    before = row.traps
    sums.add(row, names, -1, identities=False)
    for position, (old, new) in enumerate(zip(row.recipients, recipients, strict=True)):
        if old.trap != new.trap:
            connection.execute(
                update(MessageRecipient)
                .where(MessageRecipient.message_id == row.id, MessageRecipient.position == position)
                .values(trap=new.trap)
            )
    row.recipients = recipients
    row.message.traps = row.traps
    sums.add(row, names, 1, identities=False)
    connection.execute(update(Message).where(Message.id == row.id).values(traps=row.traps))
    step = bool(row.traps) - bool(before)
    of_this = deltas.Sums()
    if step:
        of_this.add(row, ())
    return of_this.identities, step
