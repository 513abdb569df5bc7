"""One MTA connection of the native engine, without a socket: octets in, octets out.

How it works. `protocol` makes packets of octets and says in which order they may come; here they
drive a `Session`, and its answers become packets. `feed` does nothing that may block
(`Session.may_wait`): it stops before that command, and `blocked` is True. The caller of `feed` then
calls `work` in a thread of its own and `feed(b"")` afterwards; until then it must not read more
from this connection.

Differences from libmilter, all of them more lenient: a packet may have 1 MiB (64 kB there), text
of the client that is not UTF-8 is taken as it is, SKIP is used where the MTA offers it, and the
next SMTP client on the same connection (SMFIC_QUIT_NC) keeps the negotiated options.
"""

from collections.abc import Iterator

from gatepost_milter.filter.answers import Answer, Deliver, Refuse, Skip
from gatepost_milter.filter.context import UNDECODABLE, Context
from gatepost_milter.filter.session import Session
from gatepost_milter.protocol import order
from gatepost_milter.protocol.constants import (
    SMFIC_ABORT,
    SMFIC_BODY,
    SMFIC_BODYEOB,
    SMFIC_CONNECT,
    SMFIC_DATA,
    SMFIC_EOH,
    SMFIC_HEADER,
    SMFIC_HELO,
    SMFIC_MACRO,
    SMFIC_MAIL,
    SMFIC_OPTNEG,
    SMFIC_QUIT,
    SMFIC_QUIT_NC,
    SMFIC_RCPT,
    SMFIP_NR_BODY,
    SMFIP_NR_CONN,
    SMFIP_NR_EOH,
    SMFIP_NR_HDR,
    SMFIP_NR_HELO,
    SMFIP_NR_MAIL,
    SMFIP_NR_RCPT,
    SMFIR_CONTINUE,
    SMFIR_DISCARD,
    SMFIR_PROGRESS,
    SMFIR_REJECT,
    SMFIR_SKIP,
    SMFIR_TEMPFAIL,
)
from gatepost_milter.protocol.negotiation import UNASKED, Offer
from gatepost_milter.protocol.packets import (
    BODY_PIECE,
    Decoder,
    Packet,
    ProtocolError,
    agreement,
    change_header,
    delete_recipient,
    insert_header,
    packet,
    read_offer,
    read_peer,
    reply,
    strings,
)
from gatepost_milter.protocol.text import field_value, reply_text

CONTINUE, SKIP = packet(SMFIR_CONTINUE), packet(SMFIR_SKIP)
DISCARD = packet(SMFIR_DISCARD)
REJECT, TEMPFAIL = packet(SMFIR_REJECT), packet(SMFIR_TEMPFAIL)
PROGRESS = packet(SMFIR_PROGRESS)
# Macros come for these commands, in this order. When a command comes again, the macros of all later
# stages are forgotten: they belonged to the previous transaction.
STAGES = {
    command: index
    for index, command in enumerate(
        (SMFIC_CONNECT, SMFIC_HELO, SMFIC_MAIL, SMFIC_RCPT, SMFIC_DATA, SMFIC_EOH,
         SMFIC_BODYEOB)
    )
}  # fmt: skip
FORGET_AFTER = {
    command: STAGES[command] + 1
    for command in (SMFIC_CONNECT, SMFIC_HELO, SMFIC_MAIL, SMFIC_RCPT)
}  # fmt: skip
WITHOUT_PAYLOAD = {SMFIC_ABORT, SMFIC_BODYEOB, SMFIC_EOH, SMFIC_QUIT, SMFIC_QUIT_NC,
                   SMFIC_DATA}  # fmt: skip
# Commands that end a transaction without a message, or a message.
ENDS = {SMFIC_MAIL, SMFIC_ABORT, SMFIC_QUIT_NC, SMFIC_BODYEOB}


class Dialogue:
    """One connection. `over`: nothing more will be sent; `blocked`: see the module."""

    __slots__ = ("_agreed", "_allowed", "_context", "_decoder", "_macros", "_newest", "_out",
                 "_packets", "_session", "_state", "_steps", "_waiting", "over", "why")  # fmt: skip

    def __init__(self, context: Context) -> None:
        self._context = context
        self._decoder = Decoder()
        self._packets: Iterator[Packet] = iter(())
        self._session: Session | None = None
        self._agreed: Offer = UNASKED
        self._steps = 0  # the steps that the MTA does not wait for an answer to
        self._allowed = order.allowed(0)
        self._state = order.INIT
        self._macros: list[dict[bytes, bytes]] = [_NONE] * len(STAGES)
        self._newest: list[dict[bytes, bytes]] | None = None  # those with macros, newest first
        self._out: list[bytes] = []
        self._waiting: tuple[int, bytes] | None = None  # the command that may block
        self.over = False
        self.why: str | None = None  # the MTA broke the protocol, and how

    @property
    def blocked(self) -> bool:
        """True where `work` has to be called before anything more is fed."""
        return self._waiting is not None

    def feed(self, data: bytes) -> bytes:
        """Take the octets that were read; returns the octets to write (may be empty).

        Octets that break the protocol raise nothing: `over` and `why` are set.
        """
        try:
            if data:
                self._packets = self._decoder.feed(data)
            for command, payload in self._packets:
                if isinstance(payload, list):
                    self._header(payload)
                elif command == SMFIC_MACRO:
                    self._keep_macros(payload)
                elif command == SMFIC_BODY or command == BODY_PIECE:  # noqa: PLR1714
                    self._body(payload, command == SMFIC_BODY)
                else:
                    session = self._session
                    if command in ENDS and session is not None and session.may_wait():
                        self._waiting = (command, payload)
                        break
                    self._command(command, payload)
                    if self.over:
                        break
        except ProtocolError as error:
            self.over, self.why = True, str(error)
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    def work(self) -> None:
        """Do what may block. Its answer comes with the next `feed`."""
        waiting = self._waiting
        if waiting is not None:
            try:
                self._command(*waiting)
            except ProtocolError as error:
                self.over, self.why = True, str(error)
            finally:
                self._waiting = None

    def close(self) -> None:
        """The connection is over, whoever ended it. May block where `Session.may_wait`."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    @property
    def closing_may_wait(self) -> bool:
        """True where `close` may block."""
        return self._session is not None and self._session.may_wait()

    def macro(self, name: str) -> str | None:
        """The newest value of a macro, by its name as Postfix writes it."""
        stages = self._newest
        if stages is None:
            stages = self._newest = [stage for stage in reversed(self._macros) if stage]
        for stage in stages:
            for spelling in _SPELLINGS.get(name) or _spellings(name):
                if spelling in stage:
                    try:
                        return stage[spelling].decode() or None
                    except UnicodeDecodeError:
                        return UNDECODABLE
        return None

    def _may_follow(self, command: int) -> Session | None:
        """The session that gets `command`; None where it came out of order and is ignored.

        Raises ProtocolError for a command that does not exist.
        """
        state = order.LEADS_TO.get(command)
        if state is None:
            raise ProtocolError(f"command {command:#x}")
        if state in self._allowed[self._state] or self._anew(state):
            self._state = state
            return self._session
        return None

    def _anew(self, state: int) -> bool:
        """A command came out of order: the transaction is over. True where it may come next."""
        if order.in_message(self._state) and self._session is not None:
            self._session.abort()
        self._state = order.HELO
        return state in self._allowed[order.HELO]

    def _command(self, command: int, payload: bytes) -> None:
        if not payload and command not in WITHOUT_PAYLOAD:
            raise ProtocolError(f"command {command:#x} without its payload")
        if command == SMFIC_QUIT:
            self.over = True
            return
        if self._session is None:
            if command != SMFIC_OPTNEG:
                raise ProtocolError("a command before the negotiation")
            self._negotiate(payload)
            return
        session = self._may_follow(command)
        if session is None:
            return
        if command in FORGET_AFTER:
            # Their macros belonged to the previous transaction.
            first = FORGET_AFTER[command]
            self._macros[first:] = _NONE_FROM[first]
            self._newest = None
        if command == SMFIC_MAIL:
            sender, *params = strings(payload)
            session.mail(sender, tuple(params), self.macro)
            self._quiet(SMFIP_NR_MAIL)
        elif command == SMFIC_RCPT:
            answer = session.rcpt(strings(payload)[0], self.macro)
            if isinstance(answer, Refuse):
                self._out += self._words(session, answer, "rcpt")
            else:
                self._quiet(SMFIP_NR_RCPT)
        elif command == SMFIC_BODYEOB:
            if payload:
                session.body(payload)
            self._end(session)
        elif command == SMFIC_CONNECT:
            session.connect(read_peer(payload), self.macro)
            self._quiet(SMFIP_NR_CONN)
        elif command == SMFIC_HELO:
            session.helo(strings(payload)[0].decode("utf-8", "replace"))
            self._quiet(SMFIP_NR_HELO)
        elif command == SMFIC_ABORT:
            session.abort()
        elif command == SMFIC_QUIT_NC:
            session.close()
            self._macros, self._newest = [*_NONE_FROM[0]], None
            self._session = Session(self._context, self._agreed)
        elif command == SMFIC_EOH:
            self._quiet(SMFIP_NR_EOH)
        else:
            self._out.append(CONTINUE)  # DATA, and commands that the MTA does not know

    def _quiet(self, step: int) -> None:
        if not self._steps & step:
            self._out.append(CONTINUE)

    def _negotiate(self, payload: bytes) -> None:
        version, offered = read_offer(payload)
        self._agreed = agreed = self._context.agree(offered)
        self._steps = agreed.steps
        self._allowed = order.allowed(agreed.steps)
        self._state = order.OPTS
        self._session = Session(self._context, agreed)
        self._out.append(agreement(version, agreed))

    def _header(self, fields: list[tuple[bytes, bytes]]) -> None:
        if self._session is None:
            raise ProtocolError("a header before the negotiation")
        session = self._may_follow(SMFIC_HEADER)
        if session is None:
            return
        session.headers([(name.decode("utf-8", "surrogateescape"), v) for name, v in fields])
        if not self._steps & SMFIP_NR_HDR:
            self._out += [CONTINUE] * len(fields)

    def _body(self, chunk: bytes, whole: bool) -> None:
        if self._session is None:
            raise ProtocolError("a body before the negotiation")
        session = self._may_follow(SMFIC_BODY)
        if session is None:
            return
        answer = session.body(chunk)
        if whole and not self._steps & SMFIP_NR_BODY:
            skip = isinstance(answer, Skip) and self._agreed.skips_body
            self._out.append(SKIP if skip else CONTINUE)

    def _end(self, session: Session) -> None:
        answer = session.end(self.macro)
        out: list[bytes] = []
        try:
            out = _encoded(answer, session.leading_space)
        except Exception:
            settled = session.settle(carried_out=False)
        else:
            settled = session.settle()
        if settled is not answer:
            out = self._words(session, settled, "reply")
        self._out += out
        if isinstance(settled, Refuse) or (isinstance(settled, Deliver) and settled.discard):
            self._state = order.HELO

    def _words(self, session: Session, answer: Answer, stage: str) -> list[bytes]:
        """`answer` without edits as packets; without a reply text where ours cannot be sent."""
        try:
            return _encoded(answer)
        except Exception:
            session.failed(stage)
        if isinstance(answer, Refuse):
            return [TEMPFAIL if answer.temporary else REJECT]
        return [CONTINUE]

    def _keep_macros(self, payload: bytes) -> None:
        if not payload:
            raise ProtocolError(f"command {SMFIC_MACRO:#x} without its payload")
        index = STAGES.get(payload[0])
        words = payload[1:].split(b"\0")
        words.pop()
        if index is not None and words:
            names = words[::2]
            found = dict(zip(names, words[1::2], strict=False))
            if len(found) != len(words) >> 1:
                # Where a name comes twice, the first value counts.
                found = dict(reversed(list(zip(names, words[1::2], strict=False))))
            self._macros[index] = found
            self._newest = None


# The macros of a stage that has sent none; a dictionary that nobody writes into.
_NONE: dict[bytes, bytes] = {}
_NONE_FROM = [[_NONE] * (len(STAGES) - first) for first in range(len(STAGES) + 1)]


# The names that were asked for; all are our own.
_SPELLINGS: dict[str, tuple[bytes, ...]] = {}


def _spellings(name: str) -> tuple[bytes, ...]:
    """`name` as MTAs may write it: one letter with or without braces."""
    raw = name.encode()
    bare = raw.strip(b"{}")
    found = _SPELLINGS[name] = (bare, b"{" + bare + b"}") if len(bare) == 1 else (raw,)
    return found


def _encoded(answer: Answer, leading_space: bool = True) -> list[bytes]:
    """`answer` as packets. Raises UnicodeError for text that cannot be sent."""
    if isinstance(answer, Refuse):
        words = answer.reply
        # As libmilter does: a 5xx reply is not sent with TEMPFAIL, nor a 4xx reply with REJECT.
        if words is None or str(words.code)[0] != ("4" if answer.temporary else "5"):
            return [TEMPFAIL if answer.temporary else REJECT]
        return [reply(f"{words.code} {words.status} {reply_text(words.text)}")]
    if not isinstance(answer, Deliver):
        return [CONTINUE]
    out = []
    for edit in answer.edits:
        if edit.op == "insert":
            value = field_value(edit.value or "", leading_space)
            out.append(insert_header(edit.index, edit.name, value))
        elif edit.op == "change":
            value = field_value(edit.value or "", leading_space)
            out.append(change_header(edit.index, edit.name, value))
        else:
            out.append(change_header(edit.index, edit.name, ""))
    out += [delete_recipient(f"<{recipient}>") for recipient in answer.drop_recipients]
    out.append(DISCARD if answer.discard else CONTINUE)
    return out
