"""What all sessions of one worker process share."""

from collections.abc import Hashable

from gatepost_milter.filter.gate import Gate
from gatepost_milter.protocol.negotiation import Offer, choose
from gatepost_policy.monitoring.slots import Slot


class Context:
    """One for a worker process, made after the fork and handed to each `Session`."""

    def __init__(self, gate: Gate, slot: Slot | None = None) -> None:
        self.gate = gate
        self.slot = slot  # this worker's figures for the metrics endpoint
        # Sets: adding and discarding are atomic between threads, a counter's += is not.
        self.open: set[Hashable] = set()  # sessions
        self.busy: set[Hashable] = set()  # sessions between MAIL and the end of the message
        self.last_end = 0.0  # monotonic seconds when a message was answered last

    def agree(self, offered: Offer) -> Offer:
        """What this configuration takes of an MTA's offer."""
        gate = self.gate
        agreed = choose(offered, answers_rcpt=gate.answers_rcpt, over_tcp=gate.over_tcp)
        if not agreed.leading_space:
            gate.tell_once(
                "error",
                "mta-without-leading-space",
                hint="c=simple signatures will fail and submissions get 451: "
                "use Postfix 3.0 or later",
            )
        return agreed
