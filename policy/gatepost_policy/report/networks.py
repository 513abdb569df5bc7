"""Clients that hit traps as a tree of networks, to see snowshoe spam: many neighbouring addresses.

Read from `sender_identity`, which has an index of those that hit a trap. Networks are IPv4 /16 and
/24, IPv6 /32 and /48; a network is shown where at least two of its clients hit a trap.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

from sqlalchemy import Connection, select

from gatepost_policy.mail.facts import IdentityKind
from gatepost_policy.store.tables import SenderIdentity
from gatepost_policy.text.times import timestamp

CLIENTS_MAX = 20_000  # the newest are looked at
WIDE_MAX, INNER_MAX, CLIENTS_SHOWN = 40, 20, 10
BITS = {4: (16, 24), 6: (32, 48)}


@dataclass(slots=True)
class Network:
    """One network, or one client. Times in Unix seconds; `clients` counts those that hit a trap."""

    prefix: str
    clients: int = 0
    messages: int = 0
    trap_messages: int = 0
    first: float = 0.0
    last: float = 0.0
    inner: dict[str, "Network"] = field(default_factory=dict)

    def add(self, messages: int, trapped: int, first: float, last: float) -> None:
        """Count one client."""
        self.first = min(self.first, first) if self.clients else first
        self.last = max(self.last, last)
        self.clients += 1
        self.messages += messages
        self.trap_messages += trapped

    def shown(self, most: int) -> list["Network"]:
        """The networks or clients inside: those with most clients first, at most `most`."""
        order = sorted(self.inner.values(), key=lambda n: (-n.clients, -n.trap_messages, n.prefix))
        return order[:most]

    def all(self) -> Iterator["Network"]:
        """Every network and client inside, each network before what is in it."""
        for one in self.shown(len(self.inner)):
            yield one
            yield from one.all()

    def json(self, depth: tuple[int, ...] = (INNER_MAX, CLIENTS_SHOWN)) -> dict[str, Any]:
        """As JSON; `depth`: how many inner networks to list at each level below this one."""
        out: dict[str, Any] = {
            "prefix": self.prefix,
            "clients": self.clients,
            "messages": self.messages,
            "trap_messages": self.trap_messages,
            "first_seen": timestamp(self.first),
            "last_seen": timestamp(self.last),
        }
        if depth:
            out["inner"] = [one.json(depth[1:]) for one in self.shown(depth[0])]
        return out


def read(connection: Connection) -> tuple[Network, bool]:
    """(the root of the tree, whether clients beyond CLIENTS_MAX were left out)."""
    row = SenderIdentity
    found = connection.execute(
        select(row.value, row.messages, row.trap_messages, row.first_seen, row.last_seen)
        .where(row.trap_messages > 0, row.kind == str(IdentityKind.PREFIX))
        .order_by(row.last_seen.desc())
        .limit(CLIENTS_MAX + 1)
    ).all()
    clients = [
        (one.value, one.messages, one.trap_messages, one.first_seen, one.last_seen)
        for one in found[:CLIENTS_MAX]
    ]
    return tree(clients), len(found) > CLIENTS_MAX


def tree(clients: Iterable[tuple[str, int, int, float, float]]) -> Network:
    """The root of the tree of `clients`: (prefix, messages, those to traps, first, last). Pure.

    Times in Unix seconds; a prefix that is no network is left out.
    """
    root = Network("")
    for prefix, messages, trapped, first, last in clients:
        try:
            client = ip_network(prefix)
        except ValueError:
            continue
        wide, narrow = (
            str(client.supernet(new_prefix=min(bits, client.prefixlen)))
            for bits in BITS[client.version]
        )
        outer = root.inner.setdefault(wide, Network(wide))
        inner = outer.inner.setdefault(narrow, Network(narrow))
        own = inner.inner.setdefault(prefix, Network(prefix))
        for one in (root, outer, inner, own):
            one.add(messages, trapped, first, last)
    # A network with one client is not shown: the client has its own page.
    for wide in [key for key, one in root.inner.items() if one.clients < 2]:
        del root.inner[wide]
    return root
