"""Which organisation a domain belongs to: its registrable domain by the public suffix list. Pure.

Blame and listings go by organisations: whoever registered spam.example makes as many names below
it as he likes. The list's private part counts too (github.io, blogspot.com): their customers are
strangers to each other. Nothing that is published below the registrable domain changes the answer,
or a sender could split himself as he pleases.
"""

from functools import lru_cache

from publicsuffixlist import PublicSuffixList

_lists: list[PublicSuffixList] = []


def _list() -> PublicSuffixList:
    if not _lists:
        _lists.append(PublicSuffixList())
    return _lists[0]


@lru_cache(maxsize=16_384)
def organisation(domain: str) -> str:
    """The registrable domain of `domain` (canonical); a public suffix stands for itself."""
    found = _list().privatesuffix(domain)
    return domain if found is None else str(found)


def is_public_suffix(domain: str) -> bool:
    """True where `domain` is nobody's: a registry's name, or a hoster's for its customers."""
    return _list().privatesuffix(domain) is None


def same(a: str, b: str) -> bool:
    """True where both domains belong to one organisation."""
    return a == b or organisation(a) == organisation(b)


def covering(domain: str) -> list[str]:
    """`domain` and what is above it, down to its organisation: a listing of each covers it."""
    top = organisation(domain)
    found = [domain]
    while domain != top and "." in domain:
        domain = domain.partition(".")[2]
        found.append(domain)
    return found
