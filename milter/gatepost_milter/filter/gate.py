"""Decide on one finished message: facts, traps and listings, rules, edits, record, log.

There is one `Gate` per worker process, made after the fork: it holds the checks with their DNS
cache, the traps and listings, the journal segment and the log. `session` gives it what the MTA
sent (`transcript`), and turns its verdicts into answers.

Stance: the answer where an exception prevented a decision. Inbound mail gets `milter.on_error`;
mail of our own users gets 451, because letting it pass would reveal what the scrub removes.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gatepost_milter.filter import own_results
from gatepost_milter.filter.checks import Checker, Checks, Results
from gatepost_milter.filter.own_results import OwnResults, forged
from gatepost_milter.filter.tracer import Tracer
from gatepost_milter.filter.transcript import Connection, Message, facts, text
from gatepost_milter.filter.trap_mail import TrapMail
from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import Writer, record
from gatepost_policy.journal.capture import Sink
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail import address, marks, received
from gatepost_policy.mail.addressed import addressed
from gatepost_policy.mail.decision import (
    HEADER_TOO_LARGE,
    INTERNAL,
    Action,
    Decision,
    Edit,
    Reason,
    Reply,
)
from gatepost_policy.mail.facts import Direction, Facts, Recipient, Stage
from gatepost_policy.mail.message_dataclass import dataclass
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.monitoring.worker_figures import Slot
from gatepost_policy.rules import Known, judge, trace
from gatepost_policy.rules.whose_mail import HANDED_IN, Ownership
from gatepost_policy.scrub import RESULTS, ClientWords, Hop, Scrubber
from gatepost_policy.system.answered_ids import AnsweredIds
from gatepost_policy.system.socket_address import SocketAddress

INTERNAL_REJECT = Reply(554, "5.3.0", "Local problem")
MAX_COUNTED_NAMES = 100  # different names of dropped fields that a worker counts in its life
_PLAIN_NAME = re.compile(r"[a-z][a-z0-9-]{1,39}\Z")
NO_EDITS: tuple[Edit, ...] = ()
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND, _ACCEPT, _SECOND_PASS = Direction.INBOUND, Action.ACCEPT, Reason.SECOND_PASS


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision on a message and its edits. `traps`: the raw recipient addresses that are
    traps."""

    facts: Facts
    decision: Decision
    edits: tuple[Edit, ...] = ()
    traps: frozenset[str] = frozenset()


class Gate:
    """One worker's traps, listings, checks and journal. Methods may run in parallel threads."""

    def __init__(
        self, settings: Settings, *, replay: bool = False, log: MailLog | None = None
    ) -> None:
        self.settings = settings
        self.replay = replay
        self.log = log or MailLog(settings.log)
        self.scrubber = Scrubber(settings)
        self.checker = Checker(settings)
        self.known = KnownState(settings)
        self.journal = Writer(
            config.journal_dir(settings),
            max_bytes=settings.store.journal_max_bytes,
            sync=settings.store.sync,
            tell=lambda text: self.log.event("error", "journal", text=text),
        )
        # Only these two actions answer at RCPT; all others need the whole message.
        self.answers_rcpt = settings.trap.action in ("reject", "tempfail")
        self.over_tcp = SocketAddress.parse(settings.milter.socket).kind != "unix"
        self.slow_journal = settings.store.sync == "power"  # a record waits for the disk
        self.sink = Sink(settings.trap, self._capture_failed)
        self.slot: Slot | None = None  # this worker's figures, where there are some
        self.results = OwnResults(settings)
        self._told: set[str] = set()
        self.tracer = Tracer(settings, self)
        self.answered = None if replay else self._answered_ids()
        self._counted_names: set[str] = set()

    def tell_once(self, level: str, event: str, **fields: Any) -> None:
        """Log an event once in the life of this worker, not with every message."""
        key = f"{event} {fields}"
        if key not in self._told:
            self._told.add(key)
            self.log.event(level, event, **fields)

    def tell_cannot_edit(self) -> None:
        """Log once that the MTA offers no header edits: inbound mail passes without our fields.
        (Submissions are refused then, because they cannot be scrubbed.)"""
        hint = "the MTA offers no header edits: inbound mail is recorded, not marked"
        self.tell_once("error", "mta-cannot-edit", hint=hint)

    def _answered_ids(self) -> AnsweredIds | None:
        try:
            directory = config.state_dir(self.settings)
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            return AnsweredIds(directory)
        except (OSError, ValueError) as error:
            self.log.event(
                "warning", "no-answered-ids", error=str(error),
                hint="mail that a content filter or list manager hands back is recorded twice",
            )  # fmt: skip
            return None

    def _way(self, connection: Connection, message: Message) -> trace.Trace:
        host, at = connection.mta_name, message.at
        known = self.answered
        return trace.Trace(
            address=connection.client.address,
            host=host,
            sender=address.parse(text(message.sender)),
            received=message.values("received"),
            answered=lambda name: known is not None and known.knows(host or "", name, at),
        )

    def confirmed(self, connection: Connection, message: Message) -> Ownership:
        """Whose mail it is, for mail where only the header can show that (`Ownership.open`)."""
        way = self._way(connection, message)
        whose = trace.confirmed(message.whose, way, self.settings)
        if whose is HANDED_IN and not way.received:
            self.tell_once(
                "warning", "sender-not-ours",
                hint="mail from submission.networks under a sender that is not in "
                "sender.own_domains is recorded as inbound and not scrubbed",
            )  # fmt: skip
        return whose

    def remember(self, connection: Connection, message: Message, queue_id: str | None) -> None:
        """Remember the queue id of a message that we are about to let pass, so that it is known
        when a content filter or list manager hands it back."""
        if self.answered is not None and queue_id is not None:
            host = connection.mta_name or ""
            self.answered.remember(host, queue_id, message.at)
            if message.written is not None and self.settings.submission.trusted_relays:
                # `OwnResults.unproven` compares with this when the message comes again.
                for proof in own_results.proofs(queue_id, message, message.written.encode()):
                    self.answered.remember(host, proof, message.at)

    def begin(
        self,
        connection: Connection,
        message: Message,
        dns: str | None = None,
        keys_only: bool = False,
    ) -> Checks:
        """Start the checks of `message`, whose header is complete. `dns` and `keys_only`: see
        `Checker.begin` (replay only)."""
        return self.checker.begin(connection, message, dns, keys_only)

    def capture(self, message: Message) -> TrapMail | None:
        """What to keep of the body where `message` is for a trap: a copy that begins with the
        header, and the start of its MIME parts. None: nothing. The header must be complete."""
        parts = marks.has_parts(message.values)
        if not (parts or self.sink.enabled) or message.over_limit is not None:
            return None
        if not self.hits_trap(message):
            return None
        if parts:
            message.opening = bytearray()
        copy = self.sink.begin(message.at) if self.sink.enabled else None
        if copy is not None:
            for name, value in message.fields:
                copy.header(name.encode() + b":" + value)
            copy.end_of_headers()
        return TrapMail(copy, message.opening)

    def hits_trap(self, message: Message) -> bool:
        """True where a recipient that was accepted is a trap."""
        for recipient in message.recipients:
            if self.known.is_trap(recipient.address):
                return True
        return False

    def _capture_failed(self, why: str) -> None:
        """Count every failure, log the first one: a full disk fails with every message."""
        if self.slot is not None:
            self.slot.capture_failed()
        hint = "trap mail is recorded but not kept; look at trap.capture, and at milterctl check"
        self.tell_once("error", "capture-failed", why=why, hint=hint)

    def judge_rcpt(self, connection: Connection, message: Message, raw: bytes) -> Decision | None:
        """What to answer at RCPT to a trap, None to let the recipient pass."""
        recipient = address.parse(text(raw))
        if not self.known.is_trap(recipient):
            return None
        seen = facts(connection, message, stage=Stage.RCPT)
        seen = replace(seen, recipients=(Recipient(recipient),))
        decision = judge(seen, Known(traps=frozenset((recipient.raw,))), self.settings)
        return None if decision.action is _ACCEPT else decision

    def finish(
        self,
        connection: Connection,
        message: Message,
        outcome: Results | None,
        queue_id: str | None,
        hop: Hop | None,
    ) -> Verdict:
        """Judge a complete message. `outcome`: the results of its checks, None where there were
        none. `hop` is given for mail of our own users only."""
        if message.whose.second_pass:
            seen = Facts(message.at, queue_id=queue_id)
            stayed = trace.stayed_here(self._way(connection, message), self.settings)
            edits = self.results.unproven(connection, message, self.answered, stayed)
            return Verdict(seen, Decision(_ACCEPT, _SECOND_PASS), edits)
        if message.direction is _INBOUND:
            return self._inbound(connection, message, outcome, queue_id)
        return self._own(connection, message, queue_id, hop or Hop())

    def _inbound(
        self,
        connection: Connection,
        message: Message,
        outcome: Results | None,
        queue_id: str | None,
    ) -> Verdict:
        if outcome is None:
            seen = facts(connection, message, queue_id=queue_id)
        else:
            message.body_hash = outcome.body
            seen = facts(
                connection,
                message,
                queue_id=queue_id,
                signatures=outcome.signatures,
                arc=outcome.arc,
                spf=outcome.spf,
                dmarc=outcome.dmarc,
            )
        known = self.known.lookup(seen)
        if known.traps:
            seen = self._addressed(seen)
        decision = judge(seen, known, self.settings)
        if message.beyond is not None and message.beyond.overflow:
            # More forged fields in our name than we keep places of, so not all could be deleted.
            # No honest sender writes so many.
            decision = Decision(
                Action.REJECT, Reason.TOO_LARGE, HEADER_TOO_LARGE, shadow=decision.shadow
            )
        edits = NO_EDITS
        if decision.action is _ACCEPT:
            edits = self.results.marks(connection, message, seen, decision)
        return Verdict(seen, decision, edits, known.traps)

    def _addressed(self, seen: Facts) -> Facts:
        """`seen`, where each signature has `addressed`: what its signed To and Cc say about the
        recipients. Only possible now, because it needs to know the traps."""
        is_trap = self.known.is_trap
        signatures = tuple(
            replace(s, addressed=addressed(s.signed_to, seen.recipients, is_trap))
            if s.signed_to is not None
            else s
            for s in seen.signatures
        )
        return replace(seen, signatures=signatures)

    def _own(
        self, connection: Connection, message: Message, queue_id: str | None, hop: Hop
    ) -> Verdict:
        """Mail of our own users: scrubbed or refused; few rules apply to it."""
        seen = facts(connection, message, queue_id=queue_id)
        if message.over_limit is not None:
            # It must not leave unscrubbed. 5xx, not 4xx: a retry would be just as large.
            return Verdict(seen, Decision(Action.REJECT, Reason.TOO_LARGE, HEADER_TOO_LARGE))
        leave = seen.direction is Direction.LOCAL and self.settings.submission.local == "leave"
        edits = NO_EDITS
        refusal: Decision | None = None
        plan_login: str | None = None
        if not leave:
            client = self._client_words(connection, message, seen, hop)
            plan = self.scrubber.plan(message.fields, hop, message.at, message.login, client)
            seen = replace(seen, relayed=plan.relayed, dropped=self._counted(plan.dropped, client))
            ours = self.settings.dkim.authserv_id or hop.name or "localhost"
            # rspamd may use the listener's name as authserv-id, and writes the login beside it.
            names = self.settings.submission.daemon_names
            edits = _together(forged(message, ours, *names), plan.edits)
            refusal, plan_login = plan.refusal, plan.login
            if plan.hint is not None:
                self.tell_once("error", "submission-refused", hint=plan.hint)
        known = self.known.lookup(seen)
        decision = judge(seen, known, self.settings)
        if refusal is not None and decision.action is _ACCEPT:
            decision = replace(refusal, shadow=decision.shadow)
        if decision.action is _ACCEPT and message.hashed is not None and not seen.relayed:
            sealed = self.tracer.seal(message, edits, plan_login, queue_id)
            edits = (*edits, *sealed)
            seen = replace(seen, untraced=not sealed and plan_login is not None)
        if decision.reason is Reason.OWN_USER_TRAP:
            self.log.event("warning", "own-user-trap", id=queue_id)
        used = {"login": message.login or "", "submission-sender": seen.sender.raw}
        for how, key in self.known.live_traps(used).items():
            self.journal.write(record.live_trap(key, how, message.at))
        return Verdict(seen, decision, edits, known.traps)

    def _counted(self, names: tuple[str, ...], client: ClientWords) -> tuple[str, ...]:
        """`names` of dropped fields as they may be counted, else "other". The writer of the mail
        chooses the names: one may hold private data, and each new one makes a new counter."""
        out: list[str] = []
        for name in names:
            if name not in self._counted_names:
                plain = _PLAIN_NAME.match(name) and not client.told_by(name.encode())
                if not plain or len(self._counted_names) >= MAX_COUNTED_NAMES:
                    name = "other"
                self._counted_names.add(name)
            out.append(name)
        return tuple(out)

    def _client_words(
        self, connection: Connection, message: Message, seen: Facts, hop: Hop
    ) -> ClientWords:
        author = None if seen.header_from is None else seen.header_from.domain
        # Not private: these names stand in our own Received and in From anyway.
        silent = (hop.name or "", author or "", *self.settings.sender.own_domains)
        words = ClientWords.of(
            connection.client.address,
            (connection.helo, connection.client.name),
            message.login,
            silent,
        )
        newest = next(iter(message.values("received")), None)
        if newest is not None and received.read(newest).submitted:
            # Our client is a webmail or a submission proxy. The user's own client is in the
            # Received that it wrote, so that one's address and names are private too.
            words = words.joined(ClientWords.first_hop(newest, None, silent))
        return words

    def refused_recipients(
        self, connection: Connection, message: Message, queue_id: str | None
    ) -> Verdict | None:
        """The verdict on a transaction that ended without a message, where traps are among its
        refused recipients; else None."""
        seen = facts(connection, message, queue_id=queue_id, stage=Stage.RCPT)
        if seen.direction is not _INBOUND or seen.trusted_relay:
            return None
        seen = replace(seen, recipients=tuple(message.refused), size=None, header_from=None)
        known = self.known.lookup(seen)
        if not known.traps:
            return None
        decision = judge(seen, known, self.settings)
        if decision.action is _ACCEPT:
            # The rules would have accepted the recipient, but the MTA refused it.
            decision = replace(decision, action=Action.REJECT)
        return Verdict(seen, decision, traps=known.traps)

    def stance(self, direction: Direction) -> Decision:
        """The decision where an exception prevented one (see the module)."""
        on_error = self.settings.milter.on_error
        if direction is not _INBOUND or on_error == "tempfail":
            return Decision(Action.TEMPFAIL, Reason.INTERNAL_ERROR, INTERNAL)
        if on_error == "reject":
            return Decision(Action.REJECT, Reason.INTERNAL_ERROR, INTERNAL_REJECT)
        return Decision(_ACCEPT, Reason.INTERNAL_ERROR)

    def write_down(self, verdict: Verdict, kind: str = "message") -> None:
        """The journal record (before the MTA is answered) and the log line."""
        seen, decision = verdict.facts, verdict.decision
        if decision.reason is _SECOND_PASS:
            self.log.event("info", "second-pass", id=seen.queue_id, action=decision.action,
                           reason=decision.reason)  # fmt: skip
            return
        if seen.direction is _INBOUND or self.settings.store.submission == "full":
            traps = tuple(verdict.traps)
            entry = record.message(record.Seen(kind, seen, decision, traps))
        else:
            entry = record.count(seen, decision)
        self.journal.write(entry)
        self.log.message(seen, decision, len(verdict.traps))

    def close(self) -> None:
        """Close the journal segment. Call it when no message is in flight any more."""
        self.journal.close()


def _together(results: Sequence[Edit], edits: Sequence[Edit]) -> tuple[Edit, ...]:
    """`results`, which delete Authentication-Results, and `edits`, which may delete some of them
    too: each once, highest index first."""
    also = tuple(e for e in edits if e.name.lower() == RESULTS)
    if not also:
        return (*results, *edits)
    every = sorted({e.index: e for e in (*results, *also)}.items(), reverse=True)
    return (*(e for _, e in every), *(e for e in edits if e not in also))
