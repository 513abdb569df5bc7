"""The verdict on a history: is this a repeat sender, and did it change the address family? Pure."""

from collections.abc import Mapping
from typing import Any

from gatepost_policy.report.rhythm import Rhythm, in_words
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

Json = dict[str, Any]

NAMES = {"ipv4": "IPv4", "ipv6": "IPv6", "unix": "unix socket", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether this is a repeat sender, and whether its trap hits prove who it is."""

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
    rhythm: Rhythm | None,
    trap_messages: int,
    proof: str | None,
    *,
    messages: int,
    span: int,
    signed: bool = False,
) -> Standing:
    """Judge a history: a repeat sender has at least `messages` messages, on at least as many days,
    over at least `span` seconds, and hit a trap.

    `proof`: what proves the sender of the trap hits, `DKIM`, `SPF` or `address`; None: the sender
    is only claimed, which is reported but never listed. `signed`: other mail of it was signed.
    """
    proven = proof is not None
    if rhythm is None:
        return Standing(False, False, "not seen")
    seen = f"{plural(rhythm.messages, 'message')} on {plural(rhythm.days, 'day')}"
    over = f" over {in_words(rhythm.span_days)}" if rhythm.span_days >= 1 else ""
    if not trap_messages:
        return Standing(False, False, f"{seen}{over}, none to a trap")
    every = rhythm.messages == trap_messages
    traps = "always to a trap" if every else f"{trap_messages} of them to a trap"
    enough = (
        rhythm.messages >= messages
        and rhythm.days >= messages
        and rhythm.last - rhythm.first >= span
    )
    if not enough:
        claim = "" if proven or not signed else "; claimed: its signed mail hit no trap"
        return Standing(False, proven, f"{seen}{over}, {traps}; not a repeat sender yet{claim}")
    evidence = f"proven by {proof}" if proven else "claimed, not proven"
    if signed and not proven:
        evidence = "claimed; its signed mail hit no trap"
    return Standing(True, proven, f"repeat sender ({evidence}): {seen}{over}, {traps}")


@dataclass(frozen=True, slots=True)
class Mark:
    """One message of the time line. `at`: Unix seconds; `dkim`: its signatures' best result."""

    at: float
    family: str
    dkim: str
    trap: bool


def movement(spans: Mapping[str, tuple[float, float]]) -> str | None:
    """Whether a sender moved between IPv4 and IPv6 or uses both, as text; None for one family.

    `spans`: (first, last) by family, in Unix seconds.
    """
    if "ipv4" not in spans or "ipv6" not in spans:
        return None
    old, new = sorted(("ipv4", "ipv6"), key=lambda family: spans[family][0])
    since = timestamp(spans[new][0])[:10]
    if spans[old][1] < spans[new][0]:
        return f"moved from {NAMES[old]} to {NAMES[new]} on {since}"
    return f"uses both, {NAMES[new]} since {since}"
