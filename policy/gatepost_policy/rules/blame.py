"""What kind of sender made a trap hit, and who is listed for it, if anybody. Pure.

How a hit gets its reason: CLASSES are asked in order, and the first that applies says why this hit
punishes nobody (a bounce, a protected domain, a forwarder, a shared client). None applies: the
reason is `trap`. A class in the shadow is recorded and passed over, one that is off is not asked;
so switching an exemption off never lets trap mail through.

Only what is proven is ever punished: a d= whose signature passed and is aligned, else the client.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_network

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import Address, is_within
from gatepost_policy.mail.client_address import within
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Direction, Facts, Identity, IdentityKind
from gatepost_policy.rules.known import Known, mode_of


def classify(facts: Facts, known: Known, settings: Settings) -> tuple[Reason, tuple[Reason, ...]]:
    """(the class of a trap hit, the classes in the shadow that would have applied)."""
    shadow: list[Reason] = []
    for reason, applies in CLASSES:
        if not applies(facts, known, settings):
            continue
        mode = mode_of(reason, facts.at, settings)
        if mode == "enforce":
            return reason, tuple(shadow)
        if mode == "shadow":
            shadow.append(reason)
    return Reason.TRAP, tuple(shadow)


def backscatter(facts: Facts, known: Known, settings: Settings) -> bool:
    """A bounce to a trap: somebody forged the trap as a sender. Its host is a victim, too."""
    return facts.sender.null


def protected(facts: Facts, known: Known, settings: Settings) -> bool:
    """Everything proven here is on never_list or our own: a crowd, or ourselves.

    Where nothing is proven the client's verified name speaks: an outgoing relay of a mail service
    carries the mail of the crowd even where one message of it came unsigned.
    """
    aligned = facts.aligned_domains()
    if aligned:
        return not punishable_domains(facts, settings)
    ip, name = facts.client.address, facts.client.name
    networks = settings.submission.networks + settings.submission.trusted_relays
    networks += _networks(settings.sender.never_list)
    if within(ip, networks):
        return True
    return name is not None and _is_protected(name.rstrip(".").lower(), settings)


def forwarder(facts: Facts, known: Known, settings: Settings) -> bool:
    """A rewritten sender that proves no domain: the client only forwards what others wrote."""
    return not facts.aligned_domains() and is_forwarder(facts.sender)


def shared_client(facts: Facts, known: Known, settings: Settings) -> bool:
    """Nothing is proven, and the client brings good mail as well: many share it."""
    if facts.aligned_domains() or known.good_messages is None:
        return False
    return known.good_messages >= settings.sender.good_messages


Class = Callable[[Facts, Known, Settings], bool]
CLASSES: tuple[tuple[Reason, Class], ...] = (
    (Reason.BACKSCATTER, backscatter),
    (Reason.NEVER_LIST, protected),
    (Reason.FORWARDER, forwarder),
    (Reason.SHARED_CLIENT, shared_client),
)


@lru_cache(maxsize=4)
def _networks(names: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    """The addresses and networks among the names of never_list."""
    found: list[IPv4Network | IPv6Network] = []
    for name in names:
        with suppress(ValueError):
            found.append(ip_network(name, strict=False))
    return tuple(found)


def _is_protected(domain: str, settings: Settings) -> bool:
    names = settings.sender.never_list + settings.sender.own_domains
    return any(is_within(domain, name) for name in names)


def punishable_domains(facts: Facts, settings: Settings) -> tuple[str, ...]:
    """The proven, aligned d= that may be listed.

    A mail service signs beside its customer: where only the service is protected, the customer's
    own d= still takes the blame.
    """
    return tuple(d for d in facts.aligned_domains() if not _is_protected(d, settings))


def is_forwarder(sender: Address) -> bool:
    """True for an envelope sender rewritten by SRS: the client forwards what others wrote."""
    return sender.local[:5].upper() in ("SRS0=", "SRS0+", "SRS0-", "SRS1=", "SRS1+", "SRS1-")


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is listed for a trap hit. Empty `identities`: nobody, and `reason` says why not."""

    reason: Reason
    identities: tuple[Identity, ...] = ()


def blame(facts: Facts, known: Known, settings: Settings) -> Blame:
    """Who is to blame for a trap hit (DESIGN 6). Call it for facts with `known.traps`."""
    if facts.direction is not Direction.INBOUND:
        return Blame(Reason.OWN_USER_TRAP)
    if facts.trusted_relay:
        return Blame(Reason.TRUSTED_RELAY)
    reason, _ = classify(facts, known, settings)
    if reason is not Reason.TRAP:
        return Blame(reason)
    if mode_of(Reason.TRAP, facts.at, settings) != "enforce":
        return Blame(reason)  # a rule that is only being tried out punishes nobody
    if facts.aligned_domains():
        # The client may be a pool that thousands share: the proven domain takes it alone. With
        # never-list in the shadow nobody is left: a protected domain is never punished.
        domains = punishable_domains(facts, settings)
        return Blame(reason, tuple(Identity(IdentityKind.DKIM, d, True) for d in domains))
    if facts.over_limit is not None or facts.client.prefix is None:
        return Blame(reason)  # the signatures were never looked at: nothing is known to be unproven
    return Blame(reason, (Identity(IdentityKind.PREFIX, facts.client.prefix, True),))


def listing_seconds(previous: int | None, repeat: bool, settings: Settings) -> int:
    """How long the next listing lasts: doubled after an earlier one within listing_memory.

    `previous` is the length of that earlier listing in seconds, None where there was none.
    A proven repeat sender gets the longest at once.
    """
    sender = settings.sender
    if repeat:
        return sender.listing_max
    if previous is None:
        return min(sender.listing_first, sender.listing_max)
    return min(previous * 2, sender.listing_max)
