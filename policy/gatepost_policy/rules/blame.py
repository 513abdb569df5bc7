"""Who is listed for a trap hit, if anybody, and why not. Pure. docs/traps.md explains the reasons.

Traps are published on purpose, so anybody can send other people's mail to them, and a signature
proves who wrote a message, not who sent it to the trap (RFC 6376 8.6). So a domain is listed only
on two witnesses: its signature, and one that shows that it sent this message here. Otherwise the
client may be listed, as an IPv4 address or an IPv6 /64.

How it works: the classes of `excuses` are asked in order; the first that applies is the reason why
nobody is listed for this hit. Where none applies, `_judged` looks for the second witness of each
proven d=. A class in shadow mode is recorded and skipped, one that is off is skipped; so switching
an exemption off never lets trap mail through.
"""

from dataclasses import dataclass

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Direction, Facts, Identity, IdentityKind
from gatepost_policy.mail.organisation import organisation, same
from gatepost_policy.rules.case import Case
from gatepost_policy.rules.excuses import (
    CLASSES,
    HABIT_DAYS,
    HANDED_ON,
    WRITTEN,
    against_client,
    licensed,
)
from gatepost_policy.rules.known import EarlierHit, Known, mode_of

# A client that brought mail of a domain to people here on so many days is known to send for it.
INTRODUCED_DAYS = 2
# Reasons of earlier hits that had a second witness: the sender itself sent to the trap.
WITNESSED = (Reason.TRAP, Reason.GOOD_SENDER)


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is listed for a trap hit. Empty `identities`: nobody, and `reason` says why not.

    `whose` are the organisations or the client prefix under which the hit is recorded; `shadow` are
    the classes in shadow mode that would have applied.
    """

    reason: Reason
    identities: tuple[Identity, ...] = ()
    shadow: tuple[Reason, ...] = ()
    whose: tuple[str, ...] = ()


def blame(facts: Facts, known: Known, settings: Settings) -> Blame:
    """Who is to blame for a trap hit. Call it for facts with `known.traps`."""
    if facts.direction is not Direction.INBOUND:
        return Blame(Reason.OWN_USER_TRAP)
    if facts.trusted_relay:
        return Blame(Reason.TRUSTED_RELAY)
    case = Case(facts, known, settings)
    may_excuse: bool | None = None
    shadow: list[Reason] = []
    for reason, applies in CLASSES:
        if not applies(case):
            continue
        if reason in WRITTEN:
            if may_excuse is None:
                may_excuse = licensed(case)
            if not may_excuse:
                continue
        if reason in HANDED_ON and _guilty_itself(case):
            continue
        mode = mode_of(reason, facts.at, settings)
        if mode == "enforce":
            return Blame(reason, shadow=tuple(shadow), whose=case.whose)
        if mode == "shadow":
            shadow.append(reason)
    return _judged(case, shadow)


def _guilty_itself(case: Case) -> bool:
    """True where a d= of the envelope sender's organisation sent this to the trap, by two
    witnesses.

    A list or forwarder is excused for what others wrote, never for its own mail.
    """
    own = (d for d in case.punishable if not case.elsewhere(d))
    return any(_witnessed(case, d, [])[1] is not None for d in own)


def _judged(case: Case, shadow: list[Reason]) -> Blame:
    """A hit that nothing excuses."""
    facts, settings = case.facts, case.settings
    if case.aligned:
        reason, identities = _signed(case, shadow)
    else:
        reason, identities = Reason.TRAP, _client(case)
    if mode_of(reason, facts.at, settings) != "enforce":
        identities = ()  # in shadow mode nobody is listed
    return Blame(reason, identities, tuple(dict.fromkeys(shadow)), case.whose)


def _client(case: Case) -> tuple[Identity, ...]:
    if case.prefix is None or case.client_is_service:
        return ()
    return (Identity(IdentityKind.PREFIX, case.prefix, True),)


def _signed(case: Case, shadow: list[Reason]) -> tuple[Reason, tuple[Identity, ...]]:
    """Judge each proven d= on its own: it is listed only where it has a second witness.

    Where all of them are protected (never-list in shadow mode), none is listed, only a client that
    replays their mail.
    """
    listed: list[Identity] = []
    reasons: list[Reason] = []
    for domain in case.punishable or case.aligned:
        reason, identity = _witnessed(case, domain, shadow)
        reasons.append(reason)
        if identity is not None and identity not in listed:
            listed.append(identity)
    if listed:
        kinds = {i.kind for i in listed}
        if kinds == {IdentityKind.PREFIX}:
            return Reason.REPLAYED, tuple(listed)
        # The client may be an address that thousands share: it is not listed beside a proven name.
        named = [i for i in listed if i.kind is not IdentityKind.PREFIX]
        return Reason.TRAP, _without_service(case, named)
    order = (Reason.TRAP, Reason.GOOD_SENDER, Reason.ONE_WITNESS, Reason.REPLAYED)
    return min(reasons, key=order.index), ()


def _without_service(case: Case, listed: list[Identity]) -> tuple[Identity, ...]:
    """Leave out the d= of a sending service at its first hit, where its customer is listed.

    The service signs for the envelope and the customer for From; to list the service would refuse
    its other customers as well. At a second message to a trap it is listed too.
    """
    author = case.facts.header_from
    if author is None or not author.domain:
        return tuple(listed)

    def wrote(identity: Identity) -> bool:
        return identity.kind is IdentityKind.AUTHOR or same(identity.value, author.domain)

    def came_before(domain: str) -> bool:
        mine = {s.b_hash for s in case.facts.signatures if s.b_hash}
        message_id = case.facts.message_id
        return any(
            (hit.reason in WITNESSED or hit.reason is Reason.ONE_WITNESS)
            and (hit.b_hash is None or hit.b_hash not in mine)
            and (message_id is None or hit.message_id != message_id)
            for hit in case.hits(organisation(domain))
        )

    if not any(map(wrote, listed)):
        return tuple(listed)
    return tuple(i for i in listed if wrote(i) or came_before(i.value))


def _witnessed(case: Case, domain: str, shadow: list[Reason]) -> tuple[Reason, Identity | None]:
    """(the reason of this hit as far as `domain` is concerned, who is listed for it or None)."""
    hits = case.hits(organisation(domain))
    signatures = list(case.signatures(domain))
    addressed = {s.addressed for s in signatures}
    passes = case.spf_passes(domain)
    again = _again(case, hits, {s.b_hash for s in signatures if s.b_hash})
    if again is not None and not passes:
        # The same signed message: a retry, or somebody else sends a copy.
        if case.same_host(again):
            return _reason(again), None
        return Reason.REPLAYED, _stranger(case)
    if domain in case.punishable:
        witness = (
            (passes and "others" not in addressed)
            or case.signer(domain).introduced >= INTRODUCED_DAYS
            or "trap" in addressed
        )
        if witness:
            return _sent_here(case, domain, hits)
    if against_client(case, domain):
        return Reason.REPLAYED, _stranger(case)
    if domain not in case.punishable:
        return Reason.TRAP, None
    if _came_back(case, hits):
        if "others" in addressed:
            # It was written to somebody else: the client sends it here time and again. The envelope
            # sender is empty or only claims the domain, so it is no witness.
            return Reason.REPLAYED, _stranger(case)
        return _sent_here(case, domain, hits)
    mode = mode_of(Reason.ONE_WITNESS, case.facts.at, case.settings)
    if mode == "enforce":
        return Reason.ONE_WITNESS, None
    if mode == "shadow":
        shadow.append(Reason.ONE_WITNESS)
    return _sent_here(case, domain, hits)


def _reason(hit: EarlierHit) -> Reason:
    return Reason(hit.reason) if hit.reason in set(Reason) else Reason.ONE_WITNESS


def _again(case: Case, hits: tuple[EarlierHit, ...], hashes: set[str]) -> EarlierHit | None:
    """An earlier hit with the same signature (b=), or None.

    It is the newest one from this host, else the oldest.
    """
    same_b = [hit for hit in hits if hit.b_hash is not None and hit.b_hash in hashes]
    # If one came from this host, this hit is a retry of it.
    return next((h for h in same_b if case.same_host(h)), same_b[-1] if same_b else None)


def _stranger(case: Case) -> Identity | None:
    """The client that resends what others signed; None where many share it or it is protected."""
    if case.client_is_shared or case.client_is_service or case.prefix is None:
        return None
    return Identity(IdentityKind.PREFIX, case.prefix, True)


def _came_back(case: Case, hits: tuple[EarlierHit, ...]) -> bool:
    """True for a second hit on another day, by another message from the same client or its
    organisation.
    """
    mine = case.facts.message_id
    return any(
        hit.reason == Reason.ONE_WITNESS
        and hit.day != case.today
        and case.same_host(hit)
        # Where b= is not known (Exim does not give it) the Message-ID tells messages apart.
        and (hit.b_hash is not None or mine is None or hit.message_id != mine)
        for hit in hits
    )


def _sent_here(
    case: Case, domain: str, hits: tuple[EarlierHit, ...]
) -> tuple[Reason, Identity | None]:
    """`domain` itself sent to the trap: listed, unless its other mail here is good.

    Then hits on one day are forgiven: somebody may have typed the trap's address into a form. Hits
    on several days list the author's address, which may be one stolen account; the domain is listed
    only for hits on HABIT_DAYS days that are more than `sender.trap_ratio` of its mail.
    """
    listed = Identity(IdentityKind.DKIM, domain, True)
    signer, settings = case.signer(domain), case.settings
    if not signer.good.counts(settings.sender.good_messages):
        return Reason.TRAP, listed
    mode = mode_of(Reason.GOOD_SENDER, case.facts.at, settings)
    if mode != "enforce":
        return Reason.TRAP, listed
    before = [hit for hit in hits if hit.reason in WITNESSED]
    days = {hit.day for hit in before} | {case.today}
    distinct = {hit.b_hash or hit.message_id or str(hit.at) for hit in before}
    ratio = (len(distinct) + 1) / max(signer.mail + 1, len(distinct) + 1)
    if len(days) >= HABIT_DAYS and ratio > settings.sender.trap_ratio:
        return Reason.TRAP, listed
    author = case.facts.header_from
    if len(days) > 1 and author is not None and author.domain and same(author.domain, domain):
        return Reason.TRAP, Identity(IdentityKind.AUTHOR, author.trap_key, True)
    return Reason.GOOD_SENDER, None


def listing_seconds(previous: int | None, repeat: bool, settings: Settings) -> int:
    """How many seconds the next listing lasts: doubled after an earlier one within listing_memory.

    `previous` is the length of that earlier listing in seconds, None where there was none.
    A proven repeat sender gets the longest at once.
    """
    sender = settings.sender
    if repeat:
        return sender.listing_max
    if previous is None:
        return min(sender.listing_first, sender.listing_max)
    return min(previous * 2, sender.listing_max)
