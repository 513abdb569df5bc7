"""The answer to "who is this sender?", as values, and as the JSON of `milterctl report`.

Pure. The keys, their types and order are an interface (docs/report.md): `query`, `summary` and
`messages` do not change; anything new gets its own key beside them. An unknown value is null, never
left out.
"""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gatepost_policy.mail.facts import Arc, Dmarc, Signature, Spf, TrailHop
from gatepost_policy.report.checks import dmarc_json, spf_json, trail_json
from gatepost_policy.report.overview_values import DualStack, Pattern, Sender
from gatepost_policy.report.rhythm import Rhythm
from gatepost_policy.report.standing import Mark, Standing, movement
from gatepost_policy.report.summary import Held, Summary
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.acts import Done
from gatepost_policy.text.times import timestamp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Line:
    """One message of the listing. `at`: Unix seconds; `size`: octets; None: not known."""

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
    recipients: tuple[tuple[str, bool], ...]  # (address as received, is or was a trap)
    size: int | None
    message_id: str | None
    signatures: tuple[Signature, ...]
    arc: Arc | None
    action: str
    reason: str
    spf: Spf | None = None  # None: not evaluated
    dmarc: Dmarc | None = None  # None: not evaluated
    trail: tuple[TrailHop, ...] | None = None  # newest first; None: not seen

    @property
    def trapped(self) -> bool:
        """True where a recipient is or was a trap."""
        return any(trap for _, trap in self.recipients)

    @property
    def hit(self) -> bool:
        """True for a message from elsewhere to a trap whose client is known."""
        return self.trapped and self.direction == "inbound" and bool(self.address)

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
            "spf": spf_json(self.spf),
            "dmarc": dmarc_json(self.dmarc),
            "trail": trail_json(self.trail),
            "decision": {"action": self.action, "reason": self.reason},
        }


def signature_json(signature: Signature) -> Json:
    """One signature as JSON, for reports and for `milterctl replay`."""
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
class Key:
    """One DKIM key of the sender's history. Times are Unix seconds; `previous_bits` before it
    `changed`."""

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
    """One listing, past or present. Times are Unix seconds; `active`: at the report's time."""

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
class Report:
    """The history of one sender, host or trap, or the overview: `senders`, `dual_stack` and
    `low_and_slow` are filled in the overview only."""

    query: Json
    summary: Summary
    messages: tuple[Line, ...]
    rhythm: Rhythm | None
    standing: Standing | None  # None: not about one sender
    no_verdict: str | None = None  # why the selection is not judged as a sender
    came_over: Mapping[str, int] = field(default_factory=dict)  # by family, to its server; claimed
    hit: Line | None = None  # the newest message to a trap by a known client, listed or not
    traps: tuple[str, ...] = ()  # those that were hit, the first few
    more_traps: bool = False  # were hit
    marks: tuple[Mark, ...] = ()  # oldest first, the newest MARKS_MAX of them
    keys: tuple[Key, ...] = ()
    listings: tuple[Listed, ...] = ()
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # by family
    hosts: int = 0  # clients in all; the summary names those with most messages
    acts: tuple[Done, ...] = ()  # what operators did by hand, newest first
    overview: bool = False
    senders: tuple[Sender, ...] = ()
    dual_stack: tuple[DualStack, ...] = ()
    low_and_slow: tuple[Pattern, ...] = ()
    held: Held | None = None  # set where only the newest selected messages were counted

    def json(self) -> Json:
        """The whole report, as `milterctl report --format json` prints it."""
        out: Json = {
            "query": self.query,
            "summary": self.summary.json(),
            "messages": [line.json() for line in self.messages],
            "held": None if self.held is None else self.held.json(),
        }
        if self.overview:
            out["senders"] = [sender.json() for sender in self.senders]
            out["dual_stack"] = [row.json() for row in self.dual_stack]
            out["low_and_slow"] = [row.json() for row in self.low_and_slow]
        else:
            out["rhythm"] = None if self.rhythm is None else self.rhythm.json()
            out["movement"] = movement(self.spans)
            out["came_over"] = dict(self.came_over)
            out["standing"] = None if self.standing is None else self.standing.json()
            out["no_verdict"] = self.no_verdict
            out["newest_trap_message"] = None if self.hit is None else self.hit.json()
            out["keys"] = [key.json() for key in self.keys]
            out["acts"] = [act.json() for act in self.acts]
        out["hosts_total"] = self.hosts
        out["listings"] = [listing.json() for listing in self.listings]
        return out
