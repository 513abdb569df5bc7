"""Send one message through a milter as Postfix would, and hand back what would be delivered.

    result = client.send("inet:8894@127.0.0.1", message, client="192.0.2.1",
                         sender="a@example.org", recipients=["b@example.net"])

`milterctl replay`, `smtp_server` and the tests all use this. It joins three parts to a session:
`conversation` speaks the protocol, `queue_file` holds the message, `envelope` makes the macros and
our own Received.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from gatepost_milter.mta import conversation
from gatepost_milter.mta.envelope import (
    Envelope,
    connection_macros,
    mail_macros,
    own_received,
    peer,
)
from gatepost_milter.mta.queue_file import HIDE_PREFIX, QueueFile, crlf
from gatepost_milter.mta.wire import ProtocolError, Wire
from gatepost_policy.mail.decision import Edit
from gatepost_policy.system.socket_address import SocketAddress

QUEUED = "250 2.0.0 Ok: queued as {}"
NO_RECIPIENT = "554 5.5.1 Error: no valid recipients"
TIMEOUT = 300.0  # seconds; milter_content_timeout


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one message.

    `message` is what would be delivered, with our own Received unless the milter replaced it;
    `queued` is the same before the milter's edits. `reply` is the last SMTP reply, given at
    `stage`. `replies` are the answers to each RCPT, in order.
    """

    action: str  # accept, reject, tempfail, discard
    stage: str  # connect, helo, mail, rcpt, data, end
    reply: str
    queue_id: str
    edits: tuple[Edit, ...] = ()
    queued: bytes = b""
    message: bytes = b""
    accepted_recipients: tuple[str, ...] = ()  # who would get it, after the milter's edits
    replies: tuple[str, ...] = ()


@dataclass(slots=True)
class Session:
    """One SMTP session: one milter connection, any number of messages from one client.

    `send` is a whole transaction; `mail`, `rcpt` and `data` are its steps, for an SMTP server
    that answers its client in between. Every step raises ProtocolError when the milter goes away
    or breaks the protocol. (Postfix would take its default action and hide the failure, so this
    does not.) The next message then begins a new milter connection.
    """

    socket: str
    envelope: Envelope
    hiding: str = HIDE_PREFIX
    drop: tuple[str, ...] = ()
    timeout: float = TIMEOUT
    actions: int = conversation.OFFERED_ACTIONS
    steps: int = conversation.OFFERED_STEPS
    version: int = 6
    milter: conversation.MilterSession | None = None
    _greeting: tuple[str, str] | None = None  # stage and reply that refused the session
    _current: Envelope | None = None  # the transaction's
    _queue_id: str = ""
    _replies: list[str] = field(default_factory=list)
    _discarded: bool = False  # at RCPT: the client goes on, the message goes nowhere

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; calling it twice is fine."""
        if self.milter is not None:
            self.milter.quit()
            self.milter = None

    def _wire(self) -> Wire:
        return Wire(SocketAddress.parse(self.socket), self.timeout)

    def _open(self) -> conversation.MilterSession:
        if self.milter is None:
            wire = self._wire()
            milter = conversation.MilterSession(wire)
            try:
                milter.negotiate(self.actions, self.steps, self.version)
                self._greet(milter)
            except ProtocolError:
                wire.close()
                raise
            self.milter = milter
        return self.milter

    def _greet(self, milter: conversation.MilterSession) -> None:
        milter.values = connection_macros(self.envelope)
        self._greeting = None
        reply = milter.connect(peer(self.envelope))
        if reply is not None:
            self._greeting = ("connect", reply)
        elif self.envelope.helo is not None and not self.envelope.local:
            reply = milter.helo(self.envelope.helo)
            if reply is not None:
                self._greeting = ("helo", reply)

    def _lost(self) -> None:
        if self.milter is not None:
            self.milter.wire.close()
            self.milter = None

    def send(self, message: bytes, envelope: Envelope | None = None) -> Result:
        """One transaction. `envelope` may differ from the session's in sender and recipients,
        not in the client."""
        envelope = envelope or self.envelope
        refused = self.mail(envelope)
        if refused is not None:
            return refused
        extra = [r for r in envelope.rejected if r not in envelope.recipients]
        for recipient in (*extra, *envelope.recipients):
            self.rcpt(recipient, rejected=recipient in envelope.rejected)
        return self.data(message)

    def mail(self, envelope: Envelope) -> Result | None:
        """MAIL FROM; before the first one also connect and HELO. None: accepted, else the
        refusal."""
        self._current = envelope
        self._queue_id = envelope.queue_id or _random_queue_id()
        self._replies, self._discarded = [], False
        try:
            milter = self._open()
            if self._greeting is not None:
                return self._refusal(*self._greeting)
            mail_macros(milter, envelope, self._queue_id)
            reply = milter.mail((_path(envelope.sender, envelope.local), *envelope.sender_args))
            if reply is None:
                return None
            milter.abort()
            return self._refusal("mail", reply)
        except ProtocolError:
            self._lost()
            raise

    def rcpt(self, recipient: str, rejected: bool = False) -> str:
        """RCPT TO and its reply. `rejected`: the MTA itself refuses this one (unknown user)."""
        milter, envelope = self._running()
        text = f"<{recipient}>: Recipient address rejected: User unknown in local recipient table"
        milter.values |= {
            "{rcpt_addr}": text if rejected else recipient,
            "{rcpt_host}": "5.1.1" if rejected else recipient.rpartition("@")[2],
            "{rcpt_mailer}": "error" if rejected else "local",
        }
        try:
            reply = milter.rcpt((_path(recipient, envelope.local),), rejected=rejected)
        except ProtocolError:
            self._lost()
            raise
        if rejected:
            # The MTA's own refusal stands, whatever the milter answers.
            reply = reply or f"550 5.1.1 {text}"
        elif reply is None or reply == conversation.DISCARD:
            self._discarded = self._discarded or reply is not None
            milter.recipients.append(recipient)
            # smtpd(8) opens the queue file, and so has a queue id, at the first good recipient.
            milter.values["i"] = self._queue_id
            reply = "250 2.1.5 Ok"
        self._replies.append(reply)
        return reply

    def data(self, message: bytes) -> Result:
        """DATA and the message, with LF or CRLF. Returns the last reply and what would be
        delivered."""
        milter, envelope = self._running()
        try:
            if not milter.recipients:
                milter.abort()
                refused = [r for r in self._replies if not r.startswith("2")]
                return self._refusal("rcpt", refused[-1] if refused else NO_RECIPIENT)
            if self._discarded:
                milter.abort()
                return self._refusal("rcpt", conversation.DISCARD)
            # A message from sendmail(1) goes through cleanup(8) without a DATA command.
            reply = None if envelope.local else milter.data()
            if reply is not None:
                milter.abort()
                return self._refusal("data", reply)
            own = own_received(envelope, self._queue_id, tuple(milter.recipients))
            queued = QueueFile.receive(crlf(message), own, self.hiding, self.drop)
            before = queued.content()
            reply = milter.message(queued)
        except ProtocolError:
            self._lost()
            raise
        finally:
            self._current = None
        if reply is not None and reply != conversation.DISCARD:
            return replace(self._refusal("end", reply), edits=tuple(queued.edits), queued=before)
        discarded = reply == conversation.DISCARD
        return Result(
            action="discard" if discarded else "accept",
            stage="end",
            reply=QUEUED.format(self._queue_id),
            queue_id=self._queue_id,
            edits=tuple(queued.edits),
            queued=before,
            message=queued.content(),
            accepted_recipients=() if discarded else tuple(milter.recipients),
            replies=tuple(self._replies),
        )

    def rset(self) -> None:
        """RSET: forget the transaction."""
        if self.milter is not None and self._current is not None:
            self.milter.abort()
        self._current = None

    def _running(self) -> tuple[conversation.MilterSession, Envelope]:
        if self.milter is None or self._current is None:
            raise ProtocolError("no transaction: MAIL comes first")
        return self.milter, self._current

    def _refusal(self, stage: str, reply: str) -> Result:
        replies = tuple(self._replies)
        if reply == conversation.DISCARD:
            done = QUEUED.format(self._queue_id)
            return Result("discard", stage, done, self._queue_id, replies=replies)
        action = "tempfail" if reply.startswith("4") else "reject"
        return Result(action, stage, reply, self._queue_id, replies=replies)


def send(
    socket: str,
    message: bytes,
    *,
    hiding: str = HIDE_PREFIX,
    recipients: Sequence[str] = ("recipient@example.net",),
    timeout: float = TIMEOUT,
    envelope: Envelope | None = None,
    **fields: Any,
) -> Result:
    """One message in a session of its own; `fields` are those of `Envelope`."""
    if envelope is None:
        envelope = Envelope(recipients=tuple(recipients))
    with Session(socket, replace(envelope, **fields), hiding, timeout=timeout) as session:
        return session.send(message)


def _random_queue_id() -> str:
    """Ten hexadecimal digits, like a short Postfix queue id."""
    return secrets.token_hex(5).upper()


def _path(address: str, local: bool) -> str:
    return address if local or address.startswith("<") else f"<{address}>"
