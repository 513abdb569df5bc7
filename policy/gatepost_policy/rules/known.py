"""What the store knows about one message, and whether a rule is in force. Pure."""

from collections.abc import Mapping
from dataclasses import field
from datetime import UTC, datetime

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Identity
from gatepost_policy.mail.message_dataclass import dataclass
from gatepost_policy.mail.own import NOTHING_OWN, Own

HOUR_S = 3_600
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Listed:
    """An identity that is listed until `until` (Unix seconds)."""

    identity: Identity
    until: float
    promoted: bool = False  # a wider prefix or domain, listed because several within it are


@dataclass(frozen=True, slots=True)
class Good:
    """Good mail of one identity before a hit: delivered as far as is known, each message once.

    `old` are the messages older than an hour, on `days` UTC days, of `domains` proven
    organisations, for `customers` organisations of envelope senders SPF allowed the client to send;
    `messages` has the newer ones as well.
    """

    messages: int = 0
    old: int = 0
    days: int = 0
    domains: int = 0
    customers: int = 0

    def counts(self, enough: int) -> bool:
        """True where this is enough good mail to excuse.

        A short burst is not: it takes `enough` old messages, and also a second day, a second proven
        domain, or four times `enough` messages in all.
        """
        if self.old < enough:
            return False
        return self.days > 1 or self.domains > 1 or self.messages >= 4 * enough


@dataclass(frozen=True, slots=True)
class EarlierHit:
    """One earlier trap hit. `at` in Unix seconds; None means not known."""

    at: float
    reason: str
    b_hash: str | None = None
    message_id: str | None = None
    prefix: str | None = None
    host: str | None = None  # the organisation of the client's verified name
    author: str | None = None
    spf: str | None = None  # the envelope sender's organisation where SPF passed

    @property
    def day(self) -> int:
        """The UTC day, as a number of days since 1970."""
        return int(self.at // DAY_S)


@dataclass(frozen=True, slots=True)
class Signer:
    """What a signing organisation did here before.

    `mail` counts all its messages, with those to traps. `introduced`: on how many days this client
    brought good mail of it whose signed To or Cc names the recipient here.
    """

    good: Good = Good()
    mail: int = 0
    introduced: int = 0


@dataclass(frozen=True, slots=True)
class Past:
    """What the store knows of those who may be listed for a trap hit.

    `signers` is by organisation. `hits` are earlier ones within `sender.listing_memory`, newest
    first, by the organisation of a proven d=, else by the client prefix.
    """

    client: Good = Good()
    signers: Mapping[str, Signer] = field(default_factory=dict)
    hits: Mapping[str, tuple[EarlierHit, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows about one message's facts, looked up before the rules are asked."""

    traps: frozenset[str] = frozenset()  # raw recipient addresses that are traps
    listed: tuple[Listed, ...] = ()  # listings that hold at facts.at
    repeat: tuple[Identity, ...] = ()  # identities with a repeat sender's history
    past: Past | None = None  # None: the store could not be asked, or was not
    own: Own = NOTHING_OWN


NOTHING = Known()


def mode_of(reason: Reason, at: float, settings: Settings) -> str:
    """enforce, shadow or off for the rule of this reason at `at` (Unix seconds)."""
    rule = settings.rules.get(reason)
    if rule is None:
        return "enforce"
    if rule.expires is not None and datetime.fromtimestamp(at, UTC).date() >= rule.expires:
        return "enforce"
    return rule.mode
