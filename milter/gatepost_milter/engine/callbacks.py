"""Hand libmilter its callbacks, and negotiate with each MTA what they need.

The low-level callbacks are registered directly: each finds its `Session` in the context.
"""

from typing import Any

import milter

from gatepost_milter.engine.session import EDITING, WANTED_ACTIONS, Session
from gatepost_milter.engine.shared import Worker

CONTINUE = milter.CONTINUE


def negotiate(ctx: Any, options: list[int]) -> int:
    """Ask the MTA for what this configuration needs and take what it offers of it."""
    session = Session(options[0], options[1])
    ctx.setpriv(session)
    if not session.leading_space:
        Worker.gate.tell_once(
            "error", "mta-without-leading-space",
            hint="c=simple signatures will fail and submissions get 451: use Postfix 3.0 or later",
        )  # fmt: skip
    options[0] = session.actions
    options[1] = session.steps
    options[2] = options[3] = 0
    return CONTINUE


def connect(ctx: Any, hostname: str, family: int, hostaddr: object) -> int:
    """The first callback of an MTA that does not negotiate."""
    session = ctx.getpriv()
    if session is None:
        session = Session(EDITING, 0)
        ctx.setpriv(session)
    return int(session.connect(ctx, hostname, family, hostaddr))


def close(ctx: Any) -> int:
    """The last callback, also for a connection that never said anything."""
    session = ctx.getpriv()
    return CONTINUE if session is None else int(session.close(ctx))


def register(name: str = "gatepost") -> None:
    """Give libmilter the callbacks. Once in a process, before the socket is opened."""
    milter.set_flags(WANTED_ACTIONS)
    milter.set_connect_callback(connect)
    milter.set_helo_callback(lambda ctx, *a: ctx.getpriv().helo(ctx, *a))
    milter.set_envfrom_callback(lambda ctx, *a: ctx.getpriv().mail(ctx, *a))
    milter.set_envrcpt_callback(lambda ctx, *a: ctx.getpriv().rcpt(ctx, *a))
    milter.set_header_callback(lambda ctx, name, value: ctx.getpriv().header(ctx, name, value))
    milter.set_eoh_callback(lambda ctx: ctx.getpriv().eoh(ctx))
    milter.set_body_callback(lambda ctx, chunk: ctx.getpriv().body(ctx, chunk))
    milter.set_eom_callback(lambda ctx: ctx.getpriv().eom(ctx))
    milter.set_abort_callback(lambda ctx: ctx.getpriv().abort(ctx))
    milter.set_close_callback(close)
    # Text of libmilter's own answer to an exception that pymilter raises; see `Session`.
    milter.register(name, negotiate=negotiate)
