"""What all sessions of one worker process share, and what they are asked with."""

import sys
from collections.abc import Callable, Hashable

from gatepost_milter.filter.gate import Gate
from gatepost_milter.protocol.negotiation import Offer, choose
from gatepost_policy.monitoring.slots import Slot

# A macro's value by its name as Postfix writes it (`i`, `{auth_authen}`): None where the MTA sent
# none or an empty one, UNDECODABLE where it is not UTF-8.
Macros = Callable[[str], str | None]
# It was sent, so it is not missing: for {auth_authen} that makes a difference.
UNDECODABLE = "\ufffd"
MAX_OFFERS = 64  # of different MTAs, that are remembered


class Context:
    """One for a worker process, made after the fork and handed to each `Session`."""

    def __init__(self, gate: Gate, slot: Slot | None = None) -> None:
        self.gate = gate
        self.slot = slot  # this worker's figures for the metrics endpoint
        # Sets: adding and discarding are atomic between threads, a counter's += is not.
        self.open: set[Hashable] = set()  # sessions
        self.busy: set[Hashable] = set()  # sessions between MAIL and the end of the message
        # By what was offered: every connection of an MTA offers the same.
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
