"""Judge one message: Facts and what the store knows about them in, one Decision out.

Pure. `judge` asks RULES in order; the first that has an opinion decides. A rule is known by the
reason it gives, and `[rules.REASON]` may put it in the shadow (its opinion is recorded, the next
rule is asked) or switch it off. `blame` says afterwards who is punished for a trap hit, if
anybody: only what is proven is ever punished.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from gatepost_policy.address import Address, is_within
from gatepost_policy.decision import (
    HEADER_TOO_LARGE,
    NO_SUCH_USER,
    REFUSED,
    TRY_LATER,
    Action,
    Decision,
    Reason,
    Reply,
)
from gatepost_policy.facts import Direction, Facts, Identity, IdentityKind, Stage
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
    shadow: list[Reason] = []
    for rule in RULES:
        opinion = rule(facts, known, settings)
        if opinion is None:
            continue
        mode = mode_of(opinion.reason, facts.at, settings)
        if mode == "off":
            continue
        if mode == "shadow":
            shadow.append(opinion.reason)
            continue
        shadow.extend(opinion.shadow)
        return replace(opinion, shadow=tuple(shadow)) if shadow else opinion
    return Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL, shadow=tuple(shadow))


def mode_of(reason: Reason, at: float, settings: Settings) -> str:
    """enforce, shadow or off for the rule of this reason at the time `at`."""
    rule = settings.rules.get(reason)
    if rule is None:
        return "enforce"
    if rule.expires is not None:
        from datetime import UTC, datetime

        if datetime.fromtimestamp(at, UTC).date() >= rule.expires:
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


def over_limit(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Too large to look at: pass it unscanned, or refuse for good, never a 4xx that comes back."""
    if facts.over_limit is None:
        return None
    if settings.milter.oversize == "reject":
        return Decision(Action.REJECT, Reason.TOO_LARGE, HEADER_TOO_LARGE)
    return Decision(Action.ACCEPT, Reason.UNSCANNED)


def trusted_relay(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """A backup MX has taken the mail already: refusing it now would make it send a bounce."""
    return Decision(Action.ACCEPT, Reason.TRUSTED_RELAY) if facts.trusted_relay else None


def trap(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Mail to an address that was never given to anyone is not for anyone."""
    if not known.traps:
        return None
    # A recipient that the MTA had refused before gets no copy either way.
    real = [
        r for r in facts.recipients if r.accepted and r.address.raw not in known.traps
    ]
    if facts.stage is Stage.RCPT:
        return _trap_at_rcpt(facts, known, settings)
    taken = [r for r in facts.recipients if r.accepted and r.address.raw in known.traps]
    if real:
        if settings.trap.action == "accept" or not taken:
            return Decision(Action.ACCEPT, Reason.TRAP_MIXED)
        if settings.trap.mixed == "deliver-rest":
            return replace(
                _real_recipients(facts, known, settings)
                or Decision(Action.ACCEPT, Reason.TRAP_MIXED),
                drop_recipients=tuple(r.address.raw for r in taken),
            )
        return Decision(Action.REJECT, Reason.TRAP_MIXED, REFUSED)
    return _refuse(settings.trap.action, _trap_reason(facts, known, settings), REFUSED)


def _trap_at_rcpt(facts: Facts, known: Known, settings: Settings) -> Decision:
    reason = _trap_reason(facts, known, settings)
    if settings.trap.action == "reject":
        return Decision(Action.REJECT, reason, NO_SUCH_USER)
    if settings.trap.action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER)
    if settings.trap.policy_answer == "reject" and facts.source == "policy":
        return Decision(Action.REJECT, reason, NO_SUCH_USER)
    return Decision(Action.ACCEPT, reason)


def _trap_reason(facts: Facts, known: Known, settings: Settings) -> Reason:
    """The class of a trap hit: what kind of sender made it decides who may be punished."""
    if facts.sender.null:
        return Reason.BACKSCATTER
    domains = facts.aligned_domains()
    if _never_list(facts, domains, settings):
        return Reason.NEVER_LIST
    if domains:
        return Reason.TRAP
    if is_forwarder(facts.sender):
        return Reason.FORWARDER
    if known.good_messages is not None and known.good_messages >= settings.sender.good_messages:
        return Reason.SHARED_CLIENT
    return Reason.TRAP


def _never_list(facts: Facts, domains: tuple[str, ...], settings: Settings) -> bool:
    """True where the proven domain, or the client, is one that is never listed."""
    protected = settings.sender.never_list + settings.sender.own_domains
    if any(is_within(d, p) for d in domains for p in protected):
        return True
    ip = facts.client.address
    return ip is not None and any(
        ip.version == n.version and ip in n for n in settings.submission.networks
    )


def is_forwarder(sender: Address) -> bool:
    """True for an envelope sender rewritten by SRS: the client forwards what others wrote."""
    return sender.local[:5].upper() in ("SRS0=", "SRS0+", "SRS0-", "SRS1=", "SRS1+", "SRS1-")


def _refuse(action: str, reason: Reason, reply: Reply) -> Decision:
    if action in ("reject", "reject-after-data"):
        return Decision(Action.REJECT, reason, reply)
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER)
    if action == "discard":
        return Decision(Action.DISCARD, reason)
    return Decision(Action.ACCEPT, reason)


def listed(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """What a listed sender's mail to real recipients gets: `sender.action`."""
    return _real_recipients(facts, known, settings)


def _real_recipients(facts: Facts, known: Known, settings: Settings) -> Opinion:
    applying = [x for x in known.listed if _applies(x.identity, facts, settings)]
    if not applying:
        return None
    if any(is_open(r.address) for r in facts.recipients):
        return Decision(Action.ACCEPT, Reason.OPEN_RECIPIENT)
    return _punish(settings.sender.action, Reason.LISTED)


def _applies(identity: Identity, facts: Facts, settings: Settings) -> bool:
    """A listed prefix says nothing about mail whose author has proved another identity."""
    if identity.kind is IdentityKind.PREFIX:
        return not facts.aligned_domains() or facts.stage is Stage.RCPT
    return True


def is_open(recipient: Address) -> bool:
    """postmaster@ and abuse@ are always open (RFC 5321 4.5.1, RFC 2142)."""
    return recipient.trap_key.partition("@")[0] in ("postmaster", "abuse")


def _punish(action: str, reason: Reason) -> Decision:
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER)
    if action == "reject":
        return Decision(Action.REJECT, reason, REFUSED)
    if action == "tag":
        return Decision(Action.ACCEPT, reason, tag=True)
    return Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL, shadow=(reason,))


def repeat_sender(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Somebody who keeps coming back and has hit a trap: told in the reason, by default no more."""
    if not known.repeat:
        return None
    action = settings.sender.repeat_action
    if action == "tempfail" and not any(is_open(r.address) for r in facts.recipients):
        return Decision(Action.TEMPFAIL, Reason.REPEAT_SENDER, TRY_LATER)
    return Decision(Action.ACCEPT, Reason.REPEAT_SENDER, tag=action == "tag")


# Order matters: ours first, then what was never looked at, then the hardest evidence.
RULES: tuple[Rule, ...] = (own_user, over_limit, trusted_relay, trap, listed, repeat_sender)


@dataclass(frozen=True, slots=True)
class Blame:
    """Who is listed for a trap hit. Empty `identities`: nobody, and `reason` says why not."""

    reason: Reason
    identities: tuple[Identity, ...] = ()


def blame(facts: Facts, known: Known, settings: Settings) -> Blame:
    """Who is to blame for a trap hit (DESIGN 6). Call it for inbound facts with `known.traps`."""
    if facts.direction is not Direction.INBOUND:
        return Blame(Reason.OWN_USER_TRAP)
    if facts.trusted_relay:
        return Blame(Reason.TRUSTED_RELAY)
    reason = _trap_reason(facts, known, settings)
    if reason is not Reason.TRAP:
        return Blame(reason)
    domains = facts.aligned_domains()
    if domains:
        # The client may be a pool that thousands share: the proven domain takes it alone.
        return Blame(reason, tuple(Identity(IdentityKind.DKIM, d, True) for d in domains))
    prefix = facts.client.prefix
    if prefix is None:
        return Blame(reason)
    return Blame(reason, (Identity(IdentityKind.PREFIX, prefix, True),))


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
