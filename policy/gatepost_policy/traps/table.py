"""Keep the traps: addresses, domains and patterns that were never given to anyone.

All functions work inside the caller's transaction. Each change of the traps bumps the revision
`traps`, so that the recorder publishes it. `names` says how a trap is written, and what cannot be
one. Times are Unix seconds.
"""

import re
from collections.abc import Sequence
from fnmatch import translate
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, insert, or_, select, true, update

from gatepost_policy.store import revision
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import (
    Message,
    MessageRecipient,
    Revision,
    SenderIdentity,
    TrapRow,
)
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.traps.names import classify


@dataclass(frozen=True, slots=True)
class Trap:
    """One trap as the operator sees it. Times are Unix seconds."""

    kind: str
    key: str
    raw: str
    source: str
    note: str
    published: str
    published_at: float | None
    added: float
    live_at: float | None
    live_as: str


@dataclass(frozen=True, slots=True)
class Finding:
    """A trap that should not be one, because its address is in use; `how` says by what (sender,
    login). `at` is when it was last seen.
    """

    trap: str
    how: str
    at: float | None
    messages: int | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """One message to one trap."""

    at: float
    message_id: int
    trap: str
    sender: str | None
    client: str | None
    action: str
    reason: str
    source: str


def live() -> ColumnElement[bool]:
    """The SQL condition for a trap in force: not removed, and not of an unfinished import."""
    newest = select(Revision.number).where(Revision.topic == "generation").scalar_subquery()
    return and_(
        TrapRow.removed.is_(None),
        or_(TrapRow.generation == 0, TrapRow.generation <= newest),
    )


def add(
    connection: Connection,
    name: str,
    *,
    at: float,
    source: str = "",
    note: str = "",
    published: str = "",
    published_at: float | None = None,
) -> bool:
    """Make `name` a trap. False: it was one already. Raises ValueError for what cannot be one."""
    kind, key = classify(name)
    values: dict[str, Any] = {"raw": name.strip(), "source": source, "note": note}
    values |= {"published": published, "published_at": published_at}
    row = connection.execute(
        select(TrapRow.id, TrapRow.removed, TrapRow.generation).where(
            TrapRow.kind == kind, TrapRow.key == key
        )
    ).one_or_none()
    if row is None:
        connection.execute(
            insert(TrapRow).values(kind=kind, key=key, added=at, generation=0, live_as="", **values)
        )
    elif row.removed is not None or row.generation > revision.number(connection, "generation"):
        connection.execute(
            update(TrapRow)
            .where(TrapRow.id == row.id)
            .values(added=at, removed=None, generation=0, live_at=None, live_as="", **values)
        )
    else:
        return False
    revision.bump(connection, "traps")
    return True


@dataclass(frozen=True, slots=True)
class InUse:
    """How an address is used: reasons against making it a trap. `last` in Unix seconds."""

    accepted: int  # messages to it that were accepted in the last USE_DAYS days
    senders: int  # different envelope senders of these
    wrote: int  # messages that named it as their envelope sender, or author
    last: float | None


USE_DAYS = 30
USE_SCAN = 100_000  # so many of the newest messages are read for a domain or a pattern


def in_use(connection: Connection, name: str, *, now: float) -> InUse | None:
    """How `name` was used in the USE_DAYS before `now`; None: not at all, or it is a trap already.
    Raises ValueError for what cannot be one.
    """
    kind, key = classify(name)
    known = select(TrapRow.id).where(TrapRow.kind == kind, TrapRow.key == key, live())
    if connection.scalar(known) is not None:
        return None
    since = now - USE_DAYS * 86_400
    recipient = MessageRecipient
    query = (
        select(Message.at, Message.sender_key, recipient.trap_key)
        .join(recipient, recipient.message_id == Message.id)
        .where(
            Message.at >= since, Message.action == "accept", Message.direction == "inbound",
            recipient.accepted, recipient.trap.is_(False),
        )
    )  # fmt: skip
    if kind == "exact":
        query = query.where(recipient.trap_key == key)
    else:
        query = query.order_by(Message.at.desc()).limit(USE_SCAN)
    pattern = re.compile(translate(key.replace("[", "[[]"))) if kind == "pattern" else None
    accepted, senders, last = 0, set(), None
    for at, sender, trap_key in connection.execute(query):
        if kind == "domain" and not trap_key.endswith(key):
            continue
        if pattern is not None and not pattern.match(trap_key):
            continue
        accepted += 1
        senders.add(sender)
        last = at if last is None or at > last else last
    wrote = 0
    if kind == "exact":
        identity = SenderIdentity
        sent = connection.scalar(
            select(func.sum(identity.messages)).where(
                identity.kind == "sender", identity.value == key, identity.last_seen >= since
            )
        )
        wrote = int(sent or 0)
    if not accepted and not wrote:
        return None
    return InUse(accepted, len(senders), wrote, last)


def remove(connection: Connection, name: str, *, at: float) -> bool:
    """End the trap `name`; its history stays. False: it was none. Raises ValueError for what cannot
    be one.
    """
    kind, key = classify(name)
    changed = connection.execute(
        update(TrapRow).where(TrapRow.kind == kind, TrapRow.key == key, live()).values(removed=at)
    )
    if changed.rowcount:
        revision.bump(connection, "traps")
    return bool(changed.rowcount)


def is_live(connection: Connection, name: str) -> bool:
    """True where `name` itself is a trap now; False also for what cannot be one."""
    try:
        kind, key = classify(name)
    except ValueError:
        return False
    known = select(TrapRow.id).where(TrapRow.kind == kind, TrapRow.key == key, live())
    return connection.scalar(known) is not None


def listing(
    connection: Connection,
    *,
    match: str = "",
    source: str | None = None,
    limit: int | None = None,
) -> list[Trap]:
    """The traps in force, by key; `match` is a substring of the key."""
    query = select(TrapRow).where(live()).order_by(TrapRow.key)
    if match:
        query = query.where(TrapRow.key.contains(match.lower(), autoescape=True))
    if source is not None:
        query = query.where(TrapRow.source == source)
    if limit is not None:
        query = query.limit(limit)
    return [
        Trap(
            r.kind, r.key, r.raw, r.source, r.note, r.published, r.published_at, r.added,
            r.live_at, r.live_as,
        )
        for r in connection.execute(query)
    ]  # fmt: skip


def count(connection: Connection) -> int:
    """How many traps are in force."""
    return connection.scalar(select(func.count()).select_from(TrapRow).where(live())) or 0


def seen_live(connection: Connection, keys: Sequence[str], *, at: float, how: str) -> int:
    """Record that these trap keys were seen as senders or logins. Returns how many are traps in
    force.

    An inbound sender may be forged: it never overwrites what one of our own users showed.
    """
    changed = 0
    open_to = or_(TrapRow.live_as == "", TrapRow.live_as == "sender") if how == "sender" else true()
    for part in chunks(keys):
        changed += connection.execute(
            update(TrapRow)
            .where(TrapRow.kind == "exact", TrapRow.key.in_(part), live(), open_to)
            .values(live_at=at, live_as=how)
        ).rowcount
    return changed


def check(connection: Connection) -> list[Finding]:
    """Traps that somebody seems to use: seen as a sender or as a login (`live_as`)."""
    found: dict[str, Finding] = {}
    flagged = select(TrapRow.key, TrapRow.live_at, TrapRow.live_as).where(
        live(), TrapRow.live_at.is_not(None)
    )
    for row in connection.execute(flagged):
        found[row.key] = Finding(row.key, row.live_as, row.live_at)
    # Mail sent under this address before it became a trap: it is a sender identity in the store.
    history = (
        select(TrapRow.key, SenderIdentity.last_seen, SenderIdentity.messages)
        .join(
            SenderIdentity,
            and_(SenderIdentity.kind == "sender", SenderIdentity.value == TrapRow.key),
        )
        .where(TrapRow.kind == "exact", live())
    )
    for key, at, messages in connection.execute(history):
        how = found[key].how if key in found else "sender"
        found[key] = Finding(key, how, at, messages)
    return sorted(found.values(), key=lambda f: f.trap)


def hits(connection: Connection, name: str | None = None, *, limit: int = 100) -> list[Hit]:
    """The newest messages to traps, or to the one trap `name`. Raises ValueError where that cannot
    be one.
    """
    query = (
        select(
            Message.at,
            Message.id,
            MessageRecipient.address,
            Message.sender,
            func.coalesce(Message.address, Message.prefix).label("client"),
            Message.action,
            Message.reason,
            Message.source,
        )
        .join(MessageRecipient, MessageRecipient.message_id == Message.id)
        .order_by(Message.at.desc())
        .limit(limit)
    )
    if name is None:
        query = query.where(Message.traps > 0, MessageRecipient.trap)
    else:
        kind, key = classify(name)
        if kind == "exact":
            query = query.where(MessageRecipient.trap_key == key)
        elif kind == "domain":
            query = query.where(
                MessageRecipient.trap, MessageRecipient.trap_key.endswith(key, autoescape=True)
            )
        else:
            like = key.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
            like = like.replace("*", "%").replace("?", "_")
            query = query.where(
                MessageRecipient.trap, MessageRecipient.trap_key.like(like, escape="\\")
            )
    return [
        Hit(r.at, r.id, r.address, r.sender, r.client, r.action, r.reason, r.source)
        for r in connection.execute(query)
    ]


def domains_by_hand(connection: Connection) -> set[str]:
    """The domains of traps in force that were made by hand: they are ours, or once were.

    Imported lists hold domains of other people.
    """
    rows = connection.scalars(
        select(TrapRow.key).where(TrapRow.generation == 0, TrapRow.removed.is_(None))
    )
    domains = {key.rpartition("@")[2] for key in rows}
    return {d for d in domains if d and not set(d) & set("*?[")}
