"""A message of Postfix's log that is under way."""

from dataclasses import dataclass, field

from gatepost_policy.importers.fate import Fate
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.mail.decision import Decision
from gatepost_policy.mail.facts import Client
from gatepost_policy.rules.whose_mail import LOCAL, Ownership


@dataclass(slots=True)
class Open:
    """A message under way."""

    at: float
    arrived: bool = False  # smtpd or pickup told of it
    queued: bool = False  # qmgr told of it
    sender: str = ""
    client: Client = Client()
    whose: Ownership = LOCAL  # a bounce has no arrival
    reinjected: bool = False
    size: int | None = None
    message_id: str | None = None
    recipients: dict[str, bool] = field(default_factory=dict)  # True: accepted
    refusal: Decision | None = None  # of the last recipient that was refused
    dkim: Signatures | None = None
    fate: Fate = field(default_factory=Fate)
    held: float = 0.0  # when it left the queue
