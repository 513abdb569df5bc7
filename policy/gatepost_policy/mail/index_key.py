"""How addresses and domains are written as index keys. Pure.

A key is fit for an index: no NUL, no lone surrogate (neither database stores them), at most
MAX_KEY characters.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from hashlib import blake2b
from ipaddress import ip_address

from gatepost_policy.mail.address import Address, parse, reversed_domain
from gatepost_policy.mail.facts import client_prefix

# A PostgreSQL index entry holds at most 2704 octets, for all its columns; a character takes up to
# 4.
MAX_KEY = 400
_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"{_OCTET}(?:\.{_OCTET}){{3}}\Z")
# The name under which the sums of all messages are kept; it lies in no domain's range.
EVERYTHING = ""


def clean(text: str) -> str:
    """`text` as both databases can store it: NUL and lone surrogates are spelled out."""
    if text.isascii():
        return text if "\0" not in text else text.replace("\0", "\\x00")
    text = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\0", "\\x00")


def fit(text: str) -> str:
    """`text` as a key. One that is too long for an index is cut and ends with a digest of the
    whole.
    """
    if len(text) <= MAX_KEY:
        return text
    digest = blake2b(text.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
    return f"{text[: MAX_KEY - 25]}#{digest}"


reverse = lru_cache(maxsize=16_384)(reversed_domain)


@lru_cache(maxsize=16_384)
def prefix_of(address: str) -> str:
    """The prefix of a client address: /32 or /64. Raises ValueError where it is no IP address."""
    if _IPV4.match(address):
        return f"{address}/32"  # most are IPv4; `ip_address` takes ten times as long
    return client_prefix(ip_address(address))


@lru_cache(maxsize=16_384)
def coarse_prefix(prefix: str) -> str:
    """What retention leaves of a client: the /24 of an IPv4, the /48 of an IPv6 address."""
    network = ip_address(prefix.partition("/")[0])
    if network.version == 4:
        return f"{prefix.rpartition('.')[0]}.0/24"
    return client_prefix(network, 48)


def common(a: str, b: str) -> int:
    """How many characters `a` and `b` share from the start."""
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def with_shared(keys: Iterable[str]) -> list[tuple[str, int]]:
    """Each key, sorted, with the number of characters that it shares with the key before it
    (`tables.MessageDomain`).
    """
    before = ""
    out: list[tuple[str, int]] = []
    for key in sorted(keys):
        out.append((key, common(before, key)))
        before = key
    return out


def address_key(address: Address) -> str:
    """The search key of one address: its reversed domain, `@`, the local part."""
    return fit(f"{reverse(address.domain)}@{address.local}")


@lru_cache(maxsize=16_384)
def search_keys(
    sender: Address | None, author: Address | None, domains: tuple[str | None, ...]
) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
    """(keys of message_domain, keys of domain_day), as `with_shared` gives them. The lists are
    cached: do not change them.
    """
    keys: set[str] = set()
    names: set[str] = {EVERYTHING}
    for address in (sender, author):
        if address is not None and (address.local or address.domain):
            keys.add(address_key(address))
            if address.domain:
                names.add(fit(reverse(address.domain)))
    for domain in domains:
        if domain:
            name = fit(reverse(domain))
            if name not in names:
                names.add(name)
                keys.add(name)
    return with_shared(keys), with_shared(names)


@lru_cache(maxsize=16_384)
def read_address(text: str) -> Address:
    """`address.parse` of text that is already `clean`."""
    return parse(text)
