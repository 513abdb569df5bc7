"""Judge one message: Facts and what the store knows about them in, one Decision out.

Pure. `judge` asks RULES in order; the first that has an opinion decides. A rule is known by the
reason it gives, and `[rules.REASON]` may put it in the shadow (its opinion is recorded, the next
rule is asked) or switch it off. `blame` says afterwards who is punished for a trap hit, if
anybody: only what is proven is ever punished.

How a trap hit gets its reason: CLASSES are asked in order, and the first that applies says why
this hit punishes nobody (a bounce, a protected domain, a forwarder, a shared client). None applies:
the reason is `trap`. A class in the shadow is recorded and passed over, one that is off is not
asked; so switching an exemption off never lets trap mail through.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from gatepost_policy.address import Address, is_within
from gatepost_policy.decision import (
    HEADER_TOO_LARGE,
    NO_SUCH_USER,
    REFUSED,
    TRY_LATER,
    Action,
    Decision,
    Reason,
)
from gatepost_policy.facts import Direction, Facts, Identity, IdentityKind, Source, Stage
from gatepost_policy.settings import Settings


@dataclass(frozen=True, slots=True)
class Listed:
    """An identity that is being punished until `until` (Unix seconds)."""

    identity: Identity
    until: float
    promoted: bool = False  # a /56 or /48 that stands for its listed /64s


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows about one message's facts, looked up before the rules are asked."""

    traps: frozenset[str] = frozenset()  # raw recipient addresses that are traps
    listed: tuple[Listed, ...] = ()  # listings that hold at facts.at
    repeat: tuple[Identity, ...] = ()  # identities with a repeat sender's history
    good_messages: int | None = None  # from this client in good_window; None: could not know


NOTHING = Known()

Opinion = Decision | None
Rule = Callable[[Facts, Known, Settings], Opinion]


def judge(facts: Facts, known: Known, settings: Settings) -> Decision:
    """The decision for `facts`. Never raises for any Facts the doors can build."""
    return _ask(RULES, facts, known, settings)


def _ask(rules: tuple[Rule, ...], facts: Facts, known: Known, settings: Settings) -> Decision:
    shadow: list[Reason] = []
    for rule in rules:
        opinion = rule(facts, known, settings)
        if opinion is None:
            continue
        if opinion.reason is Reason.NO_BAD_SIGNAL:
            shadow.extend(opinion.shadow)  # it only wants to be remembered
            continue
        mode = mode_of(opinion.reason, facts.at, settings)
        if mode == "off":
            continue
        if mode == "shadow":
            shadow.append(opinion.reason)
            continue
        shadow.extend(opinion.shadow)
        return replace(opinion, shadow=_once(shadow)) if shadow else opinion
    return Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL, shadow=_once(shadow))


def _once(reasons: list[Reason]) -> tuple[Reason, ...]:
    return tuple(dict.fromkeys(reasons))


def mode_of(reason: Reason, at: float, settings: Settings) -> str:
    """enforce, shadow or off for the rule of this reason at the time `at`."""
    rule = settings.rules.get(reason)
    if rule is None:
        return "enforce"
    if rule.expires is not None and datetime.fromtimestamp(at, UTC).date() >= rule.expires:
        return "enforce"
    return rule.mode


def own_user(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """A submission is scrubbed, not judged; one to a trap raises the alarm (stolen account)."""
    if facts.direction is Direction.INBOUND:
        return None
    if known.traps:
        return Decision(Action.ACCEPT, Reason.OWN_USER_TRAP)
    if facts.direction is Direction.LOCAL and settings.submission.local == "leave":
        return Decision(Action.ACCEPT, Reason.LOCAL)
    if facts.relayed:
        return Decision(Action.ACCEPT, Reason.RELAYED)
    return Decision(Action.ACCEPT, Reason.SCRUBBED)


def trusted_relay(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """A backup MX has taken the mail already: refusing it now would make it send a bounce."""
    return Decision(Action.ACCEPT, Reason.TRUSTED_RELAY) if facts.trusted_relay else None


def trap(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Mail to an address that was never given to anyone is not for anyone."""
    if not known.traps:
        return None
    if facts.stage is Stage.RCPT:
        return _trap_at_rcpt(facts, known, settings)
    # A recipient that the MTA had refused before gets no copy either way.
    if any(r.accepted and r.address.raw not in known.traps for r in facts.recipients):
        return _mixed(facts, known, settings)
    reason, shadow = _class(facts, known, settings)
    return replace(_refuse(settings.trap.action, reason), shadow=shadow)


def _mixed(facts: Facts, known: Known, settings: Settings) -> Decision:
    """Traps and real recipients: the rest is delivered, unless something else speaks against it.

    Where a listing refuses the message, that is the reason; where it only watches, it stands in
    `shadow` and the reason stays `trap-mixed`.
    """
    taken = [r for r in facts.recipients if r.accepted and r.address.raw in known.traps]
    if settings.trap.mixed == "reject" and taken and settings.trap.action != "accept":
        return Decision(Action.REJECT, Reason.TRAP_MIXED, REFUSED)
    rest = _ask((over_limit, listed, repeat_sender), facts, known, settings)
    if rest.action is not Action.ACCEPT:
        return rest
    drop = () if settings.trap.action == "accept" else tuple(r.address.raw for r in taken)
    return Decision(
        Action.ACCEPT,
        Reason.TRAP_MIXED,
        shadow=rest.shadow,
        drop_recipients=drop,
        tag=rest.tag,
    )


def _trap_at_rcpt(facts: Facts, known: Known, settings: Settings) -> Decision:
    reason, shadow = _class(facts, known, settings)
    policy = facts.source is Source.POLICY and settings.trap.policy_answer == "reject"
    if settings.trap.action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER, shadow=shadow)
    if settings.trap.action == "reject" or policy:
        return Decision(Action.REJECT, reason, NO_SUCH_USER, shadow=shadow)
    return Decision(Action.ACCEPT, reason, shadow=shadow)


def _refuse(action: str, reason: Reason) -> Decision:
    if action in ("reject", "reject-after-data"):
        return Decision(Action.REJECT, reason, REFUSED)
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER)
    if action == "discard":
        return Decision(Action.DISCARD, reason)
    return Decision(Action.ACCEPT, reason)


def _class(facts: Facts, known: Known, settings: Settings) -> tuple[Reason, tuple[Reason, ...]]:
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
    if ip is not None and any(ip.version == n.version and ip in n for n in networks):
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


def over_limit(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Too large to look at: pass it unscanned, or refuse for good, never a 4xx that comes back."""
    if facts.over_limit is None:
        return None
    if settings.milter.oversize == "reject":
        return Decision(Action.REJECT, Reason.TOO_LARGE, HEADER_TOO_LARGE)
    return Decision(Action.ACCEPT, Reason.UNSCANNED)


def listed(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """What a listed sender's mail to real recipients gets: `sender.action`."""
    applying = [x for x in known.listed if _applies(x.identity, facts)]
    if settings.sender.promotion != "enforce":
        promoted = [x for x in applying if x.promoted]
        applying = [x for x in applying if not x.promoted]
        if not applying:
            watch = bool(promoted) and settings.sender.promotion == "shadow"
            return _watched(Reason.LISTED) if watch else None
    if not applying:
        return None
    action = settings.sender.action
    if action in ("tempfail", "reject") and _to_open(facts):
        return Decision(Action.ACCEPT, Reason.OPEN_RECIPIENT)
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, Reason.LISTED, TRY_LATER)
    if action == "reject":
        return Decision(Action.REJECT, Reason.LISTED, REFUSED)
    if action == "tag":
        return Decision(Action.ACCEPT, Reason.LISTED, tag=True)
    return _watched(Reason.LISTED)


def _watched(reason: Reason) -> Decision:
    """An opinion that only wants to be remembered."""
    return Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL, shadow=(reason,))


def _applies(identity: Identity, facts: Facts) -> bool:
    """A listed prefix says nothing about mail whose author has proved another identity.

    At RCPT TO nobody has proved anything yet, and the prefix is all there is.
    """
    if identity.kind is IdentityKind.PREFIX:
        return facts.stage is Stage.RCPT or not facts.aligned_domains()
    return True


def _to_open(facts: Facts) -> bool:
    return any(is_open(r.address) for r in facts.recipients if r.accepted)


def is_open(recipient: Address) -> bool:
    """postmaster@ and abuse@ are always open (RFC 5321 4.5.1, RFC 2142)."""
    return recipient.trap_key.partition("@")[0] in ("postmaster", "abuse")


def repeat_sender(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Somebody who keeps coming back and has hit a trap: told in the reason, by default no more.

    `sender.repeat_action` is for identities that are proven. A claim is reported and nothing else:
    or anybody could turn it against whose name he writes down.
    """
    if not known.repeat:
        return None
    action = settings.sender.repeat_action
    if not any(i.proven for i in known.repeat):
        action = "accept"
    if action == "tempfail" and not _to_open(facts):
        return Decision(Action.TEMPFAIL, Reason.REPEAT_SENDER, TRY_LATER)
    return Decision(Action.ACCEPT, Reason.REPEAT_SENDER, tag=action == "tag")


# Order matters: ours first, then the hardest evidence, which is in the envelope and needs no look
# at the header; then what was never looked at; then what is known about the sender.
RULES: tuple[Rule, ...] = (own_user, trusted_relay, trap, over_limit, listed, repeat_sender)


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
    reason, _ = _class(facts, known, settings)
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
