"""Keep the traps: addresses, domains and patterns that nobody was ever given.

All functions work on a connection inside the caller's transaction, but for `import_lines`, which
commits batches. Every change bumps the revision `traps`, by which the recorder learns of it.

Kinds: `exact` (`spam@example.org`), `domain` (`@example.org`: everybody there), `pattern`
(`info-*@example.org`, `*@*.old.example`; `*` and `?` as in a shell). A key is matched against
`Address.trap_key`. postmaster@ and abuse@ are nobody's traps (RFC 5321 4.5.1, RFC 2142).

How an import is atomic: its rows carry generation N+1 while the revision `generation` says N, so
nobody sees them; one last commit says N+1. Rows of an import that died are removed by the next.

Limits: an import takes no patterns, because `*` is legal in an address and a published list is
full of odd ones. One import at a time.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    delete,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)

from gatepost_policy import address, revision
from gatepost_policy.tables import (
    Message,
    MessageRecipient,
    Revision,
    SenderIdentity,
    TrapRow,
)

BATCH_ROWS = 5_000
MAX_NAME = 320
MAX_REFUSED = 20
OPEN = ("postmaster", "abuse")
# The plain address of a published list: no quotes, no tag, ASCII. All others go through `parse`.
_PLAIN = re.compile(r"[A-Za-z0-9!#$%&'*/=?^_`{|}~.-]+@(?:[A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\Z")
_LITERAL_DOMAIN = re.compile(r"(?:[*?.]|\*\.)*[^*?.@]+\.[^*?.@]+\Z")


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
class Imported:
    """What an import did. `refused` holds the first lines it could not take: number, line, why."""

    added: int
    known: int
    invalid: int
    refused: tuple[tuple[int, str, str], ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """A trap that is none any more, or should not be one; `how` says what gave it away."""

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


def classify(name: str, *, patterns: bool = True) -> tuple[str, str]:
    """(kind, key) of a trap as it is written. Raises ValueError saying what was wanted."""
    name = name.strip()
    if name.startswith("<") and name.endswith(">"):
        name = name[1:-1]
    # RFC 5321 4.5.3.1: 64 octets of local part, 255 of domain; nothing longer ever gets mail.
    if len(name) > MAX_NAME:
        raise ValueError(f"want at most {MAX_NAME} characters")
    if _PLAIN.match(name) and not (patterns and ("*" in name or "?" in name)):
        key = name.lower()
        if key.partition("@")[0] in OPEN:
            raise ValueError("postmaster@ and abuse@ are always open and cannot be traps")
        return "exact", key
    if "@" not in name:
        raise ValueError("want an address, @domain or a pattern such as info-*@example.org")
    if name.startswith("@"):
        domain = address.canonical_domain(name[1:])
        if not domain or re.search(r"[\s@*?]", domain):
            raise ValueError("want a domain after the @")
        return "domain", "@" + domain
    if patterns and not name.startswith('"') and ("*" in name or "?" in name):
        local, _, domain = name.rpartition("@")
        domain = domain.rstrip(".").lower()
        # `*@*` would make every recipient a trap: at least two labels have to be spelled out.
        if not local or not _LITERAL_DOMAIN.match(domain):
            raise ValueError("want a pattern whose domain names at least two labels")
        return "pattern", f"{local.lower()}@{domain}"
    parsed = address.parse(name)
    if not parsed.local or not parsed.domain or re.search(r"[\x00-\x1f\x7f]", name):
        raise ValueError("want an address, @domain or a pattern such as info-*@example.org")
    if parsed.trap_key.partition("@")[0] in OPEN:
        raise ValueError("postmaster@ and abuse@ are always open and cannot be traps")
    return "exact", parsed.trap_key


def live() -> ColumnElement[bool]:
    """The SQL condition for "is a trap now" on TrapRow."""
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
            insert(TrapRow).values(
                kind=kind, key=key, added=at, generation=0, live_as="", **values
            )
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


def remove(connection: Connection, name: str, *, at: float) -> bool:
    """`name` is no trap any more; its history stays. False: it was none. Raises ValueError."""
    kind, key = classify(name)
    changed = connection.execute(
        update(TrapRow)
        .where(TrapRow.kind == kind, TrapRow.key == key, live())
        .values(removed=at)
    )
    if changed.rowcount:
        revision.bump(connection, "traps")
    return bool(changed.rowcount)


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


_INSERT = """INSERT INTO trap
 (kind, key, raw, source, note, published, published_at, added, generation, live_as)
 VALUES (:kind, :key, :raw, :source, :note, :published, :published_at, :added, :generation, '')
 ON CONFLICT (kind, key) DO NOTHING"""


def import_lines(
    connection: Connection,
    lines: Iterable[bytes],
    *,
    at: float,
    source: str = "",
    note: str = "",
    published: str = "",
    published_at: float | None = None,
    progress: Callable[[int], None] = lambda octets: None,
) -> Imported:
    """Take one address a line; `#` starts a comment, `@domain` is a domain trap.

    All or nothing becomes visible, at the end. A trap that was removed by hand stays removed: a
    list that is fetched every week must not bring a live mailbox back among the traps. `progress`
    is told the octets of every batch. Raises BlockingIOError where another import runs.
    """
    with _only_one(connection):
        visible = revision.number(connection, "generation")
        _drop_unfinished(connection, visible)
        shared: dict[str, Any] = {"source": source, "note": note, "added": at}
        shared |= {"published": published, "published_at": published_at, "generation": visible + 1}
        added = known = invalid = octets = 0
        refused: list[tuple[int, str, str]] = []
        batch: dict[tuple[str, str], str] = {}

        def flush() -> None:
            nonlocal added, known, octets
            if batch:
                rows = [
                    {"kind": kind, "key": key, "raw": raw, **shared}
                    for (kind, key), raw in batch.items()
                ]
                new = connection.execute(text(_INSERT), rows).rowcount
                added += new
                known += len(rows) - new
                batch.clear()
            connection.commit()
            progress(octets)
            octets = 0

        for number, line in enumerate(lines, 1):
            octets += len(line)
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            name = line.partition(b"#")[0].strip() if line[:1] == b"#" else line.strip()
            if not name:
                continue
            if b"#" in name:
                # `#` is legal in a local part; as a comment it stands after a blank.
                name = re.split(rb"\s#", name, maxsplit=1)[0].strip()
            try:
                raw = name.decode("utf-8")
                kind_key = classify(raw, patterns=False)
            except ValueError as error:
                invalid += 1
                if len(refused) < MAX_REFUSED:
                    why = "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                    refused.append((number, name[:80].decode("utf-8", "backslashreplace"), why))
                continue
            if kind_key in batch:
                known += 1
            else:
                batch[kind_key] = raw
                if len(batch) >= BATCH_ROWS:
                    flush()
        flush()
        if added:
            _set_generation(connection, visible + 1)
            revision.bump(connection, "traps")
            connection.commit()
    return Imported(added, known, invalid, tuple(refused))


def _drop_unfinished(connection: Connection, visible: int) -> None:
    """Remove the rows of an import that never ended, a batch at a time."""
    some = select(TrapRow.id).where(TrapRow.generation > visible).limit(BATCH_ROWS)
    while connection.execute(delete(TrapRow).where(TrapRow.id.in_(some))).rowcount:
        connection.commit()
    connection.commit()


def _set_generation(connection: Connection, generation: int) -> None:
    changed = connection.execute(
        update(Revision).where(Revision.topic == "generation").values(number=generation)
    )
    if not changed.rowcount:
        connection.execute(insert(Revision).values(topic="generation", number=generation))


@contextmanager
def _only_one(connection: Connection) -> Iterator[None]:
    """Hold the import lock: a lock file beside a SQLite store, an advisory lock on a server."""
    if connection.dialect.name == "sqlite":
        path = f"{connection.engine.url.database}.import-lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)
        return
    # The number names this lock and nothing else: "gatepost" in ASCII.
    if not connection.scalar(text("SELECT pg_try_advisory_lock(7449366402208134004)")):
        raise BlockingIOError("another import of traps is running")
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(7449366402208134004)"))
        connection.commit()


def seen_live(connection: Connection, keys: Sequence[str], *, at: float, how: str) -> int:
    """Note that these trap keys were seen as senders or logins. Returns how many traps live.

    An inbound sender may be forged: it never overwrites what one of our own users has shown.
    """
    changed = 0
    open_to = or_(TrapRow.live_as == "", TrapRow.live_as == "sender") if how == "sender" else true()
    for start in range(0, len(keys), 500):
        changed += connection.execute(
            update(TrapRow)
            .where(
                TrapRow.kind == "exact",
                TrapRow.key.in_(keys[start : start + 500]),
                live(),
                open_to,
            )
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
    # Mail that came before the address became a trap: its sender is an identity by now.
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
    """The newest messages to traps, or to the one trap `name`."""
    query = (
        select(
            Message.at,
            Message.id,
            MessageRecipient.address,
            Message.sender,
            func.coalesce(Message.address, Message.prefix).label("client"),
            Message.action,
            Message.reason,
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
        Hit(r.at, r.id, r.address, r.sender, r.client, r.action, r.reason)
        for r in connection.execute(query)
    ]
