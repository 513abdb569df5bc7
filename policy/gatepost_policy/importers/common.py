"""What the importers share: the counts of lines, keys, and the records that they give."""

import re
from collections import Counter
from dataclasses import dataclass, field
from hashlib import blake2b

from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Direction, Facts

# Unparsed lines kept for --verbose.
SHOWN_LINES = 20
# Most unfinished messages at a time; beyond this the oldest is recorded without waiting for more.
MAX_OPEN = 100_000
# A message that arrived less than this before the end of the log may still get its recipients.
STILL_OPEN_S = 3600.0

ACCEPTED = Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL)
DISCARDED = Decision(Action.DISCARD, Reason.MTA_REFUSED)


_QUOTED_LOCAL = re.compile(r'"(?:[^"\\]|\\.)*"(?=@|\Z)', re.S)
_ESCAPED = re.compile(r"\\(.)", re.S)


def internal(path: str) -> str:
    """The address `path` as an MTA keeps it and often writes it: a quoted local part (RFC 5321
    4.1.2) without its quotes and backslashes."""
    quoted = _QUOTED_LOCAL.match(path)
    if quoted is None:
        return path
    return _ESCAPED.sub(r"\1", quoted.group()[1:-1]) + path[quoted.end() :]


@dataclass
class Tally:
    """Counts of lines and messages. `kinds`: by kind of line or message; `samples`: the first lines
    that were not understood."""

    lines: int = 0
    blank: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    samples: list[str] = field(default_factory=list)

    @property
    def understood(self) -> int:
        """How many lines were recognised as lines of this MTA."""
        others = self.kinds["unparsed"] + self.kinds["other programs"]
        return self.lines - self.blank - others

    def unparsed(self, line: str) -> None:
        """Count a line that is not one of this MTA's."""
        self.kinds["unparsed"] += 1
        if len(self.samples) < SHOWN_LINES:
            self.samples.append(line)


def refused(code: str) -> Decision:
    """The MTA's own refusal; temporary where `code` begins with 4 or "temp"."""
    action = Action.TEMPFAIL if code.startswith(("4", "temp")) else Action.REJECT
    return Decision(action, Reason.MTA_REFUSED)


def line_key(prefix: str, line: str) -> str:
    """The key of an event that has no id: a digest of its line."""
    digest = blake2b(line.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    return f"{prefix}:{digest}"


@dataclass
class Ordinals:
    """Keys for refused submissions: the time, and a number among those of the same time.

    Not a hash of the line: the line holds the client's address and login, which could be found by
    trying them. The numbers begin again with each log, because Exim writes a refusal to two logs.
    """

    _log: object = None
    at: float = 0.0  # Unix seconds, of the newest
    number: int = 0  # how many at that time

    def resume(self, log: object, at: float, number: int) -> None:
        """Go on in `log` after the event number `number` at `at` (Unix seconds)."""
        self._log, self.at, self.number = log, at, number

    def key(self, prefix: str, at: float, log: object) -> str:
        """The key of the next event at `at` (Unix seconds) in `log`."""
        if log is not self._log or at != self.at:
            self._log, self.at, self.number = log, at, 0
        self.number += 1
        return f"{prefix}:refused:{at}:{self.number}"


def to_json(seen: Seen) -> Json:
    """The journal record of `seen`; of our own users' mail it is always only a count.

    A log holds a user's address and login: neither gets into the record.
    """
    if seen.facts.direction is Direction.INBOUND:
        return record.message(seen)
    return {**record.count(seen.facts, seen.decision), "key": seen.key}


def counted(facts: Facts, decision: Decision, key: str) -> Seen:
    """A submission or local message with only time, direction, address family and decision."""
    bare = Facts(
        at=facts.at,
        source=facts.source,
        direction=facts.direction,
        client=facts.client.redacted(),
    )
    return Seen("message", bare, decision, key=key)
