"""What should not be listed by accident, and what a listing by hand would have hit. Reads only.

`refusal` has the same rules as `export`: what must not get into a firewall should not be listed at
all. An operator who does want it uses --force.
"""

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from sqlalchemy import Connection, and_, func, or_, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import client_address, index_key
from gatepost_policy.mail.facts import Identity, IdentityKind
from gatepost_policy.mail.organisation import covering as domains_above
from gatepost_policy.mail.organisation import is_public_suffix
from gatepost_policy.mail.own import NOTHING_OWN, Own
from gatepost_policy.mail.real_address import NOBODYS, TRANSLATED
from gatepost_policy.store.tables import Listing, Message, MessageDomain

# Wider networks than these are refused: one such listing could refuse the mail of half a country.
# No provider has more IPv6 than a /19.
WIDEST_V4, WIDEST_V6 = 8, 19
DAYS = 30
# At most so many messages are counted.
COUNT_MAX = 10_000

AnyNetwork = IPv4Network | IPv6Network


class Guard:
    """Tells why something should not be listed. Made once for many listings: what it compares with
    is read once, and an export has as many listings as a storm has brought."""

    def __init__(self, settings: Settings, own: Own = NOTHING_OWN) -> None:
        ours = settings.submission
        self._mine = _Ranges((*ours.networks, *ours.trusted_relays, *own.networks))
        never = settings.sender.never_list
        self._never = _Ranges([network for n in never if (network := _network(n)) is not None])
        self._own_domains = frozenset((*settings.sender.own_domains, *own.domains))
        self._never_domains = frozenset(never)
        self._above_never = frozenset(above for name in never for above in _and_above(name))

    def prefix(self, network: AnyNetwork) -> str | None:
        """Why this prefix should not be listed, in a few words; None: there is no reason."""
        if self._mine.touch(network):
            return "one of our own networks"
        if network.prefixlen < (WIDEST_V4 if network.version == 4 else WIDEST_V6):
            return "too wide"
        if _NOBODYS.touch(network):
            return "this machine, or nobody's address"
        if _TRANSLATED.touch(network):
            return "IPv4 in IPv6, under which no client is known: name the IPv4 address"
        return "on sender.never_list" if self._never.touch(network) else None

    def refusal(self, identity: Identity) -> str | None:
        """Why this identity should not be listed, in a few words; None: there is no reason."""
        if identity.kind is IdentityKind.PREFIX:
            return self.prefix(ip_network(identity.value))
        domain = identity.value.rpartition("@")[2]
        names = _and_above(domain)
        if not self._own_domains.isdisjoint(names):
            return "one of our own domains"
        if identity.kind is not IdentityKind.DKIM:
            return None
        if is_public_suffix(domain):
            return "a public suffix: everybody below it"
        if domain in self._above_never or not self._never_domains.isdisjoint(names):
            return "on sender.never_list"
        return None


class _Ranges:
    """Networks as numbers: comparing objects of `ipaddress` takes twenty times as long."""

    def __init__(self, networks: Iterable[AnyNetwork]) -> None:
        self._ends: dict[int, list[tuple[int, int]]] = {4: [], 6: []}
        for network in networks:
            self._ends[network.version].append(_ends(network))

    def touch(self, network: AnyNetwork) -> bool:
        """True where one of them has an address in common with `network`."""
        first, last = _ends(network)
        return any(first <= b and a <= last for a, b in self._ends[network.version])


def _ends(network: AnyNetwork) -> tuple[int, int]:
    return int(network.network_address), int(network.broadcast_address)


_NOBODYS, _TRANSLATED = _Ranges(NOBODYS), _Ranges(TRANSLATED)


def _network(name: str) -> AnyNetwork | None:
    try:
        return ip_network(name, strict=False)
    except ValueError:
        return None


def _and_above(domain: str) -> list[str]:
    """`domain` and all domains that it lies in (`address.is_within`)."""
    labels = domain.split(".")
    return [name for n in range(len(labels)) if (name := ".".join(labels[n:]))]


def refusal(identity: Identity, settings: Settings, own: Own = NOTHING_OWN) -> str | None:
    """`Guard.refusal` of one identity."""
    return Guard(settings, own).refusal(identity)


def would_have_hit(connection: Connection, identity: Identity, now: float) -> int:
    """How many messages of the DAYS days before `now` (Unix seconds) this listing would have
    matched, COUNT_MAX at most.
    """
    since = now - DAYS * 86_400
    if identity.kind is IdentityKind.PREFIX:
        network = ip_network(identity.value)
        single = network.prefixlen in (32, 64) if network.version == 6 else network.prefixlen == 32
        query = select(Message.prefix).where(Message.at >= since, Message.direction == "inbound")
        if single:
            query = query.where(Message.prefix == identity.value)
            found = select(func.count()).select_from(query.limit(COUNT_MAX).subquery())
            return connection.scalar(found) or 0
        count = 0
        for prefix in connection.scalars(query.where(Message.prefix.is_not(None))):
            address = ip_address(str(prefix).partition("/")[0])
            count += address.version == network.version and address in network
            if count >= COUNT_MAX:
                break
        return count
    if identity.kind is IdentityKind.DKIM:
        first = index_key.reverse(identity.value)
        named = (
            select(MessageDomain.message_id)
            .where(
                MessageDomain.reversed >= first,
                MessageDomain.reversed < first[:-1] + "/",
                MessageDomain.at >= since,
                MessageDomain.shared < len(first),
            )
            .limit(COUNT_MAX)
        )
        return connection.scalar(select(func.count()).select_from(named.subquery())) or 0
    mine = select(Message.id).where(
        Message.at >= since,
        or_(Message.sender_key == identity.value, Message.from_key == identity.value),
    )
    return (
        connection.scalar(select(func.count()).select_from(mine.limit(COUNT_MAX).subquery())) or 0
    )


def covering(connection: Connection, identity: Identity, now: float) -> list[tuple[str, float]]:
    """(name, end in Unix seconds) of the listings that hold at `now` and cover more than `identity`
    itself, in the order of their ends.
    """
    if identity.kind is IdentityKind.DKIM:
        names = domains_above(identity.value)[1:]
        kinds = ("dkim", "promoted-dkim")
        wanted = and_(Listing.kind.in_(kinds), Listing.value.in_([*names, identity.value]))
    elif identity.kind is IdentityKind.PREFIX:
        wanted = Listing.kind.in_(("prefix", "promoted"))
    else:
        return []
    rows = connection.execute(
        select(Listing.value, Listing.kind, Listing.until)
        .where(wanted, Listing.until > now, Listing.forgiven.is_(None))
        .order_by(Listing.until)
    ).all()
    if identity.kind is IdentityKind.DKIM:
        return [(r.value, r.until) for r in rows if (r.kind, r.value) != ("dkim", identity.value)]
    mine = ip_network(identity.value)
    found = []
    for value, kind, until in rows:
        other = client_address.listed_network(value)
        if other is None or other.version != mine.version or (kind == "prefix" and other == mine):
            continue
        if client_address.network_within(mine, other):
            found.append((value, until))
    return found
