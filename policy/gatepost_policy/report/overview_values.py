"""Values of the overview: senders, domains on both families, low-and-slow patterns. Pure."""

from typing import Any

from gatepost_policy.report.rhythm import Rhythm
from gatepost_policy.report.standing import Standing
from gatepost_policy.report.summary import Summary
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sender:
    """One line of the overview: a sender or client that hit a trap. `listed_until`: Unix seconds,
    None where no listing is active."""

    sender: str  # a domain, an address or a prefix
    kind: str  # as in facts.IdentityKind
    summary: Summary
    rhythm: Rhythm
    standing: Standing
    trap_messages: int
    listed_until: float | None

    def json(self) -> Json:
        """As in the report's `senders`."""
        return {
            "sender": self.sender,
            "kind": self.kind,
            "messages": self.summary.messages,
            "trap_messages": self.trap_messages,
            "first_seen": timestamp(self.rhythm.first),
            "last_seen": timestamp(self.rhythm.last),
            "months": self.rhythm.months,
            "median_gap_days": self.rhythm.median_gap,
            "families": dict(self.summary.families),
            "dkim": dict(self.summary.dkim),
            "spf": dict(self.summary.spf),
            "dmarc": dict(self.summary.dmarc),
            "repeat_sender": self.standing.repeat,
            "proven": self.standing.proven,
            "listed_until": None if self.listed_until is None else timestamp(self.listed_until),
        }


@dataclass(frozen=True, slots=True)
class DualStack:
    """One domain that came over IPv4 and over IPv6, with messages by family."""

    domain: str
    proven: bool  # by a d= that passed; else it is the envelope sender's claim
    ipv4: int
    ipv6: int
    trap_messages: int

    def json(self) -> Json:
        """As in the overview's `dual_stack`."""
        return {
            "domain": self.domain,
            "proven": self.proven,
            "ipv4": self.ipv4,
            "ipv6": self.ipv6,
            "trap_messages": self.trap_messages,
        }


@dataclass(frozen=True, slots=True)
class Pattern:
    """Many hosts with few messages each and `value` in common. Times are Unix seconds."""

    kind: str  # domain, helo, network, host-name, trap-sequence
    value: str
    hosts: int
    messages: int
    first_seen: float
    last_seen: float
    sentence: str

    def json(self) -> Json:
        """As in the overview's `low_and_slow`."""
        return {
            "kind": self.kind,
            "value": self.value,
            "hosts": self.hosts,
            "messages": self.messages,
            "first_seen": timestamp(self.first_seen),
            "last_seen": timestamp(self.last_seen),
            "sentence": self.sentence,
        }
