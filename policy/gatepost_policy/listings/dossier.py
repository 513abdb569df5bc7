"""What the store knows of listings and repeat senders, to show an operator. Reads only. Times are
Unix seconds.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

from sqlalchemy import Connection, and_, func, or_, select

from gatepost_policy.mail.facts import Identity, IdentityKind
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Evidence, Listing, Message, SenderIdentity
from gatepost_policy.text.times import timestamp


@dataclass(frozen=True, slots=True)
class Proof:
    """One trap hit that is evidence for a listing. `message` is its number in the store."""

    at: float
    message: int
    trap: str
    queue_id: str | None
    sender: str | None
    client: str | None


@dataclass(frozen=True, slots=True)
class Entry:
    """One listing from `since` to `until`. `state` is active, over, or forgiven."""

    kind: str
    value: str
    since: float
    until: float
    state: str
    reason: str
    hits: int
    by_hand: bool
    note: str | None
    evidence: tuple[Proof, ...] = ()

    def json(self) -> dict[str, Any]:
        """As the commands print it; times in UTC."""
        out = asdict(self)
        out["since"], out["until"] = timestamp(self.since), timestamp(self.until)
        out["evidence"] = [asdict(p) | {"at": timestamp(p.at)} for p in self.evidence]
        return out


@dataclass(frozen=True, slots=True)
class Rhythm:
    """One identity and how often it came: messages, those to traps, UTC days, messages by IPv4 and
    IPv6.
    """

    kind: str
    value: str
    proven: bool
    first_seen: float
    last_seen: float
    messages: int
    trap_messages: int
    days: int
    ipv4: int
    ipv6: int
    repeat: bool
    note: str | None

    def json(self) -> dict[str, Any]:
        """As the commands print it; times in UTC."""
        seen = {"first_seen": timestamp(self.first_seen), "last_seen": timestamp(self.last_seen)}
        return asdict(self) | seen


@dataclass(frozen=True, slots=True)
class Dossier:
    """All that is known of one sender."""

    identity: Identity
    known: tuple[Rhythm, ...] = field(default=())
    listings: tuple[Entry, ...] = field(default=())

    def json(self) -> dict[str, Any]:
        """As `sender show --format json` prints it."""
        return {
            "sender": self.identity.value,
            "kind": self.identity.kind,
            "identities": [k.json() for k in self.known],
            "listings": [x.json() for x in self.listings],
        }


def listings(
    connection: Connection,
    now: float,
    *,
    past: bool = False,
    limit: int | None = 100,
    evidence: bool = False,
) -> list[Entry]:
    """The listings that hold at `now`, the one that ends last first; with `past` all, the newest
    first. At most `limit` (None: all); their evidence only where asked for.
    """
    query = select(Listing.__table__)
    if limit is not None:
        query = query.limit(limit)
    if past:
        query = query.order_by(Listing.since.desc(), Listing.id.desc())
    else:
        query = query.where(Listing.until > now, Listing.forgiven.is_(None)).order_by(
            Listing.until.desc(), Listing.id.desc()
        )
    rows = connection.execute(query).all()
    if not evidence:
        return [_entry(row, now) for row in rows]
    proofs = _evidence(connection, [row.id for row in rows])
    return [_entry(row, now, proofs.get(row.id, ())) for row in rows]


def _entry(row: Any, now: float, evidence: tuple[Proof, ...] = ()) -> Entry:
    state = "active" if row.until > now else "over"
    return Entry(
        kind=row.kind,
        value=row.value,
        since=row.since,
        until=row.until,
        state=state if row.forgiven is None else "forgiven",
        reason=row.reason,
        hits=row.hits,
        by_hand=bool(row.by_hand),
        note=row.note,
        evidence=evidence,
    )


def repeat_senders(connection: Connection, *, limit: int = 100) -> list[Rhythm]:
    """Repeat senders, those who came on most days first."""
    rows = connection.execute(
        select(SenderIdentity.__table__)
        .where(SenderIdentity.trap_messages > 0, SenderIdentity.repeat.is_(True))
        .order_by(SenderIdentity.days.desc(), SenderIdentity.last_seen.desc())
        .limit(limit)
    )
    return [_rhythm(row) for row in rows]


def _rhythm(row: Any) -> Rhythm:
    return Rhythm(
        kind=row.kind,
        value=row.value,
        proven=row.kind in (IdentityKind.PREFIX, IdentityKind.DKIM, IdentityKind.SPF),
        first_seen=row.first_seen,
        last_seen=row.last_seen,
        messages=row.messages,
        trap_messages=row.trap_messages,
        days=row.days,
        ipv4=row.ipv4,
        ipv6=row.ipv6,
        repeat=bool(row.repeat),
        note=row.note,
    )


def sender(connection: Connection, identity: Identity, now: float) -> Dossier:
    """Everything about one sender: its counts (for a domain, of every kind of identity), its
    listings, their evidence.
    """
    kinds = [str(identity.kind)]
    if identity.kind is IdentityKind.DKIM:
        others = (IdentityKind.SPF, IdentityKind.SENDER_DOMAIN, IdentityKind.FROM_DOMAIN)
        kinds += [str(kind) for kind in others]
    known = connection.execute(
        select(SenderIdentity.__table__).where(
            SenderIdentity.kind.in_(kinds), SenderIdentity.value == identity.value
        )
    ).all()
    mine = and_(Listing.kind == identity.kind, Listing.value == identity.value)
    if identity.kind is IdentityKind.PREFIX:
        mine = or_(mine, and_(Listing.kind == "promoted", Listing.value == identity.value))
    rows = connection.execute(
        select(Listing.__table__).where(mine).order_by(Listing.since.desc(), Listing.id.desc())
    ).all()
    proofs = _evidence(connection, [row.id for row in rows])
    entries = [_entry(row, now, proofs.get(row.id, ())) for row in rows]
    return Dossier(identity, tuple(_rhythm(row) for row in known), tuple(entries))


def _evidence(connection: Connection, listing_ids: Sequence[int]) -> dict[int, tuple[Proof, ...]]:
    """The evidence of these listings, by listing id, oldest first."""
    found: dict[int, tuple[Proof, ...]] = {}
    for part in chunks(listing_ids):
        rows = connection.execute(
            select(
                Evidence.listing_id,
                Evidence.at,
                Evidence.message_id,
                Evidence.trap,
                Message.queue_id,
                Message.sender,
                func.coalesce(Message.address, Message.prefix).label("client"),
            )
            # A message may have been purged since; its trap hit is still known.
            .outerjoin(Message, Message.id == Evidence.message_id)
            .where(Evidence.listing_id.in_(part))
            .order_by(Evidence.listing_id, Evidence.at, Evidence.message_id, Evidence.trap)
        )
        for listing_id, group in groupby(rows, key=lambda row: int(row.listing_id)):
            found[listing_id] = tuple(
                Proof(r.at, r.message_id, r.trap, r.queue_id, r.sender, r.client) for r in group
            )
    return found
