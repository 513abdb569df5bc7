"""Send one message through a milter as Postfix would, and hand back what would be delivered.

    result = harness.send("inet:8894@127.0.0.1", message, client="192.0.2.1",
                          sender="a@example.org", recipients=["b@example.net"])

`milterctl replay`, its SMTP front (`smtpfront`) and the tests all use this. The conversation is
`mta`, the message store `queuefile`; this module knows which macros and which own `Received` go
with an envelope.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import IPv6Address, ip_address

from gatepost_milter import mta
from gatepost_milter.queuefile import HIDE_PREFIX, Field, QueueFile, crlf
from gatepost_milter.wire import ProtocolError, Wire
from gatepost_policy.decision import Edit
from gatepost_policy.sockets import SocketAddress

__all__ = ["Envelope", "ProtocolError", "Result", "Session", "send"]

QUEUED = "250 2.0.0 Ok: queued as {}"
NO_RECIPIENT = "554 5.5.1 Error: no valid recipients"
TIMEOUT = 300.0  # seconds; milter_content_timeout


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One SMTP session and transaction, as the MTA knows it.

    `client` is an address; None is an SMTP client on a unix socket. `local` is sendmail(1):
    127.0.0.1 with port 0, no HELO, paths without brackets. `rejected` are recipients that the
    MTA itself refuses (those not among `recipients` come first). `macros` are sent at MAIL, on top of those Postfix sends by default; one
    of a known name replaces its value, the value None takes the macro away.
    """

    client: str | None = "192.0.2.1"
    client_name: str | None = None  # verified host name
    reverse_name: str | None = None  # PTR name, perhaps forged
    port: int = 40000
    helo: str | bytes | None = "client.example"
    sender: str = "sender@example.org"
    sender_args: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ("recipient@example.net",)
    rejected: tuple[str, ...] = ()
    login: str | None = None
    tls: str | None = None  # protocol, such as TLSv1.3
    daemon_name: str | None = None  # None: the MTA's host name, as in Postfix
    local: bool = False
    mta: str = "mx.example.net"
    version: str = "Postfix 3.7.11"
    queue_id: str | None = None  # None: a random one
    at: float | None = None  # Unix time of the own Received; None: now
    macros: Mapping[str, str | bytes | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one message.

    `message` is what would be delivered, our own Received included unless it was swept;
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
    """One SMTP session: one milter connection, any number of messages from one client."""

    socket: str
    envelope: Envelope
    hiding: str = HIDE_PREFIX
    drop: tuple[str, ...] = ()
    timeout: float = TIMEOUT
    actions: int = mta.OFFERED_ACTIONS
    steps: int = mta.OFFERED_STEPS
    version: int = 6
    milter: mta.MilterSession | None = None
    _greeting: tuple[str, str] | None = None  # stage and reply that refused the session

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the session; calling it twice is fine."""
        if self.milter is not None:
            self.milter.quit()
            self.milter = None

    def _open(self) -> mta.MilterSession:
        if self.milter is None:
            wire = Wire(SocketAddress.parse(self.socket), self.timeout)
            milter = mta.MilterSession(wire)
            try:
                milter.negotiate(self.actions, self.steps, self.version)
                self._greet(milter)
            except ProtocolError:
                wire.close()
                raise
            self.milter = milter
        return self.milter

    def _greet(self, milter: mta.MilterSession) -> None:
        milter.values = _connection_macros(self.envelope)
        self._greeting = None
        reply = milter.connect(_peer(self.envelope))
        if reply is not None:
            self._greeting = ("connect", reply)
        elif self.envelope.helo is not None and not self.envelope.local:
            reply = milter.helo(self.envelope.helo)
            if reply is not None:
                self._greeting = ("helo", reply)

    def send(self, message: bytes, envelope: Envelope | None = None) -> Result:
        """One transaction. `envelope` differs from the session's in its transaction only.

        Raises ProtocolError when the milter goes away or breaks the protocol; Postfix would then
        take its default action, and here nobody should have to guess.
        """
        envelope = envelope or self.envelope
        queue_id = envelope.queue_id or _queue_id()
        try:
            milter = self._open()
            if self._greeting is not None:
                stage, reply = self._greeting
                return _refusal(stage, reply, queue_id)
            return _transaction(milter, envelope, queue_id, message, self.hiding, self.drop)
        except ProtocolError:
            if self.milter is not None:
                self.milter.wire.close()
                self.milter = None
            raise


def send(
    socket: str,
    message: bytes,
    *,
    hiding: str = HIDE_PREFIX,
    recipients: Sequence[str] = ("recipient@example.net",),
    timeout: float = TIMEOUT,
    envelope: Envelope | None = None,
    **fields: object,
) -> Result:
    """One message in a session of its own; `fields` are those of `Envelope`."""
    base = envelope or Envelope(recipients=tuple(recipients))
    with Session(socket, replace(base, **fields), hiding, timeout=timeout) as session:  # type: ignore[arg-type]
        return session.send(message)


def _transaction(
    milter: mta.MilterSession,
    envelope: Envelope,
    queue_id: str,
    message: bytes,
    hiding: str,
    drop: tuple[str, ...],
) -> Result:
    _mail_macros(milter, envelope, queue_id)
    reply = milter.mail((_path(envelope.sender, envelope.local), *envelope.sender_args))
    if reply is not None:
        milter.abort()
        return _refusal("mail", reply, queue_id)
    replies = _recipients(milter, envelope, queue_id)
    if not milter.recipients:
        milter.abort()
        refused = [r for r in replies if not r.startswith("2")]
        return _refusal("rcpt", refused[-1] if refused else NO_RECIPIENT, queue_id, replies)
    # A message from sendmail(1) goes through cleanup(8) without a DATA command.
    reply = None if envelope.local else milter.data()
    if reply is not None:
        milter.abort()
        return _refusal("data", reply, queue_id, replies)
    own = own_received(envelope, queue_id, tuple(milter.recipients))
    queued = QueueFile.receive(crlf(message), own, hiding, drop)
    before = queued.content()
    reply = milter.message(queued)
    if reply is not None and reply != mta.DISCARD:
        result = _refusal("end", reply, queue_id, replies)
        return replace(result, edits=tuple(queued.edits), queued=before)
    discarded = reply == mta.DISCARD
    return Result(
        action="discard" if discarded else "accept",
        stage="end",
        reply=QUEUED.format(queue_id),
        queue_id=queue_id,
        edits=tuple(queued.edits),
        queued=before,
        message=queued.content(),
        accepted_recipients=() if discarded else tuple(milter.recipients),
        replies=replies,
    )


def _recipients(
    milter: mta.MilterSession, envelope: Envelope, queue_id: str
) -> tuple[str, ...]:
    replies: list[str] = []
    accepted: list[str] = []
    extra = [r for r in envelope.rejected if r not in envelope.recipients]
    for recipient in (*extra, *envelope.recipients):
        refused = recipient in envelope.rejected
        text = f"<{recipient}>: Recipient address rejected: User unknown in local recipient table"
        milter.values |= {
            "{rcpt_addr}": text if refused else recipient,
            "{rcpt_host}": "5.1.1" if refused else recipient.rpartition("@")[2],
            "{rcpt_mailer}": "error" if refused else "local",
        }
        reply = milter.rcpt((_path(recipient, envelope.local),), rejected=refused)
        if refused:
            # A milter that accepts the recipient does not overrule the MTA.
            replies.append(reply or f"550 5.1.1 {text}")
        elif reply is None:
            accepted.append(recipient)
            replies.append("250 2.1.5 Ok")
            # smtpd(8) opens the queue file, and so has a queue id, at the first good recipient.
            milter.values["i"] = queue_id
        elif reply == mta.DISCARD:
            accepted.append(recipient)
            replies.append("250 2.1.5 Ok")
        else:
            replies.append(reply)
    milter.recipients = accepted
    return tuple(replies)


def _refusal(
    stage: str, reply: str, queue_id: str, replies: tuple[str, ...] = ()
) -> Result:
    if reply == mta.DISCARD:
        return Result("discard", stage, QUEUED.format(queue_id), queue_id, replies=replies)
    action = "tempfail" if reply.startswith("4") else "reject"
    return Result(action, stage, reply, queue_id, replies=replies)


def _queue_id() -> str:
    """Ten hexadecimal digits, like a short Postfix queue id."""
    return secrets.token_hex(5).upper()


def _path(address: str, local: bool) -> str:
    return address if local or address.startswith("<") else f"<{address}>"


def _peer(envelope: Envelope) -> mta.Peer:
    if envelope.local:
        return mta.Peer("localhost", "4", 0, "127.0.0.1")
    if envelope.client is None:
        return mta.Peer("localhost", "U")
    address = _client_address(envelope.client)
    name = envelope.client_name or f"[{address}]"
    family = "6" if isinstance(address, IPv6Address) else "4"
    return mta.Peer(name, family, envelope.port, str(address))


def _client_address(text: str) -> object:
    address = ip_address(text)
    # smtpd_peer.c turns IPv4-mapped IPv6 into IPv4 before anybody sees it.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _connection_macros(envelope: Envelope) -> dict[str, str | bytes]:
    peer = _peer(envelope)
    name = envelope.reverse_name or envelope.client_name or "unknown"
    address = f"IPv6:{peer.address}" if peer.family == "6" else peer.address or "unknown"
    if envelope.local or envelope.client is None:
        name = "localhost"
    values: dict[str, str | bytes] = {
        "j": envelope.mta,
        "v": envelope.version,
        "{daemon_name}": envelope.daemon_name or envelope.mta,
        "{daemon_addr}": "127.0.0.1" if ":" not in peer.address else "::1",
        "_": f"{name} [{peer.address or 'unknown'}]",
        "{client_addr}": address,
    }
    if name not in (envelope.client_name, "unknown", "localhost"):
        values["_"] = f"{values['_']!s} (may be forged)"
    if envelope.tls:
        values |= {"{tls_version}": envelope.tls, "{cipher}": "TLS_AES_256_GCM_SHA384"}
        values["{cipher_bits}"] = "256"
    return _overridden(values, envelope)


def _mail_macros(milter: mta.MilterSession, envelope: Envelope, queue_id: str) -> None:
    values = _connection_macros(envelope)
    sender = envelope.sender.strip("<>")
    values |= {
        "{mail_addr}": sender,
        "{mail_host}": sender.rpartition("@")[2],
        "{mail_mailer}": "smtp" if sender else "local",
    }
    if envelope.login is not None:
        values |= {"{auth_type}": "PLAIN", "{auth_authen}": envelope.login}
    if envelope.local:
        # pickup(8) hands over to cleanup(8), which has a queue id from the start.
        values["i"] = queue_id
    milter.values = _overridden(values, envelope)
    known = {name for names in mta.DEFAULT_MACROS.values() for name in names}
    milter.extra = tuple(name for name in envelope.macros if name not in known)


def _overridden(
    values: dict[str, str | bytes], envelope: Envelope
) -> dict[str, str | bytes]:
    for name, value in envelope.macros.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return values


def own_received(envelope: Envelope, queue_id: str, recipients: tuple[str, ...]) -> Field:
    """The trace field smtpd(8) prepends (smtpd.c, "Received:"), with folding as LF and tab."""
    when = datetime.now(UTC) if envelope.at is None else datetime.fromtimestamp(envelope.at, UTC)
    date = format_datetime(when)
    by = f"by {envelope.mta} ({envelope.version.partition(' ')[0]})"
    if envelope.local:
        # pickup(8) names the user, not a client.
        by = by.removesuffix(")") + ", from userid 1000)"
        return Field(b"Received", f" {by}\n\tid {queue_id}; {date}".encode())
    peer = _peer(envelope)
    name = envelope.client_name or ("localhost" if envelope.client is None else "unknown")
    address = f"IPv6:{peer.address}" if peer.family == "6" else peer.address or "unknown"
    helo = envelope.helo if envelope.helo is not None else "unknown"
    helo_text = helo.decode("utf-8", "surrogateescape") if isinstance(helo, bytes) else helo
    tls = ""
    if envelope.tls:
        tls = (
            f"\n\t(using {envelope.tls} with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))"
            "\n\t(No client certificate requested)"
        )
    protocol = "ESMTP" + ("S" if envelope.tls else "") + ("A" if envelope.login else "")
    if "SMTPUTF8" in envelope.sender_args:
        protocol = "UTF8" + protocol.removeprefix("E")
    single = f"\n\tfor <{recipients[0].strip('<>')}>; " if len(recipients) == 1 else ";\n\t"
    text = (
        f" from {helo_text} ({name} [{address}]){tls}\n\t{by} with {protocol} id {queue_id}"
        f"{single}{date}"
    )
    return Field(b"Received", text.encode("utf-8", "surrogateescape"))
