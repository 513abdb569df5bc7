"""Mail that came before its recipient became a trap counts as trap mail all the same.

How it works: when the traps have changed or a log was imported since the last time (revisions
`traps` and `old-mail` against `hindsight`), `settle` looks for recipients that are traps now and
are not marked, marks them, and adds the hits to every sum. A trap that is removed again takes these
marks with it; a hit on what was a trap when the mail came stays one. Nobody is listed for the past:
listings answer to hits.

Locks are taken as `ingest` takes them (messages, sums, identities, each in order), because the
recorders of all hosts write meanwhile.

Limits: marks of a domain or a pattern that is removed stay; only exact traps take theirs along.
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
# Decisions that a door makes only where a recipient is a trap at that moment.
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
    """Bring the marks of old mail up to date with the traps; how many messages changed.

    Works in transactions of `batch` messages and says after each how many of how many are done.
    Stops once `seconds` are over (None: when all is done); the next call goes on from there. Cheap
    where the traps have not changed. Raises StoreError.
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
    """`name` was a trap by mistake: its hits are none, and what followed from them goes.

    Marks, sums, evidence, the listings that rest on nothing else and the flags of repeat senders
    are taken back, in bounded transactions; how many messages were hits. Call it when the trap has
    been removed. Raises StoreError, and ValueError for what can be no trap.

    Limits: a hit that came when a listing had all the evidence it may keep stays counted there.
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
    """The messages that hit this trap, and by which addresses; none of a trap in force."""
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
    """Old mail came in whose recipients nobody compared with the traps: look at the next report."""
    # A number that grows, and not the end of ours: a `settle` under way has not seen this mail,
    # and will remember how far it has come.
    revision.bump(connection, OLD_MAIL)


def _remember(connection: Connection, number: int) -> None:
    # Two programs may be here at once, and neither finds a row.
    sql = sqltext.upsert("revision", "number=")
    sqltext.many(connection, sql, [(TOPIC, number)])


def _flips(connection: Connection) -> dict[int, dict[str, bool]]:
    """For each message whose marks are out of date: trap key and what its mark should be."""
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
    # What only hindsight had marked: the mail is older than the trap, and the trap is gone. Where
    # the decision speaks of a trap it was one even so (and became one again later).
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
            # `[` is legal in no unquoted address: here it is a character, not a class.
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
    """Set the marks of these messages and carry the difference into every sum.

    Whoever becomes a repeat sender by it is flagged here, too: were it left to the end, a
    `settle` that was interrupted would leave nothing for the next one to find them by.
    """
    from gatepost_policy import listings

    waiting.fold(connection, settings, whole=True)
    # The recorder of another host must not replace a row that we are counting.
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
    """Count `row` with these recipients; whose trap messages have changed, and by how much."""
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
