"""What a history comes to: is this a repeat sender, and how did it change its family?

Pure. Judges what was counted; looks nothing up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gatepost_policy.rhythm import Rhythm, number
from gatepost_policy.selection import timestamp

Json = dict[str, Any]

NAMES = {"ipv4": "IPv4", "ipv6": "IPv6", "unix": "unix socket", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this is a repeat sender, and on what evidence (DESIGN 6)."""

    repeat: bool
    proven: bool
    sentence: str

    def json(self) -> Json:
        """As in the report's `standing`."""
        return {
            "repeat_sender": self.repeat,
            "proven": self.proven,
            "sentence": self.sentence,
        }


def standing(
    rhythm: Rhythm | None, trap_messages: int, proof: str | None, *, messages: int, span: int
) -> Standing:
    """Judge a history: `messages` on as many days over `span` seconds, one of them to a trap.

    `proof` says by what this sender is proven: `DKIM`, `address`. None: it is a claim, which is
    reported but never punished.
    """
    proven = proof is not None
    if rhythm is None:
        return Standing(False, False, "not seen")
    seen = f"{plural(rhythm.messages, 'message')} on {plural(rhythm.days, 'day')}"
    over = f" over {number(rhythm.span_days)} days" if rhythm.span_days >= 1 else ""
    if not trap_messages:
        return Standing(False, proven, f"{seen}{over}, none to a trap")
    every = rhythm.messages == trap_messages
    traps = "always to a trap" if every else f"{trap_messages} of them to a trap"
    enough = (
        rhythm.messages >= messages
        and rhythm.days >= messages
        and rhythm.last - rhythm.first >= span
    )
    if not enough:
        return Standing(False, proven, f"{seen}{over}, {traps}; not a repeat sender yet")
    evidence = f"proven by {proof}" if proven else "claimed, not proven"
    return Standing(True, proven, f"repeat sender ({evidence}): {seen}{over}, {traps}")


def plural(count: int, word: str) -> str:
    """`1 message`, `2 messages`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


@dataclass(frozen=True, slots=True)
class Mark:
    """One message of the time line: `dkim` is the best result of its signatures."""

    at: float
    family: str
    dkim: str
    trap: bool


def movement(marks: Sequence[Mark]) -> str | None:
    """How a sender went from one family to the other; None where there is one family only."""
    times = {
        family: [mark.at for mark in marks if mark.family == family] for family in ("ipv4", "ipv6")
    }
    if not times["ipv4"] or not times["ipv6"]:
        return None
    for old, new in (("ipv4", "ipv6"), ("ipv6", "ipv4")):
        first_new = min(times[new])
        if max(times[old]) < first_new:
            return f"moved from {NAMES[old]} to {NAMES[new]} on {timestamp(first_new)[:10]}"
    later = max(times.values(), key=min)
    family = "ipv6" if later is times["ipv6"] else "ipv4"
    return f"uses both, {NAMES[family]} since {timestamp(min(later))[:10]}"
