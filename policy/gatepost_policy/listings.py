"""Punish who is to blame for a trap hit, for a time that doubles; forgive; remember why.

`apply` is the recorder's: called in its transaction for message rows it has just inserted, once
each. It is the only place where a listing is made by itself; `punish` and `forgive` are the
operator's hand. Each hit costs a fixed number of indexed statements, whatever came before it.

How it works: the newest row of an identity decides. It still holds: the hit adds evidence and
nothing else. It has ended, less than `listing_memory` ago: the next one lasts twice as long.
It was forgiven, or there is none: the first length. A repeat sender gets the longest at once.

* One message is one hit, whatever its recipients. A retry of a message that is evidence already
  (the same Message-ID, or after a 4xx the same sender and trap) is no new hit.
* A hit seen at RCPT by the policy service names the client prefix, for want of a signature. Where
  the milter then sees the same message signed, the recorder says `replaces`, and what the first
  row had caused is taken back.
* Rows of an imported log are history: they make repeat senders, not listings.

Limits: EVIDENCE_MAX rows of evidence a listing, CHILDREN_MAX listings a day in one IPv6 /48 (a
spammer who owns a /48 has 65 536 /64s; after that many it makes no difference).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network, ip_address, ip_network

from sqlalchemy import (
    Connection,
    RowMapping,
    and_,
    delete,
    func,
    insert,
    select,
    update,
)

from gatepost_policy import address, revision, rules
from gatepost_policy.decision import Action, Reason
from gatepost_policy.facts import Direction, Identity, IdentityKind, Source, client_prefix
from gatepost_policy.record import Seen
from gatepost_policy.rules import Known
from gatepost_policy.settings import Settings
from gatepost_policy.tables import (
    Evidence,
    Listing,
    Message,
    SenderIdentity,
)

EVIDENCE_MAX = 100
CHILDREN_MAX = 256
PROMOTE_CHILDREN = 3
DAY_S = 86_400
# RFC 5321 4.5.4.1: a sender gives up after four or five days.
RETRY_S = 5 * DAY_S
# Of one client, so many of its newest messages are looked at for good ones.
GOOD_SCAN = 1_000
PROMOTED = "promoted"


@dataclass(frozen=True, slots=True)
class Fresh:
    """A message row that was just inserted; `replaces` are the other door's rows it made void."""

    message_id: int
    seen: Seen
    replaces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be published after the commit."""

    listings: bool = False
    repeat: bool = False

    def __bool__(self) -> bool:
        return self.listings or self.repeat


def apply(connection: Connection, rows: Sequence[Fresh], settings: Settings) -> Changes:
    """List whoever is to blame for the trap hits among fresh message rows, oldest first.

    The revision is bumped where anything changed. Rows of an imported log list nobody.
    """
    listed = False
    for row in rows:
        if row.replaces:
            listed |= _take_back(connection, row.replaces, row.message_id)
        facts = row.seen.facts
        if not row.seen.traps or facts.direction is not Direction.INBOUND:
            continue
        if facts.source in (Source.MILTER, Source.POLICY):
            listed |= _hit(connection, row, settings)
    if listed:
        revision.bump(connection, "listings")
    return Changes(listings=listed)


def good_messages(connection: Connection, prefix: str, at: float, settings: Settings) -> int:
    """How much good mail this client brought to real recipients in `good_window`, bounded."""
    newest = (
        select(Message.action, Message.reason, Message.shadow, Message.stage)
        .where(
            Message.prefix == prefix,
            Message.at >= at - settings.sender.good_window,
            Message.at <= at,
        )
        .order_by(Message.at.desc())
        .limit(GOOD_SCAN)
        .subquery()
    )
    return (
        connection.scalar(
            select(func.count())
            .select_from(newest)
            .where(
                newest.c.action == Action.ACCEPT,
                newest.c.reason == Reason.NO_BAD_SIGNAL,
                newest.c.shadow.is_(None),
                newest.c.stage != "rcpt",
            )
        )
        or 0
    )


def _hit(connection: Connection, row: Fresh, settings: Settings) -> bool:
    """One message to traps: list or go on listing whoever is to blame. True for any change."""
    facts = row.seen.facts
    good = None
    prefix = facts.client.prefix
    if prefix is not None and not facts.aligned_domains():
        good = good_messages(connection, prefix, facts.at, settings)
    known = Known(traps=frozenset(row.seen.traps), good_messages=good)
    changed = False
    for identity in rules.blame(facts, known, settings).identities:
        changed |= _list(connection, row, identity, settings)
    return changed


def _newest(connection: Connection, kind: str, value: str) -> RowMapping | None:
    return (
        connection.execute(
            select(*Listing.__table__.columns)
            .where(Listing.kind == kind, Listing.value == value)
            .order_by(Listing.until.desc(), Listing.id.desc())
            .limit(1)
        )
        .mappings()
        .one_or_none()
    )


def _list(connection: Connection, row: Fresh, identity: Identity, settings: Settings) -> bool:
    at = row.seen.facts.at
    last = _newest(connection, identity.kind, identity.value)
    if last is not None and last["forgiven"] is None and _is_retry(connection, row, last):
        return False
    if last is not None and last["forgiven"] is None and at < last["until"]:
        _add_evidence(connection, row, last["id"])
        return False  # nothing that the other processes need to know
    previous = None
    if last is not None and last["forgiven"] is None:
        if at - last["until"] <= settings.sender.listing_memory:
            previous = last["seconds"]
    repeat = connection.scalar(
        select(SenderIdentity.repeat).where(
            SenderIdentity.kind == identity.kind, SenderIdentity.value == identity.value
        )
    )
    network = None
    siblings: list[str] = []
    if identity.kind is IdentityKind.PREFIX and ":" in identity.value:
        network = str(IPv6Network(identity.value).supernet(new_prefix=48))
        siblings = _children(connection, network, at)
        if len(siblings) >= CHILDREN_MAX and identity.value not in siblings:
            return False
    seconds = rules.listing_seconds(previous, bool(repeat), settings)
    _insert(connection, row, identity.kind, identity.value, seconds, Reason.TRAP, network)
    if network is not None and settings.sender.promotion != "off":
        _promote(connection, row, identity.value, network, siblings, seconds)
    return True


def _insert(
    connection: Connection,
    row: Fresh,
    kind: str,
    value: str,
    seconds: int,
    reason: str,
    network: str | None,
) -> None:
    at = row.seen.facts.at
    made = connection.execute(
        insert(Listing).values(
            kind=kind,
            value=value,
            since=at,
            until=at + seconds,
            seconds=seconds,
            reason=reason,
            hits=0,
            by_hand=False,
            network=network,
        )
    )
    key = made.inserted_primary_key
    assert key is not None
    _add_evidence(connection, row, int(key[0]))


def _add_evidence(connection: Connection, row: Fresh, listing_id: int) -> None:
    """One more hit; its traps are kept while there is room."""
    connection.execute(
        update(Listing).where(Listing.id == listing_id).values(hits=Listing.hits + 1)
    )
    kept = connection.scalar(
        select(func.count()).select_from(Evidence).where(Evidence.listing_id == listing_id)
    )
    room = EVIDENCE_MAX - (kept or 0)
    keys = list(dict.fromkeys(address.parse(t).trap_key for t in row.seen.traps))[: max(room, 0)]
    if keys:
        connection.execute(
            insert(Evidence),
            [
                {
                    "listing_id": listing_id,
                    "message_id": row.message_id,
                    "trap": key,
                    "at": row.seen.facts.at,
                }
                for key in keys
            ],
        )


def _is_retry(connection: Connection, row: Fresh, last: RowMapping) -> bool:
    """True where this message is evidence for `last` already and merely came again."""
    facts = row.seen.facts
    if not last["since"] - RETRY_S <= facts.at <= last["until"] + RETRY_S:
        return False
    evidence = (
        select(Message.id)
        .join(Evidence, Evidence.message_id == Message.id)
        .where(Evidence.listing_id == last["id"], Message.sender_key == facts.sender.key)
        .limit(1)
    )
    if facts.message_id is not None:
        return connection.scalar(evidence.where(Message.message_id == facts.message_id)) is not None
    if row.seen.decision.action is not Action.TEMPFAIL:
        return False
    keys = [address.parse(t).trap_key for t in row.seen.traps]
    return (
        connection.scalar(
            evidence.where(Message.action == Action.TEMPFAIL, Evidence.trap.in_(keys[:500]))
        )
        is not None
    )


def _take_back(connection: Connection, void: Sequence[int], instead: int) -> bool:
    """Undo what void rows have caused: their evidence goes, and a listing that had no other."""
    evidence = connection.execute(
        select(Evidence.listing_id).where(Evidence.message_id.in_(void)).distinct()
    ).scalars().all()  # fmt: skip
    if not evidence:
        return False
    connection.execute(delete(Evidence).where(Evidence.message_id.in_(void)))
    connection.execute(
        update(Listing).where(Listing.id.in_(evidence)).values(hits=Listing.hits - 1)
    )
    gone = connection.execute(
        delete(Listing).where(
            Listing.id.in_(evidence), Listing.hits <= 0, Listing.by_hand.is_(False)
        )
    )
    return bool(gone.rowcount)


def _children(connection: Connection, network: str, at: float) -> list[str]:
    """The /64s of `network` that were listed within the last day."""
    return list(
        connection.execute(
            select(Listing.value)
            .where(
                Listing.network == network,
                Listing.since > at - DAY_S,
                Listing.kind == "prefix",
                Listing.forgiven.is_(None),
            )
            .limit(CHILDREN_MAX + 1)
        ).scalars()
    )


def _promote(
    connection: Connection,
    row: Fresh,
    value: str,
    network: str,
    siblings: Sequence[str],
    seconds: int,
) -> None:
    """Three listed /64s within a day make their /56 a suspect, three such /56s their /48."""
    at = row.seen.facts.at
    groups: dict[str, set[str]] = {}
    for child in {*siblings, value}:
        parent = str(IPv6Network(child).supernet(new_prefix=56))
        groups.setdefault(parent, set()).add(child)
    mine = str(IPv6Network(value).supernet(new_prefix=56))
    wanted = [mine] if len(groups[mine]) >= PROMOTE_CHILDREN else []
    if len(groups) >= PROMOTE_CHILDREN:
        wanted.append(network)
    for parent in wanted:
        last = _newest(connection, PROMOTED, parent)
        if last is not None and last["forgiven"] is None and at < last["until"]:
            _add_evidence(connection, row, last["id"])
        else:
            _insert(connection, row, PROMOTED, parent, seconds, "promotion", None)


def flag_repeat(connection: Connection, since: float, settings: Settings) -> bool:
    """Flag those who became repeat senders, among the identities seen at or after `since`.

    Call it once a batch, after listings were made ("its next hit" is not the hit that makes it
    one) and identities counted. True where one was new; the caller bumps the revision.

    Never flagged: never_list and own domains, where an identity is a crowd, and clients that
    deliver good mail, for the same reason.
    """
    sender = settings.sender
    candidates = connection.execute(
        select(SenderIdentity.kind, SenderIdentity.value, SenderIdentity.last_seen).where(
            SenderIdentity.trap_messages > 0,
            SenderIdentity.last_seen >= since,
            SenderIdentity.repeat.is_(False),
            SenderIdentity.messages >= sender.repeat_messages,
            SenderIdentity.days >= sender.repeat_messages,
            SenderIdentity.last_seen - SenderIdentity.first_seen >= sender.repeat_span,
        )
    ).all()
    protected = sender.never_list + sender.own_domains
    flagged = False
    for kind, value, last_seen in candidates:
        if kind == IdentityKind.PREFIX:
            if good_messages(connection, value, last_seen, settings) >= sender.good_messages:
                continue
        elif any(address.is_within(value.rpartition("@")[2], p) for p in protected) and (
            kind != IdentityKind.SENDER
        ):
            continue
        connection.execute(
            update(SenderIdentity)
            .where(SenderIdentity.kind == kind, SenderIdentity.value == value)
            .values(repeat=True)
        )
        flagged = True
    return flagged


def holding(connection: Connection, now: float) -> list[tuple[str, str, float]]:
    """(kind, value, until) of every listing that holds at `now`; the longest of each identity."""
    return [
        (kind, value, float(until))
        for kind, value, until in connection.execute(
            select(Listing.kind, Listing.value, func.max(Listing.until))
            .where(Listing.until > now, Listing.forgiven.is_(None))
            .group_by(Listing.kind, Listing.value)
        )
    ]


def repeating(connection: Connection) -> list[tuple[str, str]]:
    """(kind, value) of every repeat sender."""
    return [
        (kind, value)
        for kind, value in connection.execute(
            select(SenderIdentity.kind, SenderIdentity.value).where(
                SenderIdentity.trap_messages > 0, SenderIdentity.repeat.is_(True)
            )
        )
    ]


def identify(name: str) -> Identity:
    """The identity an operator names: an IP address, a prefix, a domain, or a mail address.

    An IPv6 address means its /64. Raises ValueError saying what was wanted.
    """
    name = name.strip().strip("<>")
    wanted = "want an IP address, a prefix such as 2001:db8::/64, a domain or a mail address"
    if "@" in name:
        parsed = address.parse(name)
        if parsed.local and parsed.domain:
            return Identity(IdentityKind.SENDER, parsed.key, False)
        name = name.removeprefix("@")
    if "/" in name:
        try:
            return Identity(IdentityKind.PREFIX, str(ip_network(name, strict=False)), True)
        except ValueError:
            raise ValueError(wanted) from None
    try:
        return Identity(IdentityKind.PREFIX, client_prefix(ip_address(name.strip("[]"))), True)
    except ValueError:
        domain = address.canonical_domain(name)
        if "." not in domain or any(c.isspace() or c in "@:/*" for c in domain):
            raise ValueError(wanted) from None
        return Identity(IdentityKind.DKIM, domain, True)


def punish(
    connection: Connection, identity: Identity, *, seconds: int, at: float, note: str = ""
) -> None:
    """List `identity` by hand for `seconds` from `at`; one that holds already is replaced."""
    connection.execute(
        update(Listing)
        .where(
            Listing.kind == identity.kind,
            Listing.value == identity.value,
            Listing.until > at,
            Listing.forgiven.is_(None),
        )
        .values(until=at)
    )
    connection.execute(
        insert(Listing).values(
            kind=identity.kind,
            value=identity.value,
            since=at,
            until=at + seconds,
            seconds=seconds,
            reason="by-hand",
            hits=0,
            by_hand=True,
            note=note or None,
            network=None,
        )
    )
    revision.bump(connection, "listings")


def forgive(connection: Connection, identity: Identity, *, at: float, note: str = "") -> int:
    """End the listings of `identity` and forget that they were: the next hit is a first one.

    A prefix takes the listings of what lies in it along. Returns how many were forgiven.
    """
    wanted = [and_(Listing.kind == identity.kind, Listing.value == identity.value)]
    if identity.kind is IdentityKind.PREFIX:
        wanted = [
            and_(Listing.kind == kind, Listing.value == value)
            for kind, value in _within(connection, identity.value, at)
        ]
    forgiven = 0
    for condition in wanted:
        values = {"until": at, "forgiven": at} | ({"note": note} if note else {})
        # What has ended already is forgiven too, or the next hit would count as a second one.
        forgiven += connection.execute(
            update(Listing)
            .where(condition, Listing.forgiven.is_(None), Listing.until > at)
            .values(**values)
        ).rowcount
        forgiven += connection.execute(
            update(Listing)
            .where(condition, Listing.forgiven.is_(None), Listing.until <= at)
            .values(forgiven=at)
        ).rowcount
    if forgiven:
        revision.bump(connection, "listings")
    return forgiven


def _within(connection: Connection, prefix: str, at: float) -> list[tuple[str, str]]:
    """(kind, value) of the listed prefixes inside `prefix`, itself and those promoted included."""
    network = ip_network(prefix)
    rows = connection.execute(
        select(Listing.kind, Listing.value)
        .where(Listing.kind.in_(("prefix", PROMOTED)), Listing.forgiven.is_(None))
        .distinct()
    )
    found = []
    for kind, value in rows:
        other = ip_network(value)
        if other.version == network.version and other.subnet_of(network):  # type: ignore[arg-type]
            found.append((kind, value))
    return found

