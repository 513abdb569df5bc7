"""What the store knows about one message, and whether a rule is in force. Pure."""

from dataclasses import dataclass
from datetime import UTC, datetime

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Identity


@dataclass(frozen=True, slots=True)
class Listed:
    """An identity that is being punished until `until` (Unix seconds)."""

    identity: Identity
    until: float
    promoted: bool = False  # a /56 or /48 that stands for its listed /64s


@dataclass(frozen=True, slots=True)
class Known:
    """What the store knows about one message's facts, looked up before the rules are asked."""

    traps: frozenset[str] = frozenset()  # raw recipient addresses that are traps
    listed: tuple[Listed, ...] = ()  # listings that hold at facts.at
    repeat: tuple[Identity, ...] = ()  # identities with a repeat sender's history
    good_messages: int | None = None  # from this client in good_window; None: could not know


NOTHING = Known()


def mode_of(reason: Reason, at: float, settings: Settings) -> str:
    """enforce, shadow or off for the rule of this reason at the time `at`."""
    rule = settings.rules.get(reason)
    if rule is None:
        return "enforce"
    if rule.expires is not None and datetime.fromtimestamp(at, UTC).date() >= rule.expires:
        return "enforce"
    return rule.mode
