"""The IPv4 address inside an IPv6 one, and addresses that identify no host of the Internet.

Pure. A hit through NAT64 comes from one IPv4 host, not from the network that translates for all of
IPv4: to list the /64 would refuse everybody behind it. Loopback, private and link-local addresses
are reused on every network, so they identify nobody outside.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Ip = IPv4Address | IPv6Address

# Prefixes whose last 32 bits are an IPv4 address: RFC 6052 2.1 (well-known), RFC 8215 (local use;
# translators use a /96 of it), RFC 4291 2.5.5.2 (mapped), RFC 2765 2.1 (translated), RFC 4291
# 2.5.5.1 (compatible, deprecated).
_LAST_32 = tuple(
    IPv6Network(text)
    for text in (
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "::/96",
    )
)
# RFC 3056 2: the address is in the 32 bits after the prefix
_SIX_TO_FOUR = IPv6Network("2002::/16")
# RFC 4380: it holds a server's address and the obfuscated one of a NAT: neither is the sender's.
_TEREDO = IPv6Network("2001::/32")
# `real` replaces these, so no client has such a prefix: a listing of one would match nobody, or in
# a published list all of IPv4.
TRANSLATED = (*_LAST_32, _SIX_TO_FOUR, _TEREDO)
NOBODYS: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8", "127.0.0.0/8",  # RFC 6890: this host
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16",  # RFC 1918
        "169.254.0.0/16",  # RFC 3927: link-local
        "100.64.0.0/10",  # RFC 6598: carrier-grade NAT
        "192.0.0.0/24",  # RFC 6890: DS-Lite and 464XLAT use it inside every customer's network
        "198.18.0.0/15",  # RFC 2544: benchmarks
        "192.88.99.0/24", "192.52.193.0/24",  # RFC 7526, RFC 7450: anycast of many operators
        "192.31.196.0/24", "192.175.48.0/24",  # RFC 7535, RFC 7534: AS112, the same
        "100::/64", "100:0:0:1::/64",  # RFC 6666: discard only; RFC 9780: dummy
        "5f00::/16",  # RFC 9602: segments of SRv6 inside a network
        "224.0.0.0/4", "240.0.0.0/4",  # multicast, reserved, broadcast
        "::/128", "::1/128", "fe80::/10", "fc00::/7", "fec0::/10", "ff00::/8",
    )
) + (
    # RFC 2928: of protocols, no network's: ORCHID (RFC 7343) and DET (RFC 9374), which are
    # identifiers, benchmarks (RFC 5180), AMT, AS112. Teredo has a reason of its own.
    *IPv6Network("2001::/23").address_exclude(_TEREDO),
)  # fmt: skip


@lru_cache(maxsize=16_384)
def real(address: Ip) -> Ip:
    """The address of the host itself: the IPv4 address in a mapped, NAT64 or 6to4 one."""
    if isinstance(address, IPv4Address):
        return address
    number = int(address)
    if address in _SIX_TO_FOUR:
        return IPv4Address(number >> 80 & 0xFFFFFFFF)
    if number > 1 and any(address in network for network in _LAST_32):
        return IPv4Address(number & 0xFFFFFFFF)
    return address


def is_teredo(address: Ip) -> bool:
    """True for a Teredo address: it does not say which host behind which NAT."""
    return isinstance(address, IPv6Address) and address in _TEREDO


@lru_cache(maxsize=16_384)
def names_nobody(address: Ip) -> bool:
    """True where the address identifies no host of the Internet: it must not be listed."""
    if is_teredo(address):
        return True
    found = real(address)
    return any(found.version == n.version and found in n for n in NOBODYS)
