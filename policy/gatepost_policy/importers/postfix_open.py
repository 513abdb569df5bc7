"""An unfinished message of Postfix's log, and the record of a finished one."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from gatepost_policy.importers.common import ACCEPTED, Tally, counted
from gatepost_policy.importers.fate import Fate
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Decision
from gatepost_policy.mail.facts import Client, Direction, Facts, Recipient, Source
from gatepost_policy.rules.whose_mail import LOCAL, Ownership


@dataclass(slots=True)
class Open:
    """A message whose last line has not been read yet. `at`: Unix seconds of its first line."""

    at: float
    arrived: bool = False  # there was a line of smtpd or pickup
    queued: bool = False  # there was a line of qmgr
    sender: str = ""
    client: Client = Client()
    whose: Ownership = LOCAL  # until a client is known; a bounce never has one
    reinjected: bool = False  # a content filter handed it back: it is not recorded
    size: int | None = None
    message_id: str | None = None
    recipients: dict[str, bool] = field(default_factory=dict)  # True: accepted
    refusal: Decision | None = None  # of the last recipient that was refused
    dkim: Signatures | None = None
    fate: Fate = field(default_factory=Fate)
    held: float = 0.0  # Unix seconds at which it left the queue


def tell(
    tally: Tally, queue_id: str | None, entry: Open, decision: Decision, key: str, kind: str
) -> Iterable[Seen]:
    """The record of a message or refusal that is complete; none of one that came a second time."""
    if entry.reinjected:
        tally.kinds["reinjected"] += 1
        return ()
    facts = Facts(
        at=entry.at,
        source=Source.POSTFIX_LOG,
        direction=entry.whose.direction,
        client=entry.client,
        trusted_relay=entry.whose.trusted_relay,
        queue_id=queue_id,
        sender=address.parse(entry.sender),
        # A list, not a generator: most messages have one recipient, and this is half the time.
        recipients=tuple(
            [Recipient(address.parse(r), accepted) for r, accepted in entry.recipients.items()]
        ),
        size=entry.size,
        message_id=entry.message_id,
        signatures=tuple(entry.dkim.found) if entry.dkim else (),
    )
    if decision is ACCEPTED or entry.fate.bounced:
        tally.kinds[facts.direction.value] += 1
    if facts.direction is not Direction.INBOUND:
        return (counted(facts, decision, key),)
    return (Seen(kind, facts, decision, key=key),)
