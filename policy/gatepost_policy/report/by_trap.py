"""A trap's page: who hit it first, and which other traps its senders have hit.

Senders that hit the same traps probably use the same list of addresses. How it works: there is
little trap mail, and it has an index of its own; the newest ROWS_MAX hits are read once and grouped
by the sender's domain.

Limits: the sender's domain is only claimed, anybody may use it. Hits older than the newest
ROWS_MAX are not looked at; `cut` says so.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, select

from gatepost_policy.mail.address import Address
from gatepost_policy.store.tables import Message, MessageRecipient
from gatepost_policy.text.times import timestamp

ROWS_MAX = 20_000
SENDERS_MAX, TRAPS_MAX = 12, 8


@dataclass(slots=True)
class Finder:
    """A sender that hit the trap. `first`: Unix seconds of its first hit; `hits`: by trap."""

    kind: str  # sender or host, as the report's selectors
    who: str
    first: float
    hits: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, slots=True)
class ByTrap:
    """The senders that hit a trap, the earliest first, and the traps that they hit, this one
    first."""

    traps: tuple[str, ...]
    finders: tuple[Finder, ...]
    senders: int  # in all
    cut: bool  # not all trap mail was looked at

    def json(self) -> dict[str, Any]:
        """As in the JSON of a trap's page."""
        return {
            "traps": list(self.traps),
            "senders": self.senders,
            "looked_at_all": not self.cut,
            "found_by": [
                {
                    "kind": one.kind,
                    "who": one.who,
                    "first_seen": timestamp(one.first),
                    "hits": {trap: one.hits[trap] for trap in self.traps},
                }
                for one in self.finders
            ],
        }


def read(connection: Connection, trap: Address) -> ByTrap | None:
    """Who hit this trap, or a trap in this domain; None for nobody. Raises SQLAlchemyError."""
    row = MessageRecipient
    found = connection.execute(
        select(
            Message.at, Message.sender_key, Message.from_key, Message.prefix, row.trap_key
        )
        .join(row, row.message_id == Message.id)
        .where(Message.traps > 0, row.trap, Message.direction == "inbound")
        .order_by(Message.at.desc())
        .limit(ROWS_MAX + 1)
    ).all()  # fmt: skip
    key, whole = trap.trap_key, not trap.local and bool(trap.domain)
    who: dict[tuple[str, str], Finder] = {}
    hits: dict[tuple[str, str], Counter[str]] = {}
    for at, sender, author, prefix, name in found[:ROWS_MAX]:
        domain = (sender or author or "").rpartition("@")[2]
        one = ("sender", domain) if domain else ("host", (prefix or "").removesuffix("/32"))
        if not one[1]:
            continue
        hits.setdefault(one, Counter())[name] += 1
        if name == key or (whole and name.endswith(key)):
            known = who.setdefault(one, Finder(*one, first=at))
            known.first = min(known.first, at)
    if not who:
        return None
    for one, finder in who.items():
        finder.hits = hits[one]
    in_order = sorted(who.values(), key=lambda f: f.first)
    # The sender that came first, and those with most hits.
    most = sorted(in_order[1:], key=lambda f: -f.hits[key])[: SENDERS_MAX - 1]
    shown = sorted([in_order[0], *most], key=lambda f: f.first)
    together: Counter[str] = Counter()
    for finder in shown:
        together.update(dict.fromkeys(finder.hits, 1))
    others = [name for name, _ in together.most_common() if name != key]
    columns = ([] if whole else [key]) + others
    return ByTrap(tuple(columns[:TRAPS_MAX]), tuple(shown), len(who), len(found) > ROWS_MAX)
