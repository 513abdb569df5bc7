"""List whoever is to blame for a trap hit, twice as long each time, and record the evidence.

The recorder calls `apply` in its transaction, once for each message row that it has just inserted.
It is the only place that makes a listing automatically (`by_hand` is for the operator). Each hit
costs a fixed number of indexed statements, whatever came before it.

How it works: the newest listing of an identity decides. If it still holds, the hit only adds
evidence. If it ended less than `listing_memory` ago, the next one lasts twice as long. If it was
forgiven, or there is none, the next one has the first length. A repeat sender gets the longest at
once.

* One message is one hit, whatever its recipients: the same Message-ID from the same sender adds
  nothing to a listing that holds. A message that we answered with 4xx and that comes again starts
  no new listing after it, either.
* A hit seen at RCPT by the policy service lists the client prefix, because no signature is known
  then. Where the milter later sees the same message signed, the recorder sets `replaces`, and what
  the first row had caused is undone (docs/decisions/0081-blame-at-rcpt.md).
* Rows of an imported log are history: they make repeat senders, not listings. A followed log
  (`milterctl watch`) makes listings while its lines are fresh, but only of the client, because a
  log proves no signature.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, and_, delete, func, select, update

from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import hits, past, promotion, table
from gatepost_policy.listings.promotion import CHILDREN_MAX
from gatepost_policy.listings.table import Fresh
from gatepost_policy.mail import index_key
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Direction, Identity, IdentityKind, Source
from gatepost_policy.mail.organisation import organisation
from gatepost_policy.mail.own import NOTHING_OWN, Own
from gatepost_policy.rules import Known, blame
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.tables import Evidence, Listing, Message

# RFC 5321 4.5.4.1: a sender gives up after four or five days.
RETRY_S = 5 * 86_400


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be published after the commit; false where nothing."""

    listings: bool = False
    repeat: bool = False

    def __bool__(self) -> bool:
        return self.listings or self.repeat


def apply(
    connection: Connection, rows: Sequence[Fresh], settings: Settings, own: Own = NOTHING_OWN
) -> Changes:
    """List whoever is to blame for the trap hits among fresh message rows, oldest first.

    The revision `listings` is bumped where anything changed. Rows of an imported log list nobody,
    unless fresh. `own`: domains and networks that are ours beside the configuration.
    """
    listed = False
    read = past.Read(max((row.seen.facts.at for row in rows), default=None))
    for row in rows:
        if row.replaces:
            listed |= _take_back(connection, row.replaces)
            read.forget_hits()
        facts = row.seen.facts
        if not row.seen.traps or facts.direction is not Direction.INBOUND:
            continue
        if facts.source in (Source.MILTER, Source.POLICY):
            listed |= _hit(connection, row, settings, own, read)
        elif row.fresh:
            # A log proves no signature: only the client may be to blame.
            seen = replace(row.seen, facts=replace(facts, signatures=()))
            listed |= _hit(connection, replace(row, seen=seen), settings, own, read)
    if listed:
        revision.bump(connection, "listings")
    return Changes(listings=listed)


def _hit(connection: Connection, row: Fresh, settings: Settings, own: Own, read: past.Read) -> bool:
    """One message to traps: list whoever is to blame, or add evidence. True where a listing
    began.
    """
    facts = row.seen.facts
    own_rows = (row.message_id, *row.replaces)
    before = past.gather(connection, facts, settings, without=own_rows, read=read)
    known = Known(traps=frozenset(row.seen.traps), past=before, own=own)
    found = blame.blame(facts, known, settings)
    hits.remember(connection, row, found)
    read.hit(connection, row.message_id)
    changed = False
    for identity in found.identities:
        changed |= _list(connection, row, identity, found.reason, settings)
    return changed


def _list(
    connection: Connection, row: Fresh, identity: Identity, reason: Reason, settings: Settings
) -> bool:
    at = row.seen.facts.at
    identity = replace(identity, value=index_key.clean(identity.value))
    last = table.newest(connection, identity.kind, identity.value)
    if last is not None and last["forgiven"] is None and _is_retry(connection, row, last):
        return False
    if last is not None and last["forgiven"] is None and at < last["until"]:
        table.add_hit(connection, row, last["id"])
        return False  # the other processes need no news of it
    previous = None
    if last is not None and last["forgiven"] is None:
        if at - last["until"] <= settings.sender.listing_memory:
            previous = last["seconds"]
    sql = "SELECT repeat FROM identity WHERE kind = ? AND value = ?"
    repeat = sqltext.execute(connection, sql, (identity.kind, identity.value)).scalar()
    network = None
    siblings: list[str] = []
    if identity.kind is IdentityKind.PREFIX:
        network = promotion.network_of(identity.value)
    if network is not None:
        siblings = promotion.children(connection, network, at)
        if len(siblings) >= CHILDREN_MAX and identity.value not in siblings:
            return False
    seconds = blame.listing_seconds(previous, bool(repeat), settings)
    if identity.kind is IdentityKind.DKIM:
        network = organisation(identity.value)
    table.begin(connection, row, identity.kind, identity.value, seconds, reason, network)
    if settings.sender.promotion == "off" or network is None:
        return True
    if identity.kind is IdentityKind.PREFIX:
        promotion.promote(connection, row, identity.value, network, siblings, seconds)
    else:
        promotion.promote_signers(connection, row, network, seconds, settings)
    return True


def _is_retry(connection: Connection, row: Fresh, last: RowMapping) -> bool:
    """True where this message is evidence for `last` already and only came again.

    Once the listing has ended, only a message that we had asked to come again (4xx) is a retry:
    else a sender could avoid every later listing by using one Message-ID for all its mail.
    """
    facts = row.seen.facts
    evidence = (
        select(Message.id)
        .join(Evidence, Evidence.message_id == Message.id)
        .where(
            Evidence.listing_id == last["id"],
            Message.sender_key == index_key.clean(facts.sender.key),
        )
        .limit(1)
    )
    asked_again = evidence.where(Message.action == Action.TEMPFAIL)
    if facts.at >= last["until"]:
        if facts.at > last["since"] + RETRY_S:
            return False
        evidence = asked_again
    if facts.message_id is not None:
        evidence = evidence.where(Message.message_id == index_key.clean(facts.message_id))
    elif row.seen.decision.action is Action.TEMPFAIL:
        evidence = asked_again.where(Evidence.trap.in_(table.trap_keys(row)[:500]))
    else:
        return False
    return connection.scalar(evidence) is not None


def take_back(connection: Connection, hits_of: Mapping[int, Sequence[str]]) -> bool:
    """Undo hits that were no hits: delete their evidence, and listings with no other evidence.

    `hits_of` holds the trap keys by message number. True where a listing was deleted. A message
    that hit another trap as well keeps its hit.
    """
    changed = False
    for number, keys in hits_of.items():
        touched = connection.scalars(
            select(Evidence.listing_id)
            .where(Evidence.message_id == number, Evidence.trap.in_(keys))
            .distinct()
        ).all()
        connection.execute(
            delete(Evidence).where(Evidence.message_id == number, Evidence.trap.in_(keys))
        )
        for listing in touched:
            left = connection.scalar(
                select(func.count())
                .select_from(Evidence)
                .where(Evidence.listing_id == listing, Evidence.message_id == number)
            )
            if not left:
                connection.execute(
                    update(Listing).where(Listing.id == listing).values(hits=Listing.hits - 1)
                )
        changed |= _drop_without_hits(connection, touched)
        if not connection.scalar(select(Message.traps).where(Message.id == number)):
            hits.forget(connection, [number])
    return changed


def _drop_without_hits(connection: Connection, listed: Sequence[int]) -> bool:
    """Delete those of these listings (ids) that have no hit left; True for any."""
    empty = and_(Listing.id.in_(listed), Listing.hits <= 0, Listing.by_hand.is_(False))
    gone = connection.execute(select(Listing.kind, Listing.value).where(empty)).all()
    connection.execute(delete(Listing).where(empty))
    table.changed(connection, ((kind, value) for kind, value in gone))
    return bool(gone)


def _take_back(connection: Connection, void: Sequence[int]) -> bool:
    """Undo what void rows caused: delete their evidence, and listings with no other."""
    hits.forget(connection, void)
    evidence = connection.execute(
        select(Evidence.listing_id).where(Evidence.message_id.in_(void)).distinct()
    ).scalars().all()  # fmt: skip
    if not evidence:
        return False
    connection.execute(delete(Evidence).where(Evidence.message_id.in_(void)))
    connection.execute(
        update(Listing).where(Listing.id.in_(evidence)).values(hits=Listing.hits - 1)
    )
    return _drop_without_hits(connection, evidence)


def holding(connection: Connection, now: float) -> list[tuple[str, str, float]]:
    """(kind, value, until) of every listing that holds at `now` (Unix seconds), one for each
    identity: the one that ends last.
    """
    return [
        (kind, value, float(until))
        for kind, value, until in connection.execute(
            select(Listing.kind, Listing.value, func.max(Listing.until))
            .where(Listing.until > now, Listing.forgiven.is_(None))
            .group_by(Listing.kind, Listing.value)
        )
    ]
