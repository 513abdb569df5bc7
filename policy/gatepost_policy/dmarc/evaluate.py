"""The DMARC result of one message, from the tree walks and from what passed (RFC 9989 5.3).
Pure.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum

from gatepost_policy.dmarc.record import Record
from gatepost_policy.dmarc.tree_walk import Walk
from gatepost_policy.mail.address import is_within
from gatepost_policy.mail.facts import Dmarc, Signature, Spf


class Why(StrEnum):
    """Why DMARC has no result, beside the failures of DNS (`dns.Why`)."""

    NO_AUTHOR = "no-author"  # From holds no single address with a domain
    BAD_RECORD = "bad-record"  # its policy cannot be read, and rua= has no usable address


def policy_of(record: Record, place: str, domain: str, exists: bool) -> str:
    """The policy (none, quarantine, reject) that the record at `place` sets for failing mail of
    `domain`.

    `exists` is False where `domain` is not in DNS: then np= applies before sp=.
    """
    if place == domain:
        return record.p
    if not exists and record.np is not None:
        return record.np
    return record.sp or record.p


def passed(signatures: Sequence[Signature]) -> list[str]:
    """The d= of signatures that passed, each once. RFC 6376 3.6.1: t=y is like no signature."""
    found: list[str] = []
    for s in signatures:
        domain = s.domain
        if domain and s.result == "pass" and "testing-key" not in s.flags and domain not in found:
            found.append(domain)
    return found


def evaluate(
    author: Walk, walks: Mapping[str, Walk], exists: bool, signatures: Sequence[Signature],
    spf: Spf | None,
) -> Dmarc:  # fmt: skip
    """The result for the author's domain.

    `walks` holds the tree walks of the other domains by name; a domain that was not walked is
    outside the author's organisation. `exists` says whether the author's domain is in DNS.
    """
    domain, organisation = author.domain, author.organisation
    applies = author.applies
    if applies is None or (author.trouble is not None and applies[0] != domain):
        if author.trouble is not None:
            return Dmarc("temperror", domain, reason=author.trouble)
        return Dmarc("none", domain, organisation)
    place, record = applies
    if not record.valid:
        return Dmarc("permerror", domain, organisation, reason=str(Why.BAD_RECORD))
    policy = policy_of(record, place, domain, exists)
    aligned, trouble = [], None
    senders = [] if spf is None or spf.mail_from.result != "pass" else [spf.mail_from.domain or ""]
    for word, names, strict in (
        ("dkim", passed(signatures), record.strict_dkim),
        ("spf", senders, record.strict_spf),
    ):
        for name in names:
            same = True if name == domain else False if strict else _same(author, walks.get(name))
            if same:
                aligned.append(word)
                break
            if same is None:
                trouble = author.trouble or walks[name].trouble
    if aligned:
        return Dmarc("pass", domain, organisation, policy, tuple(aligned))
    # A signature or SPF check that failed only for now might have passed for this domain.
    trouble = trouble or _undecided(domain, signatures, spf)
    if trouble is not None:
        return Dmarc("temperror", domain, organisation, policy, reason=trouble)
    return Dmarc("fail", domain, organisation, policy)


def _same(author: Walk, other: Walk | None) -> bool | None:
    """Whether both have one organisational domain; None where DNS leaves it open."""
    if other is None:
        return False  # not walked, because it is outside the author's organisation
    if author.organisation is None or other.organisation is None:
        return None
    return author.organisation == other.organisation


def _undecided(domain: str, signatures: Sequence[Signature], spf: Spf | None) -> str | None:
    """The reason of a temporary failure of a check whose domain could be aligned with the
    author's.
    """
    for signature in signatures:
        if signature.result == "temperror" and related(domain, signature.domain or ""):
            return signature.reason
    if spf is not None and spf.mail_from.result == "temperror":
        if related(domain, spf.mail_from.domain or ""):
            return spf.mail_from.reason
    return None


def related(one: str, other: str) -> bool:
    """True where the two could share an organisational domain of two labels or more."""
    if not one or not other:
        return False
    return is_within(one, other) or is_within(other, one) or _last_two(one) == _last_two(other)


def _last_two(domain: str) -> str:
    return ".".join(domain.split(".")[-2:])
