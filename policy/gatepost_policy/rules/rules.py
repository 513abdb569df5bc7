"""Judge one message: Facts and what the store knows about them in, one Decision out.

Pure. `judge` asks RULES in order; the first that has an opinion decides. `[rules.REASON]` of the
configuration sets a rule, by the reason it gives, to shadow (its opinion is recorded and the next
rule is asked) or off. `blame` says who is listed for a trap hit, if anybody.
"""

from collections.abc import Callable
from dataclasses import replace

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.decision import (
    HEADER_TOO_LARGE,
    NO_SUCH_USER,
    REFUSED,
    TRY_LATER,
    Action,
    Decision,
    Reason,
)
from gatepost_policy.mail.facts import Direction, Facts, Identity, IdentityKind, Source, Stage
from gatepost_policy.rules.blame import blame
from gatepost_policy.rules.known import Known, mode_of

Opinion = Decision | None
Rule = Callable[[Facts, Known, Settings], Opinion]
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND, _NO_BAD_SIGNAL, _ACCEPT = Direction.INBOUND, Reason.NO_BAD_SIGNAL, Action.ACCEPT


def judge(facts: Facts, known: Known, settings: Settings) -> Decision:
    """The decision for `facts`. Never raises for Facts from one of our sources."""
    return _ask(RULES, facts, known, settings)


def _ask(rules: tuple[Rule, ...], facts: Facts, known: Known, settings: Settings) -> Decision:
    shadow: list[Reason] = []
    for rule in rules:
        opinion = rule(facts, known, settings)
        if opinion is None:
            continue
        if opinion.reason is _NO_BAD_SIGNAL:
            shadow.extend(opinion.shadow)  # an opinion without effect: recorded only
            continue
        mode = mode_of(opinion.reason, facts.at, settings)
        if mode == "off":
            continue
        if mode == "shadow":
            shadow.append(opinion.reason)
            continue
        shadow.extend(opinion.shadow)
        return replace(opinion, shadow=_once(shadow)) if shadow else opinion
    return Decision(_ACCEPT, _NO_BAD_SIGNAL, shadow=_once(shadow))


def _once(reasons: list[Reason]) -> tuple[Reason, ...]:
    return tuple(dict.fromkeys(reasons))


def own_user(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """A submission is scrubbed, not judged; one to a trap gets the reason own-user-trap, because
    the account may be stolen.
    """
    if facts.direction is _INBOUND:
        return None
    if known.traps:
        return Decision(_ACCEPT, Reason.OWN_USER_TRAP)
    if facts.direction is Direction.LOCAL and settings.submission.local == "leave":
        return Decision(_ACCEPT, Reason.LOCAL)
    if facts.relayed:
        return Decision(_ACCEPT, Reason.RELAYED)
    return Decision(_ACCEPT, Reason.SCRUBBED)


def trusted_relay(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """A backup MX has taken the mail already: refusing it now would make it send a bounce."""
    return Decision(_ACCEPT, Reason.TRUSTED_RELAY) if facts.trusted_relay else None


def trap(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Mail to an address that was never given to anyone: nobody here can have asked for it."""
    if not known.traps:
        return None
    if facts.stage is Stage.RCPT:
        return _trap_at_rcpt(facts, known, settings)
    # A recipient that the MTA has refused gets no copy in any case.
    if any(r.accepted and r.address.raw not in known.traps for r in facts.recipients):
        return _mixed(facts, known, settings)
    found = blame(facts, known, settings)
    return replace(_refuse(settings.trap.action, found.reason), shadow=found.shadow)


def _mixed(facts: Facts, known: Known, settings: Settings) -> Decision:
    """Traps and real recipients: the real ones get the message, unless another rule refuses it.

    Where a listing refuses it, that is the reason; a listing in shadow mode is added to `shadow`
    and the reason stays `trap-mixed`.
    """
    taken = [r for r in facts.recipients if r.accepted and r.address.raw in known.traps]
    if settings.trap.mixed == "reject" and taken and settings.trap.action != "accept":
        return Decision(Action.REJECT, Reason.TRAP_MIXED, REFUSED)
    rest = _ask((over_limit, listed, repeat_sender), facts, known, settings)
    if rest.action is not _ACCEPT:
        return rest
    drop = () if settings.trap.action == "accept" else tuple(r.address.raw for r in taken)
    return Decision(
        _ACCEPT,
        Reason.TRAP_MIXED,
        shadow=rest.shadow,
        drop_recipients=drop,
        tag=rest.tag,
    )


def _trap_at_rcpt(facts: Facts, known: Known, settings: Settings) -> Decision:
    found = blame(facts, known, settings)
    reason, shadow = found.reason, found.shadow
    policy = facts.source is Source.POLICY and settings.trap.policy_answer == "reject"
    if settings.trap.action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER, shadow=shadow)
    if settings.trap.action == "reject" or policy:
        return Decision(Action.REJECT, reason, NO_SUCH_USER, shadow=shadow)
    return Decision(_ACCEPT, reason, shadow=shadow)


def _refuse(action: str, reason: Reason) -> Decision:
    if action in ("reject", "reject-after-data"):
        return Decision(Action.REJECT, reason, REFUSED)
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, reason, TRY_LATER)
    if action == "discard":
        return Decision(Action.DISCARD, reason)
    return Decision(_ACCEPT, reason)


def over_limit(facts: Facts, known: Known, settings: Settings) -> Opinion:
    """Too large to scan: accept it unscanned, or refuse it for good. A 4xx would only make it come
    again.
    """
    if facts.over_limit is None:
        return None
    if settings.milter.oversize == "reject":
        return Decision(Action.REJECT, Reason.TOO_LARGE, HEADER_TOO_LARGE)
    return Decision(_ACCEPT, Reason.UNSCANNED)


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
        return Decision(_ACCEPT, Reason.OPEN_RECIPIENT)
    if action == "tempfail":
        return Decision(Action.TEMPFAIL, Reason.LISTED, TRY_LATER)
    if action == "reject":
        return Decision(Action.REJECT, Reason.LISTED, REFUSED)
    if action == "tag":
        return Decision(_ACCEPT, Reason.LISTED, tag=True)
    return _watched(Reason.LISTED)


def _watched(reason: Reason) -> Decision:
    """An opinion with no effect on the answer: it is only recorded, in `shadow`."""
    return Decision(_ACCEPT, _NO_BAD_SIGNAL, shadow=(reason,))


def _applies(identity: Identity, facts: Facts) -> bool:
    """True where a listing of `identity` counts for this message.

    A listed prefix does not count where a proven, aligned d= shows another sender. At RCPT TO no
    signature has been seen yet, so the prefix always counts.
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
    """A sender that keeps coming back and has hit a trap: by default only the reason says so.

    `sender.repeat_action` applies to proven identities alone: a claimed name may be forged to harm
    its owner, so it is only reported.
    """
    if not known.repeat:
        return None
    action = settings.sender.repeat_action
    if not any(i.proven for i in known.repeat):
        action = "accept"
    if action == "tempfail" and not _to_open(facts):
        return Decision(Action.TEMPFAIL, Reason.REPEAT_SENDER, TRY_LATER)
    return Decision(_ACCEPT, Reason.REPEAT_SENDER, tag=action == "tag")


# Order matters: our own mail first; then traps, the strongest evidence, which needs only the
# envelope; then messages that were not scanned; then what is known about the sender.
RULES: tuple[Rule, ...] = (own_user, trusted_relay, trap, over_limit, listed, repeat_sender)
