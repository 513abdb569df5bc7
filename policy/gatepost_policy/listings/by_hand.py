"""Listings by hand, for the operator: name a sender, list it, forgive it.

All functions that write work inside the caller's transaction and bump the revision `listings`.
Times are Unix seconds.
"""

from contextlib import suppress
from ipaddress import ip_address, ip_network

from sqlalchemy import Connection, and_, insert, select, update

from gatepost_policy.listings import promotion, table
from gatepost_policy.mail import address, client_address
from gatepost_policy.mail.facts import Identity, IdentityKind, client_prefix
from gatepost_policy.store import revision
from gatepost_policy.store.tables import Listing


def identify(name: str) -> Identity:
    """The identity an operator names: an IP address, a prefix, a domain, or a mail address.

    An IPv6 address means its /64. Raises ValueError with a text that says what was wanted.
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
        if "." not in domain or not address.can_be_domain(domain):
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
    table.changed(connection, [(identity.kind, identity.value)])
    revision.bump(connection, "listings")


def unpunish(connection: Connection, identity: Identity, *, punished: float, at: float) -> int:
    """Undo what `punish` did at `punished`: that listing ends and is forgiven, and one that it
    replaced holds again up to its own end. Returns how many hold again.
    """
    mine = and_(
        Listing.kind == identity.kind,
        Listing.value == identity.value,
        Listing.forgiven.is_(None),
    )
    connection.execute(
        update(Listing)
        .where(mine, Listing.by_hand, Listing.since == punished)
        .values(until=at, forgiven=at)
    )
    again = connection.execute(
        update(Listing)
        .where(mine, Listing.until == punished, Listing.since + Listing.seconds > at)
        .values(until=Listing.since + Listing.seconds)
    ).rowcount
    table.changed(connection, [(identity.kind, identity.value)])
    revision.bump(connection, "listings")
    return again


def forgive(connection: Connection, identity: Identity, *, at: float, note: str = "") -> int:
    """End the listings of `identity` and forgive past ones: the next hit counts as a first one.

    For a prefix the listings of all prefixes within it are forgiven too. Returns how many were.
    """
    names: list[tuple[str, str]] = [(identity.kind, identity.value)]
    if identity.kind is IdentityKind.PREFIX:
        names = _within(connection, identity.value)
    wanted = [and_(Listing.kind == kind, Listing.value == value) for kind, value in names]
    forgiven = 0
    table.changed(connection, names)
    for condition in wanted:
        values = {"until": at, "forgiven": at} | ({"note": note} if note else {})
        # Ended listings are forgiven too, or the next one would last twice as long.
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


def restore(connection: Connection, identity: Identity, *, forgiven: float, at: float) -> int:
    """Undo what `forgive` did at `forgiven`: the listings are as they were before.

    Returns how many there are; those that ended before `at` only make the next one longer.
    """
    names: list[tuple[str, str]] = [(identity.kind, identity.value)]
    if identity.kind is IdentityKind.PREFIX:
        names = _within(connection, identity.value, forgiven=forgiven)
    restored = 0
    for kind, value in names:
        wanted = and_(Listing.kind == kind, Listing.value == value, Listing.forgiven == forgiven)
        ended = connection.execute(
            update(Listing)
            .where(wanted, Listing.until == forgiven)
            .values(until=Listing.since + Listing.seconds, forgiven=None)
        ).rowcount
        over = connection.execute(update(Listing).where(wanted).values(forgiven=None)).rowcount
        restored += ended + over
    if restored:
        table.changed(connection, names)
        revision.bump(connection, "listings")
    return restored


def _within(
    connection: Connection, prefix: str, forgiven: float | None = None
) -> list[tuple[str, str]]:
    """(kind, value) of the listed prefixes inside `prefix`, with itself and promoted ones.

    `forgiven` None: those that are not forgiven, else those that were forgiven at that time.
    """
    network = ip_network(prefix)
    rows = connection.execute(
        select(Listing.kind, Listing.value)
        .where(Listing.kind.in_(("prefix", promotion.KIND)), Listing.forgiven == forgiven)
        .distinct()
    )
    found = []
    for kind, value in rows:
        # A row that was made in SQL may name a network in another spelling, or none at all.
        with suppress(ValueError):
            if not client_address.network_within(ip_network(value, strict=False), network):
                continue
            found.append((kind, value))
    return found
