"""Play Postfix 3.7's milter client: one SMTP session's conversation with one milter.

How it works: each SMTP event becomes the macros of that stage, then the command, then (where the
milter did not waive it) an answer. What the milter negotiated is honoured as milter8.c does it:
steps it does not want are not sent, steps without reply are not waited for, SKIP ends a kind of
event, ACCEPT ends the message, and connection-level refusals hold for the session. An answer is
None (go on) or an SMTP reply; DISCARD is the word `discard`.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from miltertest import constants as c

from gatepost_milter.mta.queue_file import QueueFile
from gatepost_milter.mta.wire import CHUNK_BYTES, ProtocolError, Wire, octets, pack, unpack
from gatepost_milter.protocol.peer import Peer

# What Postfix 3.7 offers (MILTER8 my_actions, my_events with milter_protocol = 6).
OFFERED_ACTIONS = 0x1FF
OFFERED_STEPS = 0x1FFFFF

DISCARD = "discard"
REJECTED = "550 5.7.1 Command rejected"
UNAVAILABLE = "451 4.7.1 Service unavailable - try again later"

# milter_*_macros of Postfix 3.7, in order.
DEFAULT_MACROS: dict[int, tuple[str, ...]] = {
    c.SMFIM_CONNECT: ("j", "{daemon_name}", "{daemon_addr}", "v", "_"),
    c.SMFIM_HELO: ("{tls_version}", "{cipher}", "{cipher_bits}", "{cert_subject}", "{cert_issuer}"),
    c.SMFIM_ENVFROM: (
        "i", "{auth_type}", "{auth_authen}", "{auth_author}",
        "{mail_addr}", "{mail_host}", "{mail_mailer}",
    ),
    c.SMFIM_ENVRCPT: ("i", "{rcpt_addr}", "{rcpt_host}", "{rcpt_mailer}"),
    c.SMFIM_DATA: ("i",),
    c.SMFIM_EOH: ("i",),
    c.SMFIM_EOM: ("i",),
}  # fmt: skip

FINAL = frozenset((c.SMFIR_CONTINUE, c.SMFIR_ACCEPT, c.SMFIR_DISCARD, c.SMFIR_REJECT,
                   c.SMFIR_TEMPFAIL, c.SMFIR_REPLYCODE, c.SMFIR_SHUTDOWN))  # fmt: skip


@dataclass(slots=True)
class MilterSession:
    """One milter connection. `values` holds every macro's value; each stage sends its own ones.

    `extra` names macros sent at MAIL beyond the configured ones (as milter_mail_macros would).
    """

    wire: Wire
    values: dict[str, str | bytes] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    actions: int = 0
    steps: int = 0
    macros: dict[int, tuple[str, ...]] = field(default_factory=lambda: dict(DEFAULT_MACROS))
    recipients: list[str] = field(default_factory=list)  # added or left after the milter's edits
    _skip: str = ""
    _accepted_message: bool = False
    _accepted_connection: bool = False
    _refused: str | None = None  # a reply that holds for the rest of the session

    def negotiate(
        self, actions: int = OFFERED_ACTIONS, steps: int = OFFERED_STEPS, version: int = 6
    ) -> None:
        """SMFIC_OPTNEG. Raises ProtocolError where the milter wants what was not offered."""
        self.wire.send(pack(c.SMFIC_OPTNEG, version=version, actions=actions, protocol=steps))
        command, body = self.wire.receive()
        if command != c.SMFIC_OPTNEG or len(body) < 12:
            raise ProtocolError(f"milter did not negotiate: answer {command!r}")
        got_version, self.actions, self.steps = struct.unpack_from("!LLL", body)
        if got_version > version or self.actions & ~actions or self.steps & ~steps:
            raise ProtocolError(
                f"milter wants more than was offered: version {got_version}, "
                f"actions {self.actions:#x}, steps {self.steps:#x}"
            )
        self._read_macro_lists(body[12:])

    def _read_macro_lists(self, rest: bytes) -> None:
        """SMFIF_SETSYMLIST: where the milter sends any list, stages without one get no macros."""
        if not rest:
            return
        self.macros = {stage: () for stage in DEFAULT_MACROS}
        while len(rest) > 4:
            (stage,) = struct.unpack_from("!L", rest)
            names, _, rest = rest[4:].partition(b"\0")
            self.macros[stage] = tuple(
                n.decode("ascii", "replace") for n in names.replace(b",", b" ").split()
            )

    def connect(self, peer: Peer) -> str | None:
        """SMFIC_CONNECT."""
        packet = octets(peer.name) + b"\0" + peer.family.encode()
        if peer.family != c.SMFIA_UNKNOWN:
            packet += struct.pack("!H", peer.port) + octets(peer.address) + b"\0"
        return self._event(
            c.SMFIC_CONNECT, c.SMFIP_NOCONNECT, c.SMFIP_NR_CONN, c.SMFIM_CONNECT,
            struct.pack("!Lc", len(packet) + 1, b"C") + packet,
        )  # fmt: skip

    def helo(self, name: str | bytes) -> str | None:
        """SMFIC_HELO."""
        return self._event(
            c.SMFIC_HELO, c.SMFIP_NOHELO, c.SMFIP_NR_HELO, c.SMFIM_HELO,
            pack(c.SMFIC_HELO, helo=name),
        )  # fmt: skip

    def mail(self, args: Sequence[str | bytes]) -> str | None:
        """SMFIC_MAIL: the path as the client wrote it, then ESMTP parameters."""
        self._accepted_message = False
        self.recipients = []
        return self._event(
            c.SMFIC_MAIL, c.SMFIP_NOMAIL, c.SMFIP_NR_MAIL, c.SMFIM_ENVFROM,
            pack(c.SMFIC_MAIL, args=args), self.extra,
        )  # fmt: skip

    def rcpt(self, args: Sequence[str | bytes], rejected: bool = False) -> str | None:
        """SMFIC_RCPT. A recipient that the MTA refuses is sent only with SMFIP_RCPT_REJ."""
        if rejected and not self.steps & c.SMFIP_RCPT_REJ:
            return None
        return self._event(
            c.SMFIC_RCPT, c.SMFIP_NORCPT, c.SMFIP_NR_RCPT, c.SMFIM_ENVRCPT,
            pack(c.SMFIC_RCPT, args=args),
        )  # fmt: skip

    def data(self) -> str | None:
        """SMFIC_DATA."""
        return self._event(
            c.SMFIC_DATA, c.SMFIP_NODATA, c.SMFIP_NR_DATA, c.SMFIM_DATA, pack(c.SMFIC_DATA)
        )

    def message(self, queued: QueueFile) -> str | None:
        """Headers, body and end of message; edits are carried out on `queued` as they come."""
        if self._over():
            return self._refused
        answer = self._headers(queued) or self._content(queued)
        if answer is None and not self._over():
            self._send_macros(c.SMFIC_BODYEOB, c.SMFIM_EOM, ())
            self.wire.send(pack(c.SMFIC_BODYEOB))
            answer = self._answer(c.SMFIC_BODYEOB, queued)
        self._accepted_message = False
        return answer

    def _headers(self, queued: QueueFile) -> str | None:
        keep_space = bool(self.steps & c.SMFIP_HDR_LEADSPC)
        for entry in queued.visible():
            value = entry.value
            # As Sendmail: without LEADSPC one space (not a tab) after the colon is removed.
            if not keep_space and value.startswith(b" "):
                value = value[1:]
            answer = self._event(
                c.SMFIC_HEADER, c.SMFIP_NOHDRS, c.SMFIP_NR_HDR, c.SMFIM_EOH,
                pack(c.SMFIC_HEADER, name=entry.name, value=value),
            )  # fmt: skip
            if answer is not None or self._over():
                return answer
        return self._event(
            c.SMFIC_EOH, c.SMFIP_NOEOH, c.SMFIP_NR_EOH, c.SMFIM_EOH, pack(c.SMFIC_EOH)
        )

    def _content(self, queued: QueueFile) -> str | None:
        if self.steps & c.SMFIP_NOBODY:
            return None
        body = memoryview(queued.body)
        for start in range(0, len(body), CHUNK_BYTES):
            chunk = body[start : start + CHUNK_BYTES]
            packet = struct.pack("!Lc", len(chunk) + 1, b"B") + chunk
            answer = self._event(c.SMFIC_BODY, c.SMFIP_NOBODY, c.SMFIP_NR_BODY, c.SMFIM_EOM, packet)
            if answer is not None or self._over() or self._skip:
                return answer
        return None

    def abort(self) -> None:
        """SMFIC_ABORT: the transaction is over, the connection stays."""
        self._accepted_message, self._skip = False, ""
        if not self._accepted_connection and self._refused is None:
            self.wire.send(pack(c.SMFIC_ABORT))
            self.wire.flush()

    def quit(self) -> None:
        """SMFIC_QUIT and close; a milter that has gone already is no error."""
        try:
            self.wire.send(pack(c.SMFIC_QUIT))
            self.wire.flush()
        except ProtocolError:
            pass
        self.wire.close()

    def _over(self) -> bool:
        return self._accepted_message or self._accepted_connection or self._refused is not None

    def _event(
        self, command: str, skip_flag: int, noreply_flag: int, stage: int, packet: bytes,
        extra: tuple[str, ...] = (),
    ) -> str | None:  # fmt: skip
        if self._over():
            return self._refused
        if self._skip == command:
            return None
        self._skip = ""
        # Macros are sent even for an event that the milter does not want (milter8_event).
        self._send_macros(command, stage, extra)
        if self.steps & skip_flag:
            return None
        self.wire.send(packet)
        if self.steps & noreply_flag:
            return None
        return self._answer(command, None)

    def _send_macros(self, command: str, stage: int, extra: tuple[str, ...]) -> None:
        pairs: list[str | bytes] = []
        for name in (*self.macros.get(stage, ()), *extra):
            value = self.values.get(name)
            if value is not None:
                pairs += (name, value)
        self.wire.send(pack(c.SMFIC_MACRO, cmdcode=command, nameval=pairs))

    def _answer(self, event: str, queued: QueueFile | None) -> str | None:
        """Edits, if any, then the verdict on `event`."""
        while True:
            command, body = self.wire.receive()
            if command in FINAL:
                return self._verdict(event, command, body)
            if command == c.SMFIR_SKIP:
                self._skip = event
                return None
            if command == c.SMFIR_QUARANTINE:
                continue  # Postfix puts the message on hold; the client is not told
            if queued is None:
                raise ProtocolError(f"milter answer {command!r} out of place at {event!r}")
            self._edit(command, body, queued)

    def _verdict(self, event: str, command: str, body: bytes) -> str | None:
        connection = event in (c.SMFIC_CONNECT, c.SMFIC_HELO)
        if command == c.SMFIR_CONTINUE:
            return None
        if command == c.SMFIR_ACCEPT:
            if connection:
                self._accepted_connection = True
            # At RCPT too: no more events for this message.
            self._accepted_message = True
            return None
        if command == c.SMFIR_DISCARD:
            self._accepted_message = not connection
            return None if connection else DISCARD
        if command == c.SMFIR_REPLYCODE:
            reply = _reply(body)
        elif command == c.SMFIR_REJECT:
            reply = REJECTED
        else:
            reply = UNAVAILABLE
        if connection or command == c.SMFIR_SHUTDOWN:
            self._refused = reply
        return reply

    def _edit(self, command: str, body: bytes, queued: QueueFile) -> None:
        got = unpack(command, body)
        needed = _NEEDS.get(command)
        if needed is None or not self.actions & needed:
            raise ProtocolError(f"milter asked for {command!r} without having negotiated it")
        # MILTER8_HDR_SPACE: with LEADSPC the milter writes its own.
        space = b"" if self.steps & c.SMFIP_HDR_LEADSPC else b" "
        if command == c.SMFIR_CHGHEADER:
            value = space + got["value"] if got["value"] else b""
            queued.change(got["name"], got["index"], value)
        elif command == c.SMFIR_INSHEADER:
            queued.insert(got["index"], got["name"], space + got["value"])
        elif command == c.SMFIR_ADDHEADER:
            queued.append(got["name"], space + got["value"])
        elif command == c.SMFIR_DELRCPT:
            gone = _bare(got["rcpt"])
            self.recipients = [r for r in self.recipients if _bare(octets(r)) != gone]
        elif command in (c.SMFIR_ADDRCPT, c.SMFIR_ADDRCPT_PAR):
            self.recipients.append(_bare(got["rcpt"]).decode("utf-8", "surrogateescape"))
        elif command == c.SMFIR_REPLBODY:
            raise ProtocolError("milter replaced the body: gatepost never does")


_NEEDS = {
    c.SMFIR_ADDHEADER: c.SMFIF_ADDHDRS,
    c.SMFIR_INSHEADER: c.SMFIF_ADDHDRS,
    c.SMFIR_CHGHEADER: c.SMFIF_CHGHDRS,
    c.SMFIR_ADDRCPT: c.SMFIF_ADDRCPT,
    c.SMFIR_ADDRCPT_PAR: c.SMFIF_ADDRCPT_PAR,
    c.SMFIR_DELRCPT: c.SMFIF_DELRCPT,
    c.SMFIR_CHGFROM: c.SMFIF_CHGFROM,
    c.SMFIR_REPLBODY: c.SMFIF_CHGBODY,
}


def _reply(body: bytes) -> str:
    """The reply of SMFIR_REPLYCODE as Postfix sends it: `%%` becomes `%`, a single `%` is removed.
    Raises ProtocolError where it is not a 4xx or 5xx reply."""
    text = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
    if not (text[:1] in ("4", "5") and text[:3].isdigit()):
        raise ProtocolError(f"milter gave a malformed reply: {text[:80]!r}")
    out, at = [], 0
    while at < len(text):
        if text[at] == "%":
            at += 1
        out.append(text[at : at + 1])
        at += 1
    return "".join(out)


def _bare(path: bytes) -> bytes:
    return path[1:-1] if path.startswith(b"<") and path.endswith(b">") else path
