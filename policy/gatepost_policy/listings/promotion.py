"""Promotion: where many /64s of one IPv6 network are listed, their /56 and /48 become suspects.

What a suspect gets is `sender.promotion` (rules): by default it is only recorded, because hosters
put strangers next to each other.

Limits: CHILDREN_MAX listings a day in one /48. A spammer who owns it has 65 536 /64s; after that
many, one more makes no difference, and the table stays bounded.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Network

from sqlalchemy import Connection, select

from gatepost_policy.listings import table
from gatepost_policy.listings.table import Fresh
from gatepost_policy.store.tables import Listing

CHILDREN_MAX = 256
PROMOTE_CHILDREN = 3
DAY_S = 86_400
KIND = "promoted"


def network_of(prefix: str) -> str | None:
    """The /48 of an IPv6 prefix, None for IPv4."""
    return str(IPv6Network(prefix).supernet(new_prefix=48)) if ":" in prefix else None


@lru_cache(maxsize=4_096)
def _parent(prefix: str) -> str:
    """The /56 of a /64."""
    return str(IPv6Network(prefix).supernet(new_prefix=56))


def children(connection: Connection, network: str, at: float) -> list[str]:
    """The /64s of `network` that were listed within the last day."""
    return list(
        connection.execute(
            select(Listing.value)
            .where(
                Listing.network == network,
                Listing.since > at - DAY_S,
                Listing.kind == "prefix",
                Listing.forgiven.is_(None),
            )
            .limit(CHILDREN_MAX + 1)
        ).scalars()
    )


def promote(
    connection: Connection,
    row: Fresh,
    value: str,
    network: str,
    siblings: Sequence[str],
    seconds: int,
) -> None:
    """Three listed /64s within a day make their /56 a suspect, three such /56s their /48."""
    at = row.seen.facts.at
    groups: dict[str, set[str]] = {}
    for child in {*siblings, value}:
        groups.setdefault(_parent(child), set()).add(child)
    mine = _parent(value)
    wanted = [mine] if len(groups[mine]) >= PROMOTE_CHILDREN else []
    if len(groups) >= PROMOTE_CHILDREN:
        wanted.append(network)
    for parent in wanted:
        last = table.newest(connection, KIND, parent)
        if last is not None and last["forgiven"] is None and at < last["until"]:
            table.add_hit(connection, row, last["id"])
        else:
            table.begin(connection, row, KIND, parent, seconds, "promotion", None)
