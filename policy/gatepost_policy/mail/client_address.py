"""A client's IP address as programs write it, and whether it lies in given networks.

The one place that knows that an IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) is the IPv4 client: a
rule, a listing or a report that did not know it would count one host as two.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from socket import AF_INET, inet_pton

from gatepost_policy.mail.facts import Family

Ip = IPv4Address | IPv6Address
IpNetwork = IPv4Network | IPv6Network
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_IPV4, _IPV6 = Family.IPV4, Family.IPV6
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4_CLIENT = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}/32")


def unmapped(address: Ip) -> Ip:
    """`address`, or the IPv4 address that it maps."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def parse(text: str) -> Ip | None:
    """The address in `text`, None where it is not an IP address.

    Understood beside the bare address: brackets, `IPv6:` (RFC 5321 4.1.3), and the scope of a
    link-local address (`%eth0`), which is dropped. IPv4-mapped addresses come back as IPv4.
    """
    # Most clients, and a third of the time that ip_address takes for them.
    try:
        return IPv4Address(inet_pton(AF_INET, text))
    except (OSError, ValueError):
        pass
    text = text.strip("[]")
    if text[:5].lower() == "ipv6:":
        text = text[5:]
    try:
        return unmapped(ip_address(text.partition("%")[0]))
    except ValueError:
        return None


def within(address: Ip | None, networks: Iterable[IpNetwork]) -> bool:
    """True where `address` lies in one of `networks`."""
    return address is not None and any(
        address.version == network.version and address in network for network in networks
    )


def listed_network(text: str) -> IpNetwork | None:
    """The network that a listing names; None where no client would ever be looked up under `text`.

    Gatepost writes what `ip_network` writes. A row made by hand may hold anything.
    """
    try:
        network = ip_network(text)
    except ValueError:
        return None
    return network if str(network) == text else None


def is_listed_network(text: str) -> bool:
    """True where `listed_network` has one, in a tenth of the time for a single IPv4 client."""
    return _IPV4_CLIENT.fullmatch(text) is not None or listed_network(text) is not None


def network_within(inner: IpNetwork, outer: IpNetwork) -> bool:
    """True where `outer` holds all of `inner`. Networks of two families hold nothing in common."""
    if isinstance(inner, IPv4Network) and isinstance(outer, IPv4Network):
        return inner.subnet_of(outer)
    if isinstance(inner, IPv6Network) and isinstance(outer, IPv6Network):
        return inner.subnet_of(outer)
    return False


def unmapped_network(network: IpNetwork) -> IpNetwork:
    """`network`, or the IPv4 network that it maps."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((int(mapped), network.prefixlen - 96))
    return network


def family(address: Ip | None) -> Family:
    """ipv4, ipv6, or unknown where there is no address."""
    if address is None:
        return Family.UNKNOWN
    return _IPV6 if address.version == 6 else _IPV4
