"""One MTA connection: it gets the events, and returns the answers. Knows no engine and no socket.

How it works. Events are gathered (`transcript`); at the end of the message `gate` decides. Only
RCPT (where traps are refused there) and the end of message are answered. `end` gives the answer,
the engine carries out its edits, `settle` writes the record; only then may the MTA be answered,
because a message that was answered must not be missing from the records.

Rules: calls for one session never overlap but may come on different OS threads, so a session
owns no thread and no thread-local. No exception gets out: it marks the message as failed, which is
answered with the stance (see `gate`). Nothing depends on HELO, which an engine may leave out.
"""

import time
from itertools import chain

from gatepost_milter.filter.answers import DELIVER, GO, SKIP, Answer, Deliver, Refuse, answer_of
from gatepost_milter.filter.checks import Checks
from gatepost_milter.filter.context import Context, Macros
from gatepost_milter.filter.gate import Verdict
from gatepost_milter.filter.hop import own_hop
from gatepost_milter.filter.transcript import (
    MAX_REFUSED,
    Connection,
    Message,
    client_of,
    facts,
    text,
)
from gatepost_milter.filter.trap_mail import TrapMail
from gatepost_milter.protocol.negotiation import Offer
from gatepost_milter.protocol.peer import Peer
from gatepost_policy.journal.capture import sidecar
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action
from gatepost_policy.mail.facts import Direction, Recipient
from gatepost_policy.rules.whose_mail import Ownership, suspected, whose_mail

# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND
_TEMPFAIL = Action.TEMPFAIL
_ACCEPT = Action.ACCEPT


class Session:
    """One connection from the MTA. `agreed` is what was negotiated (`Context.agree`)."""

    __slots__ = (
        "_answer", "_begun", "_context", "_gate", "_max_bytes", "_max_fields", "_queue_id", "_slot",
        "_verdict", "agreed", "check", "connection", "copy", "dns", "keys_only", "leading_space",
        "message",
    )  # fmt: skip

    def __init__(self, context: Context, agreed: Offer) -> None:
        self._context = context
        self._gate = gate = context.gate
        self._slot = context.slot
        self.agreed = agreed
        self.leading_space = agreed.leading_space
        limits = gate.settings.milter
        self._max_bytes, self._max_fields = limits.max_header_bytes, limits.max_header_fields
        # Failed unless connect() is called: libmilter leaves it out for a name not in UTF-8.
        self.connection = Connection(failed=True)
        self.message: Message | None = None
        self.check: Checks | None = None  # what is verified about this message
        self.copy: TrapMail | None = None  # what is kept of a body for a trap
        self.dns: str | None = None  # answers to play back (replay only)
        self.keys_only = False  # and they are those of DKIM alone
        # Between `end` and `settle`.
        self._answer: Answer = GO
        self._verdict: Verdict | None = None
        self._queue_id: str | None = None
        self._begun = 0.0
        context.open.add(self)
        if self._slot is not None:
            self._slot.connected()

    def failed(self, stage: str) -> None:
        """Count and log an exception in `stage`, without any data of the message, and mark the
        message as failed. Call it inside the `except` block."""
        self._context.failed(stage)
        if self.message is not None:
            self.message.failed = True
        else:
            self.connection.failed = True

    def connect(self, peer: Peer, macros: Macros) -> Answer:
        """The SMTP client, and the MTA's macros about itself."""
        try:
            client, local = client_of(peer)
            self.connection = Connection(
                client=client,
                local=local,
                mta_name=macros("j"),
                mta_version=macros("v"),
                daemon_name=macros("{daemon_name}"),
            )
        except Exception:
            self.failed("connect")
        return GO

    def helo(self, name: str) -> Answer:
        """The name the client gave."""
        self.connection.helo = name
        return GO

    def mail(self, sender: bytes, params: tuple[bytes, ...], macros: Macros) -> Answer:
        """MAIL FROM, the path as the client wrote it: a new message begins."""
        try:
            self._over()
            message = self.message = Message(time.time(), sender, params)
            message.failed = self.connection.failed
            self._context.busy.add(self)
            if self._slot is not None:
                self._slot.began()
            gate = self._gate
            message.login = macros("{auth_authen}")
            if self.connection.daemon_name is None:
                self.connection.daemon_name = macros("{daemon_name}")
            message.whose = whose_mail(
                gate.settings.submission,
                address=self.connection.client.address,
                local=self.connection.local,
                login=message.login,
                listener=self.connection.daemon_name,
            )
            if gate.replay:
                self.dns = macros("{gatepost_dns}")
                self.keys_only = macros("{gatepost_keys_only}") is not None
                at = macros("{gatepost_at}")
                if at is not None:
                    message.at = float(at)
        except Exception:
            self.failed("mail")
            if self.message is not None:
                self.message.whose = self._suspected(self.message)
        return GO

    def _suspected(self, message: Message) -> Ownership:
        """Whose mail it is where an exception kept `whose_mail` from telling."""
        return suspected(
            self._gate.settings.submission,
            login=message.login,
            listener=self.connection.daemon_name,
        )

    def rcpt(self, recipient: bytes, macros: Macros) -> Answer:
        """RCPT TO, also of a recipient that the MTA refuses."""
        message = self.message
        try:
            if message is None:
                return GO
            gate = self._gate
            parsed = address.parse(text(recipient))
            if macros("{rcpt_mailer}") == "error":
                # Only "unknown user" tells something about the sender. A full mailbox or refused
                # relaying (other codes) is our own trouble and must not count as a trap hit.
                status = macros("{rcpt_host}") or ""
                if status.startswith("5.1.1") and len(message.refused) < MAX_REFUSED:
                    message.refused.append(Recipient(parsed, accepted=False))
                return GO
            if gate.answers_rcpt and message.direction is _INBOUND:
                decision = gate.judge_rcpt(self.connection, message, recipient)
                if decision is not None:
                    if len(message.refused) < MAX_REFUSED:
                        message.refused.append(Recipient(parsed, accepted=False))
                    if decision.reply is not None:
                        return Refuse(decision.reply, decision.action is _TEMPFAIL)
            message.recipients.append(Recipient(parsed))
        except Exception:
            self.failed("rcpt")
        return GO

    def header(self, name: str, value: bytes) -> Answer:
        """One field, with the blanks after its colon where `leading_space` was agreed on."""
        message = self.message
        try:
            if message is not None:
                if not self.leading_space:
                    value = b" " + value
                if message.beyond is not None:
                    message.beyond_limit(name, value)
                    return GO
                fields = message.fields
                fields.append((name, value))
                # + 3: the colon and CRLF.
                size = message.header_bytes = message.header_bytes + len(name) + len(value) + 3
                over = "bytes" if size > self._max_bytes else "fields"
                if over == "bytes" or len(fields) > self._max_fields:
                    message.give_up(over, self._gate.results.own_fields(self.connection))
        except Exception:
            self.failed("header")
        return GO

    def headers(self, fields: list[tuple[str, bytes]]) -> None:
        """Several fields at once: what `header` does one by one."""
        message = self.message
        try:
            if message is not None and message.beyond is None and self.leading_space:
                # 3 for each: the colon and CRLF.
                size = sum(map(len, chain.from_iterable(fields))) + 3 * len(fields)
                size += message.header_bytes
                count = len(message.fields) + len(fields)
                if size <= self._max_bytes and count <= self._max_fields:
                    message.fields += fields
                    message.header_bytes = size
                    return
            for name, value in fields:
                self.header(name, value)
        except Exception:
            self.failed("header")

    def _header_complete(self, message: Message) -> None:
        message.complete = True
        if message.whose.open and message.over_limit is None:
            message.whose = self._gate.confirmed(self.connection, message)
        if message.whose.direction is not _INBOUND or message.whose.second_pass:
            message.hashed = self._gate.tracer.body(message)
            return
        message.header_bytes += 2  # the empty line
        if message.over_limit is not None:
            return
        gate = self._gate
        message.count_folds()
        self.check = gate.begin(self.connection, message, self.dns, self.keys_only)
        self.copy = gate.capture(message)

    def body(self, chunk: bytes) -> Answer:
        """The next octets of the body. The first call means that the header is complete."""
        message = self.message
        try:
            if message is not None and not message.complete:
                self._header_complete(message)
            if message is None:
                return SKIP
            if message.whose.direction is not _INBOUND or message.whose.second_pass:
                message.body_bytes = None
                if message.hashed is not None:
                    message.hashed.update(chunk)
                    return GO
                return SKIP
            if message.body_bytes is not None:
                message.body_bytes += len(chunk)
            if self.check is not None and self.check.wants_body:
                self.check.body(chunk)
            if self.copy is not None:
                self.copy.body(chunk)
        except Exception:
            self.failed("body")
        return GO

    def may_wait(self) -> bool:
        """True where the end of this message or transaction may block: `end` waits for DNS, the
        store, a copy of trap mail or a journal that is synced; and where recipients were refused,
        any end waits for the store. All other calls return at once."""
        message = self.message
        if message is None:
            return False
        if message.refused or self.copy is not None or self._gate.slow_journal:
            return True
        if self.check is not None and self.check.waits:
            return True
        return self._gate.hits_trap(message)

    def end(self, macros: Macros) -> Answer:
        """The message is complete: judge it. `settle` must follow; only its answer counts.

        May wait for DNS (DKIM, SPF, DMARC) and for the store (good mail of the sender).
        """
        message = self.message
        if message is None:  # an MTA that ends what it never began
            return GO
        self._begun = time.monotonic()
        self._queue_id = macros("i")
        if not message.failed:
            try:
                self._verdict = verdict = self._judge(message, macros)
                agreed = self.agreed
                edits = verdict.edits if agreed.edits else ()
                self._answer = answer_of(verdict.decision, edits, agreed.drops_recipients)
                if not agreed.edits and isinstance(self._answer, Deliver):
                    self._gate.tell_cannot_edit()
                return self._answer
            except Exception:
                self.failed("eom")
        self._last_resort(message, edit=True)
        return self._answer

    def settle(self, carried_out: bool = True) -> Answer:
        """Write the record; returns the final answer for the MTA.

        `carried_out` is False where the engine could not carry out the answer of `end` (call it
        inside the `except` block). Then, or where no record can be written, the answer is the
        stance of the direction, which needs no edits.
        """
        message = self.message
        if message is None:
            return GO
        try:
            if not carried_out:
                self.failed("reply")
                self._last_resort(message)
            if not self._written():
                self._last_resort(message)
                self._written()
            if not isinstance(self._answer, Refuse):
                self._gate.remember(self.connection, message, self._queue_id)
            return self._answer
        finally:
            self.message = self.check = self._verdict = None
            self._drop_copy()
            context = self._context
            context.last_end = time.monotonic()
            if self._slot is not None:
                self._slot.answered(context.last_end - self._begun)
                self._slot.ended()
            context.busy.discard(self)

    def _written(self) -> bool:
        if self._verdict is not None:
            try:
                self._gate.write_down(self._verdict)
            except Exception:
                self.failed("record")
                return False
        return True

    def _judge(self, message: Message, macros: Macros) -> Verdict:
        if not message.complete:
            self._header_complete(message)
        outcome = None if self.check is None else self.check.finish()
        hop = None
        if message.direction is not _INBOUND:
            can_edit = self.agreed.edits and self.leading_space
            hop = own_hop(self.connection, message, macros, self._queue_id, can_edit)
        verdict = self._gate.finish(self.connection, message, outcome, self._queue_id, hop)
        if self.copy is not None and verdict.traps:
            dns = {} if outcome is None else outcome.dns
            self.copy.finish(sidecar(verdict.facts, verdict.traps, dns))
            self.copy = None
        return verdict

    def _last_resort(self, message: Message, edit: bool = False) -> None:
        """Set the answer and verdict after an exception: the stance of the direction.

        With `edit`, forged results in our name are deleted from a message that passes, if possible.
        """
        gate = self._gate
        if self.connection.failed and message.direction is _INBOUND:
            message.whose = self._suspected(message)
        decision = gate.stance(message.direction)
        refused = decision.action is not _ACCEPT
        temporary = decision.action is _TEMPFAIL
        self._answer = Refuse(decision.reply, temporary) if refused else DELIVER
        self._verdict = None
        if edit and not refused and self.agreed.edits:
            try:
                self._answer = Deliver(gate.results.disowned(self.connection, message))
            except Exception:
                self.failed("disown")
        try:
            seen = facts(self.connection, message, queue_id=self._queue_id)
            self._verdict = Verdict(seen, decision)
        except Exception:
            self.failed("record")

    def _over(self) -> None:
        """The transaction ended without a message (RSET, QUIT, lost connection, a new MAIL).

        May be called twice for one transaction: libmilter aborts twice after a failed one.
        """
        message, self.message = self.message, None
        self.check = self._verdict = None
        self._drop_copy()
        self._context.busy.discard(self)
        if message is not None and self._slot is not None:
            self._slot.ended()
        if message is not None and message.refused:
            verdict = self._gate.refused_recipients(self.connection, message, None)
            if verdict is not None:
                self._gate.write_down(verdict, kind="rcpt")

    def _drop_copy(self) -> None:
        if self.copy is not None:
            self.copy.abandon()
            self.copy = None

    def abort(self) -> None:
        """The transaction is over, the connection stays."""
        try:
            self._over()
        except Exception:
            self.failed("abort")

    def close(self) -> None:
        """The connection is over, whoever ended it."""
        try:
            self._over()
        except Exception:
            self.failed("close")
        self._context.open.discard(self)
