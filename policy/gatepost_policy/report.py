"""The answer to "who is this sender?", as values, and as the JSON of `milterctl report`.

Pure. Keys, types and their order are an interface (docs/report.md): `query`, `summary` and
`messages` stay as they are; what else there is to tell stands in keys beside them. A value that
is not known is null, never left out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gatepost_policy.facts import Arc, Signature
from gatepost_policy.rhythm import Rhythm, number
from gatepost_policy.selection import timestamp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """One client that brought messages. After a while only its prefix is kept as `address`."""

    host: str | None
    address: str | None
    family: str
    messages: int

    def json(self) -> Json:
        """As in `summary.hosts`."""
        return {
            "host": self.host,
            "address": self.address,
            "family": self.family,
            "messages": self.messages,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """What all selected messages come to. `dkim` counts signatures, and unsigned messages."""

    messages: int = 0
    first_seen: float | None = None
    last_seen: float | None = None
    families: Mapping[str, int] = field(default_factory=dict)
    dkim: Mapping[str, int] = field(default_factory=dict)
    trap_hits: int = 0  # message x trap recipient
    median_gap_days: float | None = None
    hosts: tuple[Host, ...] = ()  # most messages first

    def json(self) -> Json:
        """As in the report's `summary`."""
        return {
            "messages": self.messages,
            "first_seen": None if self.first_seen is None else timestamp(self.first_seen),
            "last_seen": None if self.last_seen is None else timestamp(self.last_seen),
            "families": dict(self.families),
            "dkim": dict(self.dkim),
            "trap_hits": self.trap_hits,
            "median_gap_days": self.median_gap_days,
            "hosts": [host.json() for host in self.hosts],
        }


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the listing."""

    id: int
    at: float
    source: str
    queue_id: str | None
    direction: str
    family: str
    address: str | None
    client_name: str | None
    helo: str | None
    sender: str | None
    header_from: str | None
    recipients: tuple[tuple[str, bool], ...]  # address as it came, is or was a trap
    size: int | None
    message_id: str | None
    signatures: tuple[Signature, ...]
    arc: Arc | None
    action: str
    reason: str

    @property
    def trapped(self) -> bool:
        """True where a recipient is or was a trap."""
        return any(trap for _, trap in self.recipients)

    @property
    def dkim(self) -> str:
        """The best result of its signatures, `none` where it is unsigned."""
        results = [signature.result for signature in self.signatures]
        return "pass" if "pass" in results else (results or ["none"])[0]

    def json(self) -> Json:
        """As in the report's `messages`."""
        return {
            "at": timestamp(self.at),
            "source": self.source,
            "queue_id": self.queue_id,
            "direction": self.direction,
            "family": self.family,
            "client": {"address": self.address, "name": self.client_name, "helo": self.helo},
            "sender": self.sender,
            "header_from": self.header_from,
            "recipients": [{"address": text, "trap": trap} for text, trap in self.recipients],
            "size": self.size,
            "message_id": self.message_id,
            "signatures": [signature_json(signature) for signature in self.signatures],
            "arc": None if self.arc is None else {"cv": self.arc.cv, "reason": self.arc.reason},
            "decision": {"action": self.action, "reason": self.reason},
        }


def signature_json(signature: Signature) -> Json:
    """One signature, here and in `milterctl replay`."""
    return {
        "domain": signature.domain,
        "selector": signature.selector,
        "algorithm": signature.algorithm,
        "canonicalization": signature.canonicalization,
        "key_bits": signature.key_bits,
        "body_limit": signature.body_limit,
        "crypto": signature.crypto,
        "result": signature.result,
        "reason": signature.reason,
    }


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


NAMES = {"ipv4": "IPv4", "ipv6": "IPv6", "unix": "unix socket", "unknown": "unknown"}


@dataclass(frozen=True, slots=True)
class Key:
    """One DKIM key of the sender's history."""

    domain: str
    selector: str
    algorithm: str | None
    key_bits: int | None
    previous_bits: int | None
    changed: float | None
    first_seen: float
    last_seen: float
    messages: int

    def json(self) -> Json:
        """As in the report's `keys`."""
        return {
            "domain": self.domain,
            "selector": self.selector,
            "algorithm": self.algorithm,
            "key_bits": self.key_bits,
            "previous_bits": self.previous_bits,
            "changed": None if self.changed is None else timestamp(self.changed),
            "first_seen": timestamp(self.first_seen),
            "last_seen": timestamp(self.last_seen),
            "messages": self.messages,
        }


@dataclass(frozen=True, slots=True)
class Listed:
    """One listing, past or present. `active` is as of the report."""

    kind: str
    value: str
    since: float
    until: float
    active: bool
    reason: str
    hits: int
    by_hand: bool
    forgiven: float | None
    note: str | None

    def json(self) -> Json:
        """As in the report's `listings`."""
        return {
            "kind": self.kind,
            "value": self.value,
            "since": timestamp(self.since),
            "until": timestamp(self.until),
            "active": self.active,
            "reason": self.reason,
            "hits": self.hits,
            "by_hand": self.by_hand,
            "forgiven": None if self.forgiven is None else timestamp(self.forgiven),
            "note": self.note,
        }


@dataclass(frozen=True, slots=True)
class Sender:
    """One line of the overview: somebody who came back."""

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
            "repeat_sender": self.standing.repeat,
            "proven": self.standing.proven,
            "listed_until": None if self.listed_until is None else timestamp(self.listed_until),
        }


@dataclass(frozen=True, slots=True)
class DualStack:
    """One domain that came over IPv4 and over IPv6."""

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
    """Many hosts, few messages each, one pattern: what joins them, and how many there are."""

    kind: str  # domain, helo, trap-sequence
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


@dataclass(frozen=True, slots=True)
class Report:
    """The history of one sender, host or trap; `senders` and what follows only in the overview."""

    query: Json
    summary: Summary
    messages: tuple[Line, ...]
    rhythm: Rhythm | None
    standing: Standing | None  # None: not about one sender
    marks: tuple[Mark, ...] = ()  # oldest first, the newest MARKS_MAX of them
    keys: tuple[Key, ...] = ()
    listings: tuple[Listed, ...] = ()
    hosts: int = 0  # clients in all; the summary names those with most messages
    overview: bool = False
    senders: tuple[Sender, ...] = ()
    dual_stack: tuple[DualStack, ...] = ()
    low_and_slow: tuple[Pattern, ...] = ()

    def json(self) -> Json:
        """The whole report."""
        out: Json = {
            "query": self.query,
            "summary": self.summary.json(),
            "messages": [line.json() for line in self.messages],
        }
        if self.overview:
            out["senders"] = [sender.json() for sender in self.senders]
            out["dual_stack"] = [row.json() for row in self.dual_stack]
            out["low_and_slow"] = [row.json() for row in self.low_and_slow]
        else:
            out["rhythm"] = None if self.rhythm is None else self.rhythm.json()
            out["movement"] = movement(self.marks)
            out["standing"] = None if self.standing is None else self.standing.json()
            out["keys"] = [key.json() for key in self.keys]
        out["hosts_total"] = self.hosts
        out["listings"] = [listing.json() for listing in self.listings]
        return out
