"""What the importers share: what is counted, and how a message leaves them."""

from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Direction, Facts

# Unparsed lines kept for --verbose.
SHOWN_LINES = 20
# Messages under way at once; beyond this the oldest is taken for finished.
MAX_OPEN = 100_000
# A message that arrived so shortly before the log ends may still get its recipients.
STILL_OPEN_S = 3600.0

ACCEPTED = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)
DISCARDED = Decision(Action.DISCARD, Reason.MTA_REFUSED)


@dataclass
class Tally:
    """What was seen in the logs, in lines and messages."""

    lines: int = 0
    blank: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    @property
    def understood(self) -> int:
        """How many lines were this MTA's."""
        others = self.kinds["unparsed"] + self.kinds["other programs"]
        return self.lines - self.blank - others

    def unparsed(self, line: str) -> None:
        """A line that is none of this MTA's."""
        self.kinds["unparsed"] += 1
        if len(self.samples) < SHOWN_LINES:
            self.samples.append(line)


def refused(code: str) -> Decision:
    """What the MTA itself did, by its reply code or words."""
    action = Action.TEMPFAIL if code.startswith(("4", "temp")) else Action.REJECT
    return Decision(action, Reason.MTA_REFUSED)


def line_key(prefix: str, line: str) -> str:
    """The natural key of an event that has no id: its line."""
    digest = blake2b(line.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return f"{prefix}:{digest}"


@dataclass
class Ordinals:
    """Natural keys for refused submissions: time and number within it, nothing of the line.

    A hash of the line would be one of the client's address and login, and quickly guessed. The
    count begins anew with each log: Exim writes a refusal to two of them.
    """

    _log: object = None
    at: float = 0.0  # Unix seconds, of the newest
    number: int = 0  # how many at that time

    def resume(self, log: object, at: float, number: int) -> None:
        """Go on in `log` where another one stopped."""
        self._log, self.at, self.number = log, at, number

    def key(self, prefix: str, at: float, log: object) -> str:
        """The key of the next such event at `at` in `log`."""
        if log is not self._log or at != self.at:
            self._log, self.at, self.number = log, at, 0
        self.number += 1
        return f"{prefix}:refused:{at}:{self.number}"


def to_json(seen: Seen) -> Json:
    """The record of `seen`; one of our own mail is a count whatever the store keeps of others.

    A log says where a user was and under which name: none of it gets beyond this point.
    """
    if seen.facts.direction is Direction.INBOUND:
        return record.message(seen)
    return {**record.count(seen.facts, seen.decision), "key": seen.key}


def counted(facts: Facts, decision: Decision, key: str) -> Seen:
    """A submission or local message: when, which way, which family, and what became of it."""
    bare = Facts(
        at=facts.at,
        source=facts.source,
        direction=facts.direction,
        client=facts.client.redacted(),
    )
    return Seen("message", bare, decision, key=key)
