"""What the store knows about one message, and whether a rule is in force. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Identity
from gatepost_policy.mail.own import NOTHING_OWN, Own

HOUR_S = 3_600
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Listed:
    """An identity that is being punished until `until` (Unix seconds)."""

    identity: Identity
    until: float
    promoted: bool = False  # a wider one that stands for several that are listed


@dataclass(frozen=True, slots=True)
class Good:
    """Good mail of one identity before a hit: delivered as far as is known, each message once.

    `old` are the messages older than an hour, on `days` UTC days, of `domains` proven
    organisations; `messages` has the newer ones as well.
    """

    messages: int = 0
    old: int = 0
    days: int = 0
    domains: int = 0

    def counts(self, enough: int) -> bool:
        """True where this is the mail of somebody with correspondents here.

        A burst is none, whatever its size was an hour ago: `enough` old messages, and either
        another day, another proven domain, or four times as many.
        """
        if self.old < enough:
            return False
        return self.days > 1 or self.domains > 1 or self.messages >= 4 * enough


@dataclass(frozen=True, slots=True)
class EarlierHit:
    """One trap hit that was counted before. `at` in Unix seconds; None is not known."""

    at: float
    reason: str
    b_hash: str | None = None
    message_id: str | None = None
    prefix: str | None = None
    host: str | None = None  # the organisation of the client's verified name
    author: str | None = None

    @property
    def day(self) -> int:
        """The UTC day."""
        return int(self.at // DAY_S)


@dataclass(frozen=True, slots=True)
class Signer:
    """What an organisation that signs did here before. `mail` counts all of it, traps included.

    `introduced`: on so many days this very client brought distinct good mail of it whose signed
    To or Cc names who got it here.
    """

    good: Good = Good()
    mail: int = 0
    introduced: int = 0


@dataclass(frozen=True, slots=True)
class Past:
    """What the store knows of those who may be to blame for a trap hit.

    `hits` are earlier ones within `sender.listing_memory`, newest first, by whose they are: the
    organisation of a proven d=, else the client prefix.
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
    past: Past | None = None  # None: could not know, or nobody asked
    own: Own = NOTHING_OWN


NOTHING = Known()


def mode_of(reason: Reason, at: float, settings: Settings) -> str:
    """enforce, shadow or off for the rule of this reason at the time `at`."""
    rule = settings.rules.get(reason)
    if rule is None:
        return "enforce"
    if rule.expires is not None and datetime.fromtimestamp(at, UTC).date() >= rule.expires:
        return "enforce"
    return rule.mode
