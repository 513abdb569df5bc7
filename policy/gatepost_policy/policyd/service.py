"""Answer one policy request: attributes to facts, facts to decision, decision to record and reply.

It uses the same rules, traps, listings and journal as the milter. No socket and no event loop here
(see `server`). Recorded are: recipients that are traps, recipients that are not accepted, and every
message that Exim reports. Of a submission only a count is kept, or with store.submission = "full" a
record without its client; its log line has no client either.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from gatepost_policy import rules
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Direction, Facts, Signature, Stage
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.policyd import attributes
from gatepost_policy.policyd.checks import Checker
from gatepost_policy.policyd.protocol import Form, Request
from gatepost_policy.rules import Known

# Messages whose signatures are kept until their `data` stage comes (Exim), and for how long.
PENDING_MAX = 10_000
PENDING_S = 600.0


class Journal(Protocol):
    """The part of `journal.Writer` that is used here."""

    def write(self, obj: Json) -> bool:
        """Append one record; False where it is lost."""
        ...


@dataclass(slots=True)
class _Pending:
    """The signatures of a message whose `data` stage has not come yet."""

    since: float  # monotonic
    signatures: list[Signature] = field(default_factory=list)


class Service:
    """The policy service without its sockets. Only `answer` may be called in several threads."""

    def __init__(
        self,
        settings: Settings,
        known: KnownState,
        journal: Journal,
        log: MailLog,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.known = known
        self.journal = journal
        self.log = log
        self.clock = clock
        self.checker = Checker(settings)
        self.waits_for_disk = settings.store.sync == "power"  # each record is synced
        # By message id and `believed`: another user's request must not add to the MTA's message.
        self._pending: OrderedDict[tuple[str, bool], _Pending] = OrderedDict()
        self._said_not_believed = False

    def facts(self, request: Request, *, trusted: bool = True) -> Facts | None:
        """The facts to be judged, or None where the answer is `no_opinion`.

        `trusted`: the request came over a socket that only the MTA can reach (a unix socket). Its
        DKIM results are believed then, or with `policy.inet_verdicts`.
        """
        believed = trusted or self.settings.policy.inet_verdicts
        if request.doubt is not None:
            return None
        if request.form is Form.POSTFIX:
            if (request.get("protocol_state") or "RCPT") != "RCPT" or not request.get("recipient"):
                return None
            return attributes.facts(request, self.clock(), self.settings)
        stage, name = request.get("stage"), request.get("id")
        if stage == "dkim":
            said = attributes.signature(request, self.settings, believed=believed)
            self._remember((name, believed), said)
            if said is not None and not believed:
                self._say_not_believed()
            return None
        signatures: tuple[Signature, ...] = ()
        if stage == "data" and name:
            pending = self._pending.pop((name, believed), None)
            signatures = tuple(pending.signatures) if pending is not None else ()
        found = attributes.facts(request, self.clock(), self.settings, signatures)
        return found if found.recipients else None

    def may_wait(self, facts: Facts, known: Known) -> bool:
        """True where answering may wait: for the disk (`store.sync`), or for the store, which knows
        the past of a client that asks for a trap. `known`: what is known without the store."""
        inbound = facts.direction is Direction.INBOUND
        return self.waits_for_disk or (inbound and bool(known.traps))

    def answer(self, request: Request, facts: Facts, known: Known) -> bytes:
        """Judge, record and log; returns the octets of the answer."""
        decision = rules.judge(facts, known, self.settings)
        if facts.direction is not Direction.INBOUND:
            login = request.get("sasl_username") or request.get("login")
            used = {"login": login, "submission-sender": facts.sender.raw}
            for how, key in self.known.live_traps(used).items():
                self.journal.write(record.live_trap(key, how, facts.at))
        if request.form is Form.EXIM and facts.stage is Stage.END:
            # The answer is ours; but the record holds what Exim does with the message.
            self._record_message(facts, known, _with_verdict(decision, request.get("verdict")))
        else:
            self._record_recipient(request, facts, known, decision)
        return attributes.answer(request.form, facts.stage, decision, self.settings)

    def adopt(self, old: "Service") -> None:
        """Take over the waiting signatures and caches of `old`, after the configuration was read
        again."""
        self._pending = old._pending
        self._said_not_believed = old._said_not_believed
        if old.settings.dkim == self.settings.dkim:
            self.checker.inherit(old.checker)

    def tick(self) -> None:
        """Forget signatures whose message did not come within PENDING_S. Call it every second or
        so."""
        limit = time.monotonic() - PENDING_S
        while self._pending:
            name, pending = next(iter(self._pending.items()))
            if pending.since > limit:
                return
            del self._pending[name]

    def _say_not_believed(self) -> None:
        """Log once that DKIM results are not believed on this socket."""
        if self._said_not_believed:
            return
        self._said_not_believed = True
        self.log.event(
            "warning",
            "not-believed",
            hint="DKIM verdicts over an inet socket are recorded as neutral; let the MTA ask over "
            "a unix socket (docs/exim.md), or set policy.inet_verdicts",
        )

    def _remember(self, name: tuple[str, bool], signature: Signature | None) -> None:
        if not name[0] or signature is None:
            return
        pending = self._pending.get(name)
        if pending is None:
            if len(self._pending) >= PENDING_MAX:
                self._pending.popitem(last=False)
            pending = self._pending[name] = _Pending(time.monotonic())
        if len(pending.signatures) < self.settings.dkim.max_signatures:
            pending.signatures.append(signature)

    def _record_recipient(
        self, request: Request, facts: Facts, known: Known, decision: Decision
    ) -> None:
        if facts.direction is not Direction.INBOUND:
            if decision.reason is Reason.OWN_USER_TRAP:
                self._alarm(facts)
            return
        if not known.traps and decision.action is Action.ACCEPT:
            return
        seen = Seen(
            "rcpt",
            facts,
            decision,
            traps=tuple(known.traps),
            instance=request.get("instance") or None,
        )
        self.journal.write(record.message(seen))
        self.log.message(facts, decision, len(known.traps))

    def _record_message(self, facts: Facts, known: Known, decision: Decision) -> None:
        own = facts.direction is not Direction.INBOUND
        if own and self.settings.store.submission == "counts":
            self.journal.write(record.count(facts, decision))
        else:
            seen = Seen("message", facts, decision, traps=tuple(known.traps))
            self.journal.write(record.message(seen))
        if own and decision.reason is Reason.OWN_USER_TRAP:
            self._alarm(facts)
        self.log.message(facts, decision, len(known.traps))

    def _alarm(self, facts: Facts) -> None:
        """Log that a user of ours wrote to a trap. With the queue id the operator finds the account
        in the MTA's log; the login itself is not logged."""
        self.log.event("warning", "own-user-trap", id=facts.queue_id)


_VERDICTS = {"reject": Action.REJECT, "tempfail": Action.TEMPFAIL, "discard": Action.DISCARD}


def _with_verdict(decision: Decision, verdict: str) -> Decision:
    """`decision`, with the action that Exim decided on by itself (`verdict`) where ours is
    accept."""
    action = _VERDICTS.get(verdict)
    if action is None or decision.action is not Action.ACCEPT:
        return decision
    return replace(decision, action=action, reply=None, drop_recipients=(), tag=False)
