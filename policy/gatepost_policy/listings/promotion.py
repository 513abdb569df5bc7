"""Promotion: what several listed identities have in common becomes a suspect.

Three listed /64s of one /56 within a day make the /56 one, listed /64s in three /56s their /48;
three listed d= of one organisation within SIGNERS_S make the organisation one, and three that one
client brought make that client one, unless many share it.

`sender.promotion` says what happens to a suspect: by default it is only recorded, because hosters
put customers that have nothing to do with each other into one network.

Limits: CHILDREN_MAX listings a day in one /48. A spammer who owns it has 65 536 /64s; the limit
keeps the table small, and the /48 is a suspect long before.
"""

from collections.abc import Sequence
from functools import lru_cache
from ipaddress import IPv6Network

from sqlalchemy import Connection, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import table
from gatepost_policy.listings.past import clients_good
from gatepost_policy.listings.table import Fresh
from gatepost_policy.mail import client_address
from gatepost_policy.mail.real_address import names_nobody
from gatepost_policy.store.tables import Evidence, Listing, TrapHit

CHILDREN_MAX = 256
PROMOTE_CHILDREN = 3
DAY_S = 86_400
SIGNERS_S = 30 * DAY_S
KIND, KIND_SIGNER = "promoted", "promoted-dkim"


def network_of(prefix: str) -> str | None:
    """The /48 of an IPv6 prefix, None for IPv4."""
    return str(IPv6Network(prefix).supernet(new_prefix=48)) if ":" in prefix else None


@lru_cache(maxsize=4_096)
def _parent(prefix: str) -> str:
    """The /56 of a /64."""
    return str(IPv6Network(prefix).supernet(new_prefix=56))


def children(connection: Connection, network: str, at: float) -> list[str]:
    """The /64s of `network` that were listed within the day before `at` (Unix seconds)."""
    values = connection.execute(
        select(Listing.value)
        .where(
            Listing.network == network,
            Listing.since > at - DAY_S,
            Listing.kind == "prefix",
            Listing.forgiven.is_(None),
        )
        .limit(CHILDREN_MAX + 1)
    ).scalars()
    # A row that was made in SQL may hold anything.
    return [value for value in values if ":" in value and client_address.is_listed_network(value)]


def promote(
    connection: Connection,
    row: Fresh,
    value: str,
    network: str,
    siblings: Sequence[str],
    seconds: int,
) -> None:
    """Three listed /64s of one /56 within a day make it a suspect, /64s in three /56s their /48."""
    groups: dict[str, set[str]] = {}
    for child in {*siblings, value}:
        groups.setdefault(_parent(child), set()).add(child)
    mine = _parent(value)
    wanted = [mine] if len(groups[mine]) >= PROMOTE_CHILDREN else []
    if len(groups) >= PROMOTE_CHILDREN:
        wanted.append(network)
    for parent in wanted:
        _suspect(connection, row, parent, seconds)


def promote_signers(
    connection: Connection, row: Fresh, organisation: str, seconds: int, settings: Settings
) -> None:
    """Three listed d= of `organisation` make it a suspect, three from one client that client."""
    facts = row.seen.facts
    since = facts.at - SIGNERS_S
    domains = connection.scalars(
        select(Listing.value)
        .where(
            Listing.network == organisation,
            Listing.since > since,
            Listing.kind == "dkim",
            Listing.forgiven.is_(None),
        )
        .distinct()
        .limit(PROMOTE_CHILDREN)
    ).all()
    # A listing of the organisation's own name already covers all below it.
    if len(domains) >= PROMOTE_CHILDREN and organisation not in domains:
        _suspect(connection, row, organisation, seconds, KIND_SIGNER)
    prefix = facts.client.prefix
    address = facts.client.address
    if prefix is None or address is None or names_nobody(address):
        return
    if _signers_of(connection, prefix, since) < PROMOTE_CHILDREN:
        return
    ((_, good),) = clients_good(connection, [(prefix, facts.at)], settings)
    if not good.counts(settings.sender.good_messages):
        _suspect(connection, row, prefix, seconds)


def _signers_of(connection: Connection, prefix: str, since: float) -> int:
    """How many listed d= this client brought to traps, PROMOTE_CHILDREN at most."""
    return len(
        connection.scalars(
            select(Listing.value)
            .join(Evidence, Evidence.listing_id == Listing.id)
            .join(TrapHit, TrapHit.message_id == Evidence.message_id)
            .where(
                TrapHit.prefix == prefix,
                TrapHit.at > since,
                Listing.kind == "dkim",
                Listing.forgiven.is_(None),
            )
            .distinct()
            .limit(PROMOTE_CHILDREN)
        ).all()
    )


def _suspect(
    connection: Connection, row: Fresh, value: str, seconds: int, kind: str = KIND
) -> None:
    """Begin the listing of a suspect, or add a hit to the one that holds."""
    last = table.newest(connection, kind, value)
    if last is not None and last["forgiven"] is None and row.seen.facts.at < last["until"]:
        table.add_hit(connection, row, last["id"])
    else:
        table.begin(connection, row, kind, value, seconds, "promotion", None)
