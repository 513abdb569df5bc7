"""What all sessions of one worker process share, and the safe way to read a macro."""

from typing import TYPE_CHECKING, Any

from gatepost_milter.filter.gate import Gate
from gatepost_policy.monitoring.slots import Slot

if TYPE_CHECKING:
    from gatepost_milter.engine.session import Session

UNDECODABLE = "\ufffd"


class Worker:
    """What all sessions of a process share. Set by `serve` after the fork."""

    gate: Gate
    open: "set[Session]" = set()  # sessions; set operations are atomic, a counter's += is not
    busy: "set[Session]" = set()  # sessions between MAIL and the end of the message
    last_end = 0.0  # monotonic seconds when a message was answered last
    slot: Slot | None = None  # this worker's figures for the metrics endpoint


def macro(ctx: Any, name: str) -> str | None:
    """A macro's value, None where the MTA sent none. 8-bit values make pymilter raise."""
    try:
        value = ctx.getsymval(name)
    except UnicodeDecodeError:
        # It was sent, so it is not missing: for {auth_authen} that makes a difference.
        return UNDECODABLE
    return value or None
