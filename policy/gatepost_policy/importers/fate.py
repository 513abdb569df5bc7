"""What became of a message after it was queued, by its delivery lines. Pure.

An MTA may accept a message that is refused later by a mailbox server, a content filter or the next
hop, or that expires in the queue. A message that was delivered to no recipient is not good mail of
its sender, and a recipient without a delivery is not an address that exists.
"""

from dataclasses import dataclass, field

from gatepost_policy.importers.common import ACCEPTED, refused
from gatepost_policy.mail.decision import Decision


@dataclass(slots=True)
class Fate:
    """`delivered`: the recipients to which the message was delivered. In all methods `recipients`
    is {address: True where not refused} and is updated."""

    delivered: set[str] = field(default_factory=set)
    bounced: bool = False  # for one recipient at least

    def sent(self, recipients: dict[str, bool], name: str) -> None:
        """Delivered to `name`, or to one of the addresses that it expands to."""
        self.delivered.add(name)
        recipients[name] = True

    def failed(self, recipients: dict[str, bool], name: str) -> None:
        """The delivery to `name` failed for good."""
        self.bounced = True
        if name not in self.delivered:
            recipients[name] = False

    def expired(self, recipients: dict[str, bool]) -> None:
        """The message expired: delivery failed for all recipients that are left."""
        for name in list(recipients):
            self.failed(recipients, name)

    def decision(self, recipients: dict[str, bool]) -> Decision:
        """The decision on the whole message: refused where no recipient got it."""
        return refused("5") if self.bounced and not any(recipients.values()) else ACCEPTED
