"""Why a message is decided as it is: what each rule says, in order, and the witnesses. Pure.

How it works: the rules themselves are asked (`RULES`, `CLASSES`), one after the other, also those
after the one that decides (marked "not asked"). So the explanation leaves out no rule and cannot
differ from the decision.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Decision, Reason
from gatepost_policy.mail.facts import Direction, Facts, IdentityKind, Stage
from gatepost_policy.mail.organisation import organisation
from gatepost_policy.mail.reason_words import REASONS
from gatepost_policy.rules.blame import INTRODUCED_DAYS, Blame, blame
from gatepost_policy.rules.case import Case
from gatepost_policy.rules.excuses import CLASSES, WRITTEN, licensed
from gatepost_policy.rules.known import Known, mode_of
from gatepost_policy.rules.rules import RULES, judge
from gatepost_policy.text.times import timestamp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """What one rule said. `effect`: decides, shadow, off, silent, or not asked (one before it had
    decided). `reason` and `action` are None where it is silent."""

    rule: str
    effect: str
    words: str
    action: str | None = None
    reason: str | None = None
    shadow: tuple[str, ...] = ()  # reasons that it adds to the record in shadow mode

    def json(self) -> Json:
        """As in `why`'s `rules`."""
        return {
            "rule": self.rule,
            "effect": self.effect,
            "action": self.action,
            "reason": self.reason,
            "shadow": list(self.shadow),
            "words": self.words,
        }


@dataclass(frozen=True, slots=True)
class Witness:
    """The evidence that one proven d= (or the client) itself sent to a trap. None: not known."""

    whose: str
    signed: bool  # the first witness: a proven, aligned signature
    # each possible second witness: (words, whether it holds)
    second: tuple[tuple[str, bool | None], ...]

    def json(self) -> Json:
        """As in `why`'s `witnesses`."""
        return {
            "whose": self.whose,
            "signature": self.signed,
            "second": [{"witness": words, "holds": holds} for words, holds in self.second],
        }


@dataclass(frozen=True, slots=True)
class Explained:
    """A decision and everything that led to it. `blame` and `classes` only for a trap hit."""

    decision: Decision
    rules: tuple[Said, ...]
    blame: Blame | None = None
    classes: tuple[Said, ...] = ()
    witnesses: tuple[Witness, ...] = ()

    def json(self) -> Json:
        """As `milterctl why --format json` prints it."""
        decision = self.decision
        return {
            "decision": {
                "action": decision.action.value,
                "reason": decision.reason.value,
                "reply": None if decision.reply is None else str(decision.reply),
                "shadow": [reason.value for reason in decision.shadow],
            },
            "rules": [said.json() for said in self.rules],
            "classes": [said.json() for said in self.classes],
            "witnesses": [witness.json() for witness in self.witnesses],
            "blame": None
            if self.blame is None
            else {
                "reason": self.blame.reason.value,
                "listed": [i.value for i in self.blame.identities],
                "shadow": [reason.value for reason in self.blame.shadow],
            },
        }


def explain(facts: Facts, known: Known, settings: Settings) -> Explained:
    """The decision for `facts`, and why."""
    said: list[Said] = []
    decided = False
    for rule in RULES:
        opinion = rule(facts, known, settings)
        one = _said(rule.__name__, opinion, facts, known, settings)
        if decided and one.effect != "silent":
            one = Said(one.rule, "not asked", one.words, one.action, one.reason, one.shadow)
        decided = decided or one.effect == "decides"
        said.append(one)
    decision = judge(facts, known, settings)
    if not known.traps or facts.direction is not Direction.INBOUND or facts.trusted_relay:
        return Explained(decision, tuple(said))
    case = Case(facts, known, settings)
    return Explained(
        decision, tuple(said), blame(facts, known, settings), _classes(case), _witnesses(case)
    )


def _said(
    rule: str, opinion: Decision | None, facts: Facts, known: Known, settings: Settings
) -> Said:
    if opinion is None:
        return Said(rule, "silent", _SILENT[rule](facts, known, settings))
    shadow = tuple(reason.value for reason in opinion.shadow)
    if opinion.reason is Reason.NO_BAD_SIGNAL:
        words = "; ".join(REASONS[reason] for reason in opinion.shadow)
        if rule == "listed":
            words = _listed(facts, known, settings)
        return Said(rule, "shadow", f"only to be remembered: {words}", shadow=shadow)
    effect = {"enforce": "decides"}.get(mode := mode_of(opinion.reason, facts.at, settings), mode)
    words = REASONS[opinion.reason]
    if rule == "listed":
        words = _listed(facts, known, settings)
    elif rule == "repeat_sender":
        words = f"{words}: {', '.join(dict.fromkeys(i.value for i in known.repeat))}"
    elif rule == "trap":
        words = f"{words}: {', '.join(sorted(known.traps))}"
    return Said(rule, effect, words, opinion.action.value, opinion.reason.value, shadow)


def _listed(facts: Facts, known: Known, settings: Settings) -> str:
    if not known.listed:
        return "nobody of this message is listed"
    names = ", ".join(
        f"{x.identity.value} until {timestamp(x.until)}{' (promoted)' if x.promoted else ''}"
        for x in known.listed
    )
    proven = facts.stage is Stage.END and bool(facts.aligned_domains())
    if proven and all(x.identity.kind is IdentityKind.PREFIX for x in known.listed):
        return f"listed, but it says nothing of mail that proved another author: {names}"
    return f"listed: {names}"


_SILENT: dict[str, Callable[[Facts, Known, Settings], str]] = {
    "own_user": lambda facts, known, settings: "it is inbound mail",
    "trusted_relay": lambda facts, known, settings: "the client is no trusted relay",
    "trap": lambda facts, known, settings: "no recipient is a trap",
    "over_limit": lambda facts, known, settings: "nothing says that a limit was exceeded",
    "listed": _listed,
    "repeat_sender": lambda facts, known, settings: "nobody of this message is a repeat sender",
}


def _classes(case: Case) -> tuple[Said, ...]:
    """What may excuse a hit, in the order in which it is asked."""
    found: list[Said] = []
    decided = False
    for reason, applies in CLASSES:
        words = REASONS[reason]
        if not applies(case):
            found.append(Said(reason.value, "silent", words))
            continue
        mode = mode_of(reason, case.facts.at, case.settings)
        effect = {"enforce": "decides"}.get(mode, mode)
        if reason in WRITTEN and not licensed(case):
            effect, words = "off", f"{words} (excused on sender.excuses days already)"
        if decided:
            effect = "not asked"
        decided = decided or effect == "decides"
        found.append(Said(reason.value, effect, words, reason=reason.value))
    return tuple(found)


def _witnesses(case: Case) -> tuple[Witness, ...]:
    """Both witnesses against each proven d=; where nothing is proven, against the client."""
    if not case.aligned:
        if case.prefix is None:
            return ()
        shared = None if case.past is None else case.client_is_shared
        return (
            Witness(
                case.prefix,
                False,
                (("nothing is proven by a signature: the client itself is to blame", True),
                 ("others get good mail through this client", shared)),
            ),
        )  # fmt: skip
    return tuple(_of_domain(case, domain) for domain in case.aligned)


def _of_domain(case: Case, domain: str) -> Witness:
    known = case.past is not None
    addressed = {s.addressed for s in case.signatures(domain)}
    tells = None not in addressed
    introduced = case.signer(domain).introduced
    spf = None if case.facts.spf is None else case.spf_passes(domain)
    hits = case.hits(organisation(domain))
    return Witness(
        domain,
        True,
        (
            (f"SPF lets this client send for {domain}", spf),
            ("what was signed is addressed to the trap", "trap" in addressed if tells else None),
            ("what was signed is addressed to others, which speaks against the client",
             "others" in addressed if tells else None),
            (f"this client brought its good mail on {INTRODUCED_DAYS} days or more",
             introduced >= INTRODUCED_DAYS if known else None),
            (f"it hit a trap before ({len(hits)} times that are remembered)",
             bool(hits) if known else None),
        ),
    )  # fmt: skip
