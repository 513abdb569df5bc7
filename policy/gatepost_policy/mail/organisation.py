"""Which organisation a domain belongs to: its registrable domain by the public suffix list. Pure.

Blame and listings work on organisations, because the owner of spam.example can make any number of
names below it. The list's private part counts too (github.io, blogspot.com): their customers are
independent of each other. No DNS record below the registrable domain changes the answer: a sender
could publish some to look like many organisations.
"""

from functools import cache, lru_cache

from publicsuffixlist import PublicSuffixList


@cache
def _list(registries: bool = False) -> PublicSuffixList:
    """The list, or its part of registries (co.uk) without that of hosters (github.io)."""
    return PublicSuffixList(only_icann=registries)


@lru_cache(maxsize=16_384)
def organisation(domain: str) -> str:
    """The registrable domain of `domain` (canonical); a public suffix stands for itself."""
    found = _list().privatesuffix(domain)
    return domain if found is None else str(found)


def is_public_suffix(domain: str) -> bool:
    """True for a public suffix: a registry's (co.uk), or a hoster's for its customers
    (github.io).
    """
    return _list().privatesuffix(domain) is None


@lru_cache(maxsize=4096)
def is_registry_suffix(domain: str) -> bool:
    """True for `com` or `co.uk`. Only the registries' own part of the list counts: an owner of a
    private suffix (github.io) may sign as it.
    """
    return _list(registries=True).privatesuffix(domain) is None


def same(a: str, b: str) -> bool:
    """True where both domains belong to one organisation."""
    return a == b or organisation(a) == organisation(b)


def covering(domain: str) -> list[str]:
    """`domain` and its parents up to its organisation: a listing of any of them covers `domain`."""
    top = organisation(domain)
    found = [domain]
    while domain != top and "." in domain:
        domain = domain.partition(".")[2]
        found.append(domain)
    return found
