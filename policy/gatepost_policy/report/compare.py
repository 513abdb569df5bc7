"""Two senders side by side: what they share. Whether one person is behind both is not concluded.

Shared keys, clients, networks and traps, and the order in which each first hit the traps.
"""

from dataclasses import replace
from typing import Any

from sqlalchemy import Connection, func, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.index_key import coarse_prefix
from gatepost_policy.report import history, holding
from gatepost_policy.report.conditions import conditions
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import Message, MessageRecipient
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

TRAPS_MAX = 1_000  # of one sender, compared
SHOWN_MAX = 50


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. `traps`: (trap, first hit in Unix seconds), in the order they were hit."""

    name: str
    report: Report
    traps: tuple[tuple[str, float], ...]

    def json(self) -> dict[str, Any]:
        """As in the comparison's `a` and `b`."""
        told = self.report.json()
        return {
            "sender": self.name,
            **{key: told[key] for key in ("summary", "rhythm", "movement", "standing", "keys")},
            "traps": [{"trap": trap, "first_seen": timestamp(at)} for trap, at in self.traps],
        }


@dataclass(frozen=True, slots=True)
class Compared:
    """The two senders and what they share. `same_order`: whether both first hit the shared traps in
    the same order; None where they share fewer than two."""

    a: Side
    b: Side
    keys: tuple[str, ...]
    hosts: tuple[str, ...]
    networks: tuple[str, ...]
    traps: tuple[str, ...]
    same_order: bool | None

    @property
    def sentences(self) -> list[str]:
        """What they share, in words."""
        parts = (
            ("DKIM key", self.keys), ("client", self.hosts), ("network", self.networks),
            ("trap", self.traps),
        )  # fmt: skip
        said = [
            f"{len(what)} shared {word}{'' if len(what) == 1 else 's'}: {', '.join(what[:8])}"
            + (f" and {len(what) - 8} more" if len(what) > 8 else "")
            if what
            else f"no shared {word} is known"
            for word, what in parts
        ]
        if self.same_order is not None:
            order = "in the same order" if self.same_order else "in different orders"
            said.append(f"the shared traps were first hit {order}")
        return said

    def json(self) -> dict[str, Any]:
        """The whole comparison."""
        return {
            "a": self.a.json(),
            "b": self.b.json(),
            "shared": {
                "keys": list(self.keys),
                "hosts": list(self.hosts),
                "networks": list(self.networks),
                "traps": list(self.traps),
                "same_order": self.same_order,
            },
        }


def read(
    connection: Connection, a: Selection, b: Selection, settings: Settings, now: float
) -> Compared:
    """The comparison of two selections, each of one sender; `now` in Unix seconds."""
    one, other = (_side(connection, chosen, settings, now) for chosen in (a, b))
    order = [trap for trap, _ in one.traps]
    both = [trap for trap, _ in other.traps if trap in order]
    shared = [trap for trap in order if trap in both]
    return Compared(
        one,
        other,
        keys=_both(_keys(one), _keys(other)),
        hosts=_both(_hosts(one), _hosts(other)),
        networks=_both(_networks(one), _networks(other)),
        traps=tuple(shared),
        same_order=None if len(shared) < 2 else shared == both,
    )


def _side(connection: Connection, chosen: Selection, settings: Settings, now: float) -> Side:
    held, less = holding.hold(connection, chosen)
    # limit=0: the list of messages is not needed for a comparison.
    report = history.tell(connection, replace(held, limit=0), settings, now, marks=0)
    row = MessageRecipient
    first = func.min(Message.at)
    traps = connection.execute(
        select(row.trap_key, first)
        .join(Message, Message.id == row.message_id)
        .where(*conditions(connection, held), Message.traps > 0, row.trap)
        .group_by(row.trap_key)
        .order_by(first)
        .limit(TRAPS_MAX)
    )
    name = chosen.sender or str(chosen.query().get("host", ""))
    found = tuple((trap, at) for trap, at in traps)
    return Side(name, replace(report, held=less), found)


def _both(one: set[str], other: set[str]) -> tuple[str, ...]:
    return tuple(sorted(one & other)[:SHOWN_MAX])


def _keys(side: Side) -> set[str]:
    return {f"{key.domain}/{key.selector}" for key in side.report.keys}


def _hosts(side: Side) -> set[str]:
    return {host.address for host in side.report.summary.hosts if host.address is not None}


def _networks(side: Side) -> set[str]:
    """The networks of its clients: /24 for IPv4, /48 for IPv6."""
    return {coarse_prefix(text) for text in _hosts(side)}
