"""What is known of an address before it becomes a trap: which senders would hit it."""

import re
from collections import Counter
from datetime import UTC, datetime
from fnmatch import translate

from sqlalchemy import Connection, select

from gatepost_policy.store.tables import Message, MessageRecipient
from gatepost_policy.system.dataclass import dataclass

SCAN_MAX = 100_000  # recipients looked at for a domain or a pattern, newest first
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Past:
    """The messages to an address that is no trap yet. `most`: the SHOWN senders with most messages,
    as (sender, number). `months`: in how many months.
    """

    messages: int = 0
    accepted: int = 0
    senders: int = 0
    months: int = 0
    most: tuple[tuple[str, int], ...] = ()


def past(connection: Connection, kind: str, key: str) -> Past:
    """The inbound messages to `key` of `kind` (as `names.classify` has them)."""
    recipient = MessageRecipient
    query = (
        select(
            Message.at, Message.sender_key, recipient.trap_key, Message.action, recipient.accepted
        )
        .join(recipient, recipient.message_id == Message.id)
        .where(Message.direction == "inbound")
    )
    if kind == "exact":
        query = query.where(recipient.trap_key == key)
    else:
        query = query.order_by(Message.at.desc()).limit(SCAN_MAX)
    pattern = re.compile(translate(key.replace("[", "[[]"))) if kind == "pattern" else None
    senders: Counter[str] = Counter()
    months = set()
    accepted = 0
    for at, sender, trap_key, action, taken in connection.execute(query):
        if kind == "domain" and not trap_key.endswith(key):
            continue
        if pattern is not None and not pattern.match(trap_key):
            continue
        senders[sender or ""] += 1
        when = datetime.fromtimestamp(at, UTC)
        months.add((when.year, when.month))
        accepted += action == "accept" and taken
    most = tuple(senders.most_common(SHOWN))
    return Past(senders.total(), accepted, len(senders), len(months), most)
