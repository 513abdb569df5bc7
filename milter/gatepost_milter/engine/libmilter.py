"""The session on libmilter: its callbacks in, the session's answers out, through pymilter.

Nothing is decided here. Where pymilter cannot carry out an answer, the session learns it
(`settle(False)`). Where pymilter fails before it calls us (a HELO that is not UTF-8), our
callback is not called at all, and the session does not learn of that event.
"""

from functools import partial
from socket import AF_INET, AF_INET6, AF_UNIX
from typing import Any

import milter

from gatepost_milter.engine.own_stack import on_own_stack
from gatepost_milter.filter.answers import Answer, Deliver, Refuse, Skip
from gatepost_milter.filter.context import UNDECODABLE, Context
from gatepost_milter.filter.session import Session
from gatepost_milter.protocol.constants import (
    SMFIP_NR_BODY,
    SMFIP_NR_CONN,
    SMFIP_NR_EOH,
    SMFIP_NR_HDR,
    SMFIP_NR_HELO,
    SMFIP_NR_MAIL,
    SMFIP_NR_RCPT,
)
from gatepost_milter.protocol.negotiation import UNASKED, WANTED_ACTIONS, Offer
from gatepost_milter.protocol.peer import INET, INET6, UNIX, UNKNOWN, Peer
from gatepost_milter.protocol.text import field_value, reply_text

CONTINUE, NOREPLY, SKIP = milter.CONTINUE, milter.NOREPLY, milter.SKIP
# libmilter's callbacks belong to the process, so what they need does as well. Set by `serve`,
# after the fork and before the first connection is taken.
_context: list[Context] = []


class Link:
    """One MTA connection, kept as libmilter's private data: its session, and the return values
    of callbacks that have no answer to give (NOREPLY where the MTA agreed not to wait)."""

    __slots__ = ("after_body", "after_header", "field", "macros", "session", "steps")

    def __init__(self, ctx: Any, context: Context, agreed: Offer) -> None:
        self.session = Session(context, agreed)
        self.field = self.session.header
        self.macros = partial(macro, ctx)
        self.steps = agreed.steps
        self.after_header = int(self.quiet(SMFIP_NR_HDR))
        # SKIP only where the MTA offered it: then it waits for an answer to each chunk anyway.
        self.after_body = SKIP if agreed.skips_body else self.quiet(SMFIP_NR_BODY)

    def quiet(self, step: int) -> int:
        """What a callback returns that has no answer to give at `step` (an SMFIP_NR_* bit)."""
        return NOREPLY if self.steps & step else CONTINUE


def macro(ctx: Any, name: str) -> str | None:
    """A macro's value, None where the MTA sent none. 8-bit values make pymilter raise."""
    try:
        value = ctx.getsymval(name)
    except UnicodeDecodeError:
        return UNDECODABLE
    return value or None


def peer_of(hostname: str, family: int, hostaddr: object) -> Peer:
    """The client from what the connect callback gets: a tuple, a path, or None."""
    if family in (AF_INET, AF_INET6) and isinstance(hostaddr, tuple) and len(hostaddr) >= 2:
        kind = INET if family == AF_INET else INET6
        return Peer(hostname, kind, int(hostaddr[1]), str(hostaddr[0]))
    if family == AF_UNIX:
        return Peer(hostname, UNIX, 0, hostaddr if isinstance(hostaddr, str) else "")
    return Peer(hostname, UNKNOWN)


def carry_out(ctx: Any, answer: Answer, leading_space: bool = True) -> int:
    """Do what `answer` says; the value is what the callback returns.

    Raises milter.error or ValueError where the MTA or pymilter refuses: nothing has been
    answered then.
    """
    if isinstance(answer, Refuse):
        if answer.reply is not None:
            reply = answer.reply
            ctx.setreply(str(reply.code), reply.status, reply_text(reply.text))
        return int(milter.TEMPFAIL if answer.temporary else milter.REJECT)
    if not isinstance(answer, Deliver):
        return int(CONTINUE)
    for edit in answer.edits:
        if edit.op == "insert":
            ctx.addheader(edit.name, field_value(edit.value or "", leading_space), edit.index)
        elif edit.op == "change":
            ctx.chgheader(edit.name, edit.index, field_value(edit.value or "", leading_space))
        else:
            # libmilter: an empty value deletes the field.
            ctx.chgheader(edit.name, edit.index, "")
    for recipient in answer.drop_recipients:
        ctx.delrcpt(f"<{recipient}>")
    return int(milter.DISCARD if answer.discard else CONTINUE)


def negotiate(ctx: Any, options: list[int]) -> int:
    """Take what this configuration needs from the MTA's offer.

    `options`: [actions (SMFIF_*), steps (SMFIP_*), 0, 0]; changed in place to what we want.
    """
    context = _context[0]
    agreed = context.agree(Offer(options[0], options[1]))
    ctx.setpriv(Link(ctx, context, agreed))
    options[0], options[1] = agreed.actions, agreed.steps
    options[2] = options[3] = 0
    return int(CONTINUE)


def connect(ctx: Any, hostname: str, family: int, hostaddr: object) -> int:
    """A new SMTP client. For an MTA that does not negotiate, this is the first callback."""
    link = ctx.getpriv()
    if link is None:
        link = Link(ctx, _context[0], UNASKED)
        ctx.setpriv(link)
    link.session.connect(peer_of(hostname, family, hostaddr), link.macros)
    return int(link.quiet(SMFIP_NR_CONN))


def helo(ctx: Any, name: str) -> int:
    """HELO or EHLO with the client's name."""
    link = ctx.getpriv()
    link.session.helo(name)
    return int(link.quiet(SMFIP_NR_HELO))


def envfrom(ctx: Any, sender: bytes, *params: bytes) -> int:
    """MAIL FROM: the path with its brackets, and the ESMTP parameters as sent (`SIZE=10`)."""
    link = ctx.getpriv()
    link.session.mail(sender, params, link.macros)
    return int(link.quiet(SMFIP_NR_MAIL))


def envrcpt(ctx: Any, recipient: bytes, *params: bytes) -> int:
    """RCPT TO: the path with its brackets. Where our reply cannot be sent, the MTA goes on."""
    link = ctx.getpriv()
    answer = link.session.rcpt(recipient, link.macros)
    if isinstance(answer, Refuse):
        try:
            return carry_out(ctx, answer)
        except Exception:
            link.session.failed("rcpt")
    return int(link.quiet(SMFIP_NR_RCPT))


def header(ctx: Any, name: str, value: bytes) -> int:
    """One header field; `value` still folded."""
    link: Link = ctx.getpriv()
    link.field(name, value)
    return link.after_header


def eoh(ctx: Any) -> int:
    """End of the header: nothing to do, because the first chunk of the body, or the end of the
    message, says the same. Called for an MTA that does not negotiate, and over TCP."""
    return int(ctx.getpriv().quiet(SMFIP_NR_EOH))


def body(ctx: Any, chunk: bytes) -> int:
    """A chunk of the body (libmilter: at most 65535 octets)."""
    link = ctx.getpriv()
    if isinstance(link.session.body(chunk), Skip):
        return int(link.after_body)
    return int(link.quiet(SMFIP_NR_BODY))


def eom(ctx: Any) -> int:
    """End of the message: decide, then carry the answer out.

    Where it cannot be carried out, the session gives a safe answer instead (`settle`).
    """
    link = ctx.getpriv()
    session: Session = link.session
    answer = session.end(link.macros)
    try:
        result = carry_out(ctx, answer, session.leading_space)
    except Exception:
        settled = session.settle(carried_out=False)
    else:
        settled = session.settle()
        if settled is answer:
            return result
    try:
        return carry_out(ctx, settled, session.leading_space)
    except Exception:
        session.failed("reply")
    if isinstance(settled, Refuse):
        return int(milter.TEMPFAIL if settled.temporary else milter.REJECT)
    return int(CONTINUE)


def abort(ctx: Any) -> int:
    """The transaction has ended without a message (RSET, QUIT, a lost connection)."""
    ctx.getpriv().session.abort()
    return int(CONTINUE)


def close(ctx: Any) -> int:
    """The last callback, also for a connection that never said anything."""
    link = ctx.getpriv()
    if link is not None:
        link.session.close()
        ctx.setpriv(None)
    return int(CONTINUE)


def register(name: str = "gatepost") -> None:
    """Give libmilter the callbacks. Once in a process, before the socket is opened."""
    wrap = on_own_stack()
    milter.set_flags(WANTED_ACTIONS)
    milter.set_connect_callback(wrap(connect))
    milter.set_helo_callback(wrap(helo))
    milter.set_envfrom_callback(wrap(envfrom))
    milter.set_envrcpt_callback(wrap(envrcpt))
    milter.set_header_callback(wrap(header))
    milter.set_eoh_callback(wrap(eoh))
    milter.set_body_callback(wrap(body))
    milter.set_eom_callback(wrap(eom))
    milter.set_abort_callback(wrap(abort))
    milter.set_close_callback(wrap(close))
    milter.register(name, negotiate=wrap(negotiate))


def attach(context: Context) -> None:
    """From now on connections are served with `context`."""
    _context[:] = [context]
