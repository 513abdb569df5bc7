"""Which domains came over IPv4 and over IPv6.

How it works: for all time the table of identities has the numbers. For a period it only gives the
candidates (seen over both families, and around that time), whose rows are then counted.
"""

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select

from gatepost_policy.mail import index_key
from gatepost_policy.mail.facts import Family, IdentityKind
from gatepost_policy.report.conditions import proven
from gatepost_policy.report.overview_values import DualStack
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import Message, MessageDomain, MessageSignature, SenderIdentity

SHOWN_MAX = 20
COUNTED_MAX = 100  # candidates whose messages of a period are counted


def domains(connection: Connection, selection: Selection) -> tuple[DualStack, ...]:
    """Domains seen over both families: proven ones, and claimed ones that hit a trap; those with
    most trap mail first. None of them where the selection is of one family.
    """
    if selection.family is not None:
        return ()
    period = selection.since is not None or selection.until is not None
    identity = SenderIdentity
    query = select(
        identity.kind, identity.value, identity.ipv4, identity.ipv6, identity.trap_messages
    ).where(
        identity.ipv4 > 0,
        identity.ipv6 > 0,
        or_(
            identity.kind == str(IdentityKind.DKIM),
            and_(identity.kind == str(IdentityKind.SENDER_DOMAIN), identity.trap_messages > 0),
        ),
    )
    if selection.since is not None:
        query = query.where(identity.last_seen >= selection.since)
    if selection.until is not None:
        query = query.where(identity.first_seen < selection.until)
    rows = connection.execute(
        query.order_by(
            identity.trap_messages.desc(), identity.messages.desc(), identity.value
        ).limit(COUNTED_MAX if period else 2 * SHOWN_MAX)
    ).all()
    found: dict[str, DualStack] = {}
    for kind, value, ipv4, ipv6, traps in rows:
        sure = kind == IdentityKind.DKIM
        if not sure and value in found:
            continue
        one = DualStack(value, sure, ipv4, ipv6, traps)
        if not period:
            found[value] = one
        elif (counted := _count(connection, one, selection)) is not None:
            found[value] = counted
    kept = list(found.values())
    if period:
        kept.sort(key=lambda d: (-d.trap_messages, -d.ipv4 - d.ipv6, d.domain))
    return tuple(kept[:SHOWN_MAX])


def _count(connection: Connection, one: DualStack, selection: Selection) -> DualStack | None:
    """`one` with the numbers of the selected period; None where it did not come over both families,
    or is only claimed and hit no trap."""
    rows = connection.execute(
        select(Message.family, func.count(), func.count().filter(Message.traps > 0))
        .where(
            Message.id.in_(_ids(one.domain, selection)),
            Message.direction == "inbound",
            _is(one),
        )
        .group_by(Message.family)
    )
    messages: dict[str, int] = {}
    traps = 0
    for family, number, trapped in rows:
        messages[family] = number
        traps += trapped
    ipv4, ipv6 = messages.get(Family.IPV4, 0), messages.get(Family.IPV6, 0)
    if not ipv4 or not ipv6 or not (one.proven or traps):
        return None
    return DualStack(one.domain, one.proven, ipv4, ipv6, traps)


def _ids(domain: str, selection: Selection) -> "Select[int]":
    """The messages of the period with exactly this domain as a key, or an address in it."""
    keys, key = MessageDomain, index_key.fit(index_key.reverse(domain))
    query = select(keys.message_id).where(
        # `A` is the character after `@`.
        or_(keys.reversed == key, and_(keys.reversed >= key + "@", keys.reversed < key + "A"))
    )
    if selection.since is not None:
        query = query.where(keys.at >= selection.since)
    if selection.until is not None:
        query = query.where(keys.at < selection.until)
    return query


def _is(one: DualStack) -> ColumnElement[bool]:
    """The condition for messages of this identity: a proven d=, or the envelope sender's domain."""
    if not one.proven:
        return Message.sender_key.endswith(f"@{one.domain}", autoescape=True)
    return exists().where(
        MessageSignature.message_id == Message.id,
        MessageSignature.domain == one.domain,
        proven(),
    )
