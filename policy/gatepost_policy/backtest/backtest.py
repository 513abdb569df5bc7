"""Run a rule set over the stored history: what would it have decided differently?

How it works: inbound messages are read in the order of their time, and what the rules remember is
built up again in memory (`simulate.Life`): listings with their doubling and their ends, the
operator's own listings, good mail, repeat senders. Nothing is written to the store. Most senders
never hit a trap, so the store holds nothing about them that a rule could use: without a rule that
has something to say, their mail is accepted. Only the other messages are loaded whole and judged.

Limits: traps are those that are marked in the history (`trap_marks` keeps the marks), the direction
is as it was recorded.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from gatepost_policy.backtest.simulate import Decided, Life
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import rows, stored_facts
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.store.tables import Message
from gatepost_policy.text.times import timestamp

CHUNK = 5_000
EXAMPLES_MAX = 1_000
_QUIET = (Action.ACCEPT.value, Reason.NO_BAD_SIGNAL.value)


@dataclass(frozen=True, slots=True)
class Difference:
    """One message that would have been decided differently. `at`: Unix seconds; `message`: its
    number in the store; `old`, `new`: (action, reason)."""

    at: float
    message: int
    queue_id: str | None
    sender: str
    client: str | None
    recipients: tuple[str, ...]
    old: Decided
    new: Decided

    def json(self) -> dict[str, Any]:
        """As the command prints it."""
        return {
            "at": timestamp(self.at),
            "queue_id": self.queue_id,
            "sender": self.sender,
            "client": self.client,
            "recipients": list(self.recipients),
            "old": {"action": self.old[0], "reason": self.old[1]},
            "new": {"action": self.new[0], "reason": self.new[1]},
        }


@dataclass(slots=True)
class Result:
    """What a rule set would have changed. `examples` are the newest differences, newest last."""

    messages: int = 0
    not_known: int = 0  # trap hits that keep their decision, because their rows lack a value
    changes: Counter[tuple[Decided, Decided]] = field(default_factory=Counter)
    senders: Counter[tuple[str, Decided, Decided]] = field(default_factory=Counter)
    examples: deque[Difference] = field(default_factory=lambda: deque(maxlen=EXAMPLES_MAX))

    @property
    def changed(self) -> int:
        """How many messages would have been decided differently."""
        return sum(self.changes.values())

    def add(self, difference: Difference) -> None:
        """Count one more difference: by its decisions, and by the sender's domain too."""
        self.changes[difference.old, difference.new] += 1
        who = difference.sender.rpartition("@")[2] or difference.client or "<>"
        self.senders[who, difference.old, difference.new] += 1
        self.examples.append(difference)

    def json(self, limit: int) -> dict[str, Any]:
        """As `backtest --format json` prints it; `limit`: how many senders and examples."""

        def both(old: Decided, new: Decided) -> dict[str, Any]:
            return {
                "old": {"action": old[0], "reason": old[1]},
                "new": {"action": new[0], "reason": new[1]},
            }

        return {
            "messages": self.messages,
            "changed": self.changed,
            "not_known": self.not_known,
            "by_reason": [
                {**both(old, new), "messages": n} for (old, new), n in self.changes.most_common()
            ],
            "by_sender": [
                {"sender": who, **both(old, new), "messages": n}
                for (who, old, new), n in self.senders.most_common(limit)
            ],
            "examples": [d.json() for d in list(self.examples)[::-1][:limit]],
        }


def run(
    connection: Connection,
    settings: Settings,
    *,
    since: float | None = None,
    progress: Callable[[int], None] = lambda messages: None,
) -> Result:
    """Judge the history by `settings`; only messages at or after `since` are compared.

    `since`: Unix seconds; None: all. Older messages are judged too, because the listings of that
    time come from them. `progress` is called with the number of messages of each batch. Raises
    what SQLAlchemy raises.
    """
    life = Life(connection, settings)
    try:
        result = _lived(connection, life, since, progress)
    finally:
        life.close()
    return result


def _lived(
    connection: Connection, life: Life, since: float | None, progress: Callable[[int], None]
) -> Result:
    result = Result()
    for chunk in _chunks(connection):
        # This loop goes through all stored messages: plain tuples, and few calls for each.
        closer = rows.load(
            connection,
            [
                number
                for number, _, _, reason, prefix, sender, author, traps, relay in chunk
                if traps or relay or life.concerns(prefix, sender, author, reason)
            ],
        )
        for message in chunk:
            number, at, action, reason, *_ = message
            row = closer.get(number)
            if row is not None:
                before = life.not_known
                new = life.judge(stored_facts.read(row), row, (action, reason))
                if life.not_known > before and (since is None or at >= since):
                    result.not_known += 1
                if (action, reason) != new and (since is None or at >= since):
                    result.add(_difference(message, row, new))
            elif action != _QUIET[0] or reason != _QUIET[1]:
                if since is None or at >= since:
                    alone = rows.load(connection, [number])
                    result.add(_difference(message, alone.get(number), _QUIET))
            if since is None or at >= since:
                result.messages += 1
        progress(len(chunk))
    return result


def total(connection: Connection) -> int:
    """How many messages `run` will go through."""
    query = select(func.count()).select_from(Message).where(Message.direction == "inbound")
    return connection.scalar(query) or 0


def _chunks(connection: Connection) -> Iterator[Sequence[Any]]:
    """Inbound messages by time, in batches."""
    query = (
        select(
            Message.id,
            Message.at,
            Message.action,
            Message.reason,
            Message.prefix,
            Message.sender_key,
            Message.from_key,
            Message.traps,
            Message.relay,
        )
        .where(Message.direction == "inbound")
        .order_by(Message.at, Message.id)
        .execution_options(yield_per=CHUNK)
    )
    yield from connection.execute(query).partitions(CHUNK)


def _difference(message: Any, row: rows.Row | None, new: Decided) -> Difference:
    stored = None if row is None else row.message
    return Difference(
        at=message.at,
        message=message.id,
        queue_id=None if stored is None else stored.queue_id,
        sender="" if stored is None else stored.sender or "",
        client=(None if stored is None else stored.address) or message.prefix,
        recipients=() if row is None else tuple(r.address for r in row.recipients),
        old=(message.action, message.reason),
        new=new,
    )
