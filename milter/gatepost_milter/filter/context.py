"""What all sessions of one worker process share, and how a session asks for a macro's value."""

import sys
from collections.abc import Callable, Hashable

from gatepost_milter.filter.gate import Gate
from gatepost_milter.protocol.negotiation import Offer, choose
from gatepost_policy.monitoring.worker_figures import Slot

# A macro's value by its name as Postfix writes it (`i`, `{auth_authen}`): None where the MTA sent
# none or an empty one, UNDECODABLE where it is not UTF-8.
Macros = Callable[[str], str | None]
# Not None: an {auth_authen} that we cannot decode still means that the client has logged in.
UNDECODABLE = "\ufffd"
MAX_OFFERS = 64  # how many different MTA offers are remembered


class Context:
    """Made once in a worker process, after the fork, and given to each `Session`."""

    def __init__(self, gate: Gate, slot: Slot | None = None) -> None:
        self.gate = gate
        self.slot = slot  # this worker's figures for the metrics endpoint
        # Sets, not counters: add and discard are atomic between threads, `+=` is not.
        self.open: set[Hashable] = set()  # sessions
        self.busy: set[Hashable] = set()  # sessions between MAIL and the end of the message
        # {(actions, steps) offered: what we chose}; every connection of one MTA offers the same.
        self._agreed: dict[tuple[int, int], Offer] = {}
        self.last_end = 0.0  # monotonic seconds when a message was answered last

    def agree(self, offered: Offer) -> Offer:
        """What this configuration takes of an MTA's offer."""
        offer = offered.actions, offered.steps
        known = self._agreed.get(offer)
        if known is not None:
            return known
        gate = self.gate
        agreed = choose(offered, answers_rcpt=gate.answers_rcpt, over_tcp=gate.over_tcp)
        if not agreed.leading_space:
            gate.tell_once(
                "error",
                "mta-without-leading-space",
                hint="c=simple signatures will fail and submissions get 451: "
                "use Postfix 3.0 or later",
            )
        if len(self._agreed) < MAX_OFFERS:
            self._agreed[offer] = agreed
        return agreed

    def failed(self, stage: str) -> None:
        """Count and log the exception that is being handled: its kind and place, and no data."""
        if self.slot is not None:
            self.slot.failed()
        kind, _, trace = sys.exc_info()
        where = "?"
        while trace is not None:
            code = trace.tb_frame.f_code
            where = f"{'/'.join(code.co_filename.split('/')[-2:])}:{trace.tb_lineno}"
            trace = trace.tb_next
        self.gate.log.event(
            "error", "exception", stage=stage, type=kind.__name__ if kind else "?", where=where
        )
