"""An unfinished message of Postfix's log."""

from dataclasses import dataclass, field

from gatepost_policy.importers.fate import Fate
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.mail.decision import Decision
from gatepost_policy.mail.facts import Client
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
