"""Listen to libmilter: one `Session` for each MTA connection, one method for each callback.

How it works. Callbacks gather (`transcript`), the end of message judges (`gate`) and acts
(`actions`). Only RCPT (where traps are refused there) and the end of message answer; everything
else is negotiated as "no reply", which halves libmilter's cost. That goes for the body too: an
answer to each chunk costs a tenth of a large message; SKIP, which needs one, is used only with
an MTA that cannot do without answers.

Rules: callbacks of one connection never overlap but come on different OS threads, so a session
owns no thread and no thread-local. Each callback has one `except`: it marks the message as
failed, and its end gets the stance of its direction. An exception that pymilter raises before
Python is asked (a HELO that is not UTF-8) leaves the callback out: nothing depends on HELO.
"""

import sys
import threading
import time
from typing import Any

import milter

from gatepost_milter.engine import actions
from gatepost_milter.engine.shared import Worker, macro
from gatepost_milter.filter.gate import Verdict
from gatepost_milter.filter.transcript import (
    MAX_REFUSED,
    Connection,
    Message,
    facts,
    read_client,
)
from gatepost_policy.journal.capture import Capture, sidecar
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Direction, Recipient
from gatepost_policy.rules.whose_mail import suspected, whose_mail
from gatepost_policy.scrub import Hop
from gatepost_policy.system import faults

CONTINUE, NOREPLY, SKIP = milter.CONTINUE, milter.NOREPLY, milter.SKIP
WANTED_ACTIONS = milter.ADDHDRS | milter.CHGHDRS | milter.DELRCPT
EDITING = milter.ADDHDRS | milter.CHGHDRS
# Steps without reply, steps not sent, and extras; RCPT is added where nothing is refused there.
WANTED_STEPS = (
    milter.P_NR_CONN
    | milter.P_NR_HELO
    | milter.P_NR_MAIL
    | milter.P_NR_HDR
    | milter.P_NOEOH
    | milter.P_NR_BODY
    | milter.P_NODATA
    | milter.P_NOUNKNOWN
    | milter.P_SKIP
    | milter.P_RCPT_REJ
    | milter.P_HDR_LEADSPC
)


class Session:
    """One connection from the MTA."""

    __slots__ = (
        "actions", "after_body", "after_header", "check", "connection", "copy", "leading_space",
        "max_bytes", "max_fields", "message", "steps",
    )  # fmt: skip

    def __init__(self, offered_actions: int, offered_steps: int) -> None:
        self.actions = offered_actions & WANTED_ACTIONS
        wanted = WANTED_STEPS
        if not Worker.gate.answers_rcpt:
            wanted |= milter.P_NR_RCPT
        if Worker.gate.over_tcp:
            # Postfix's smtpd sends the envelope, then its cleanup sends the message: two writes
            # without an answer in between, and Nagle's algorithm keeps the second one back until
            # our delayed ACK, 40 ms. An answer to DATA carries the ACK.
            wanted &= ~milter.P_NODATA
        if not offered_steps & wanted & milter.P_NODATA:
            # libmilter takes no body and no end right after DATA: a message without a header
            # needs the end of the header.
            wanted = wanted & ~milter.P_NOEOH | milter.P_NR_EOH
        self.steps = offered_steps & wanted
        self.leading_space = bool(self.steps & milter.P_HDR_LEADSPC)
        self.after_header = self.quiet(milter.P_NR_HDR)
        self.after_body = self.quiet(milter.P_NR_BODY)
        limits = Worker.gate.settings.milter
        self.max_bytes, self.max_fields = limits.max_header_bytes, limits.max_header_fields
        # Until connect() says more; pymilter leaves it out where it cannot decode a name.
        self.connection = Connection(failed=True)
        self.message: Message | None = None
        self.check: Any = None  # the DKIM verification of this message
        self.copy: Capture | None = None  # of trap mail, where copies are kept
        Worker.open.add(self)
        if Worker.slot is not None:
            Worker.slot.connected()

    def quiet(self, step: int) -> int:
        """What a callback returns that has nothing to say."""
        return NOREPLY if self.steps & step else CONTINUE

    def failed(self, stage: str) -> None:
        """An exception in `stage`: counted and named, without a word of the message."""
        if Worker.slot is not None:
            Worker.slot.failed()
        kind, error, trace = sys.exc_info()
        where = "?"
        while trace is not None:
            code = trace.tb_frame.f_code
            where = f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}"
            trace = trace.tb_next
        Worker.gate.log.event(
            "error", "exception", stage=stage, type=kind.__name__ if kind else "?", where=where
        )
        if self.message is not None:
            self.message.failed = True
        else:
            self.connection.failed = True

    def connect(self, ctx: Any, hostname: str, family: int, hostaddr: object) -> int:
        try:
            client, local = read_client(hostname, family, hostaddr)
            self.connection = Connection(
                client=client,
                local=local,
                mta_name=macro(ctx, "j"),
                mta_version=macro(ctx, "v"),
                daemon_name=macro(ctx, "{daemon_name}"),
            )
        except Exception:
            self.failed("connect")
        return self.quiet(milter.P_NR_CONN)

    def helo(self, ctx: Any, name: str) -> int:
        self.connection.helo = name
        return self.quiet(milter.P_NR_HELO)

    def mail(self, ctx: Any, sender: bytes, *params: bytes) -> int:
        try:
            self.over()
            message = self.message = Message(time.time(), sender, params)
            message.failed = self.connection.failed
            Worker.busy.add(self)
            if Worker.slot is not None:
                Worker.slot.began()
            gate = Worker.gate
            message.login = macro(ctx, "{auth_authen}")
            if self.connection.daemon_name is None:
                self.connection.daemon_name = macro(ctx, "{daemon_name}")
            whose = whose_mail(
                gate.settings.submission,
                address=self.connection.client.address,
                local=self.connection.local,
                login=message.login,
                listener=self.connection.daemon_name,
            )
            message.direction = whose.direction
            message.trusted_relay = whose.trusted_relay
            message.proxy = whose.second_hop
            if gate.replay:
                at = macro(ctx, "{gatepost_at}")
                if at is not None:
                    message.at = float(at)
        except Exception:
            self.failed("mail")
            if self.message is not None:
                self.message.direction = self._suspected(self.message)
        return self.quiet(milter.P_NR_MAIL)

    def _suspected(self, message: Message) -> Direction:
        """Whose mail it is where `whose_mail` could not be asked."""
        return suspected(
            Worker.gate.settings.submission,
            login=message.login,
            listener=self.connection.daemon_name,
        )

    def rcpt(self, ctx: Any, recipient: bytes, *params: bytes) -> int:
        message = self.message
        try:
            if message is None:
                return self.quiet(milter.P_NR_RCPT)
            gate = Worker.gate
            parsed = address.parse(recipient.decode("utf-8", "surrogateescape"))
            if macro(ctx, "{rcpt_mailer}") == "error":
                # Only an unknown user says something about the sender: a full mailbox or a
                # refused relay (other codes) would turn our own trouble into their hit.
                status = macro(ctx, "{rcpt_host}") or ""
                if status.startswith("5.1.1") and len(message.refused) < MAX_REFUSED:
                    message.refused.append(Recipient(parsed, accepted=False))
                return self.quiet(milter.P_NR_RCPT)
            if gate.answers_rcpt and message.direction is Direction.INBOUND:
                decision = gate.judge_rcpt(self.connection, message, recipient)
                if decision is not None:
                    if len(message.refused) < MAX_REFUSED:
                        message.refused.append(Recipient(parsed, accepted=False))
                    if decision.reply is not None:
                        answer = int(actions.ANSWERS[decision.action])
                        return actions.refuse(ctx, decision.reply, answer)
            message.recipients.append(Recipient(parsed))
        except Exception:
            self.failed("rcpt")
        return self.quiet(milter.P_NR_RCPT)

    def header(self, ctx: Any, name: str, value: bytes) -> int:
        message = self.message
        try:
            if message is not None:
                if not self.leading_space:
                    value = b" " + value
                fields = message.fields
                fields.append((name, value))
                # The colon and CRLF.
                size = message.header_bytes = message.header_bytes + len(name) + len(value) + 3
                if size > self.max_bytes or message.over_limit is not None:
                    _give_up(message, "bytes")
                elif len(fields) > self.max_fields:
                    _give_up(message, "fields")
        except Exception:
            self.failed("header")
        return self.after_header

    def eoh(self, ctx: Any) -> int:
        """Nothing to do: the first chunk of the body, or the end, tells as much. It comes over TCP,
        and from an MTA that does not negotiate."""
        return self.quiet(milter.P_NR_EOH)

    def _header_complete(self, ctx: Any, message: Message) -> None:
        message.complete = True
        if message.direction is not Direction.INBOUND:
            return
        message.header_bytes += 2  # the empty line
        if message.over_limit is not None:
            return
        gate = Worker.gate
        dns = macro(ctx, "{gatepost_dns}") if gate.replay else None
        check = self.check = gate.begin(message, dns)
        check.headers(message.fields)
        _count_folds(message)
        check.end_of_headers()
        if gate.sink.enabled:
            self.copy = gate.capture(message)

    def body(self, ctx: Any, chunk: bytes) -> int:
        message = self.message
        try:
            if message is not None and not message.complete:
                self._header_complete(ctx, message)
            if message is None or message.direction is not Direction.INBOUND:
                if message is not None:
                    message.body_bytes = None
                if self.steps & (milter.P_SKIP | milter.P_NR_BODY) == milter.P_SKIP:
                    return SKIP
            else:
                if message.body_bytes is not None:
                    message.body_bytes += len(chunk)
                if self.check is not None and self.check.wants_body:
                    self.check.body(chunk)
                if self.copy is not None:
                    self.copy.body(chunk)
        except Exception:
            self.failed("body")
        return self.after_body

    def eom(self, ctx: Any) -> int:
        message = self.message
        if message is None:  # an MTA that ends what it never began
            return CONTINUE
        begun = time.monotonic()
        try:
            if message.failed:
                return self._stance(ctx, message)
            try:
                return self._end(ctx, message)
            except Exception:
                self.failed("eom")
                return self._stance(ctx, message)
        finally:
            self.message = self.check = None
            self._drop_copy()
            Worker.last_end = time.monotonic()
            if Worker.slot is not None:
                Worker.slot.answered(Worker.last_end - begun)
                Worker.slot.ended()
            Worker.busy.discard(self)

    def _end(self, ctx: Any, message: Message) -> int:
        gate = Worker.gate
        connection = self.connection
        if not message.complete:
            self._header_complete(ctx, message)
        outcome = None if self.check is None else self.check.finish()
        hop = None if message.direction is Direction.INBOUND else self._hop(ctx, message)
        verdict = gate.finish(connection, message, outcome, macro(ctx, "i"), hop)
        if self.copy is not None and verdict.traps:
            dns = {} if outcome is None else outcome.dns
            self.copy.finish(sidecar(verdict.facts, verdict.traps, dns))
            self.copy = None
        edits = verdict.edits
        if self.actions & EDITING != EDITING:
            gate.tell_once(
                "error", "mta-cannot-edit",
                hint="the MTA offers no header edits: inbound mail is recorded, not marked",
            )  # fmt: skip
            edits = ()
        answer = actions.carry_out(ctx, verdict.decision, edits, self.leading_space)
        if faults.REPLY_FIRST:
            threading.Timer(0.2, gate.write_down, (verdict,)).start()
        else:
            gate.write_down(verdict)
        return CONTINUE if answer == milter.ACCEPT else answer

    def _hop(self, ctx: Any, message: Message) -> Hop:
        connection = self.connection
        return Hop(
            name=connection.mta_name or macro(ctx, "j"),
            version=connection.mta_version or macro(ctx, "v"),
            queue_id=macro(ctx, "i"),
            tls=macro(ctx, "{tls_version}") is not None,
            authenticated=message.login is not None,
            smtputf8=message.smtputf8,
            proxy=message.proxy,
            can_edit=self.actions & EDITING == EDITING and self.leading_space,
        )

    def _stance(self, ctx: Any, message: Message) -> int:
        """The end of a message that an exception has hit: the answer of last resort."""
        gate = Worker.gate
        if self.connection.failed and message.direction is Direction.INBOUND:
            message.direction = self._suspected(message)
        decision = gate.stance(message.direction)
        try:
            seen = facts(self.connection, message, queue_id=macro(ctx, "i"))
            gate.write_down(Verdict(seen, decision))
        except Exception:
            self.failed("record")
        try:
            answer = actions.carry_out(ctx, decision, ())
        except Exception:
            self.failed("reply")
            return int(actions.ANSWERS[decision.action])
        return CONTINUE if answer == milter.ACCEPT else answer

    def over(self) -> None:
        """The transaction ended without a message (RSET, QUIT, lost connection, a new MAIL).

        Called once more than needed: libmilter aborts twice after a failed transaction.
        """
        message, self.message = self.message, None
        self.check = None
        self._drop_copy()
        Worker.busy.discard(self)
        if message is not None and Worker.slot is not None:
            Worker.slot.ended()
        if message is not None and message.refused:
            verdict = Worker.gate.refused_recipients(self.connection, message, None)
            if verdict is not None:
                Worker.gate.write_down(verdict, kind="rcpt")

    def _drop_copy(self) -> None:
        if self.copy is not None:
            self.copy.abandon()
            self.copy = None

    def abort(self, ctx: Any) -> int:
        try:
            self.over()
        except Exception:
            self.failed("abort")
        return CONTINUE

    def close(self, ctx: Any) -> int:
        try:
            self.over()
        except Exception:
            self.failed("close")
        Worker.open.discard(self)
        ctx.setpriv(None)
        return CONTINUE


def _give_up(message: Message, what: str) -> None:
    """The header is over a limit: from here on its fields are counted, not kept."""
    message.over_limit = message.over_limit or f"milter.max_header_{what}"
    _count_folds(message)
    message.fields.clear()


def _count_folds(message: Message) -> None:
    for _, value in message.fields:
        if b"\n" in value:
            message.header_bytes += value.count(b"\n")  # CRLF on the wire
