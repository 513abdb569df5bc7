"""What became of a message behind the queue, by its delivery lines. Pure.

An MTA takes a message and learns later that nobody wants it: a mailbox server, a content filter or
the next hop refuses it, or the time is up. What was delivered to nobody is no good mail, and an
address that nothing was delivered to is none that exists.
"""

from dataclasses import dataclass, field

from gatepost_policy.importers.common import ACCEPTED, refused
from gatepost_policy.mail.decision import Decision


@dataclass(slots=True)
class Fate:
    """`delivered`: the recipients that somebody has taken the message for."""

    delivered: set[str] = field(default_factory=set)
    bounced: bool = False  # for one recipient at least

    def sent(self, recipients: dict[str, bool], name: str) -> None:
        """Delivered to `name`, perhaps to one of several that it stands for."""
        self.delivered.add(name)
        recipients[name] = True

    def failed(self, recipients: dict[str, bool], name: str) -> None:
        """Given up for `name`."""
        self.bounced = True
        if name not in self.delivered:
            recipients[name] = False

    def expired(self, recipients: dict[str, bool]) -> None:
        """Given up for all that are left."""
        for name in list(recipients):
            self.failed(recipients, name)

    def decision(self, recipients: dict[str, bool]) -> Decision:
        """What became of the message as a whole: refused where nobody got it."""
        return refused("5") if self.bounced and not any(recipients.values()) else ACCEPTED
