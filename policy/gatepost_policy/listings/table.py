"""The listing table: the newest row of an identity, a new one, one more hit on it.

Each function runs a few indexed statements, whatever came before.

Limits: EVIDENCE_MAX rows of evidence a listing; hits beyond it are counted only.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import Connection, RowMapping, insert

from gatepost_policy.journal.record import Seen
from gatepost_policy.mail import address, client_address, index_key
from gatepost_policy.store import sqltext
from gatepost_policy.store.tables import Listing
from gatepost_policy.text.escape import shown

EVIDENCE_MAX = 100
LONGEST = 100  # characters of what a hand-made row holds, in a line


@dataclass(frozen=True, slots=True)
class Fresh:
    """A message row that was just inserted.

    `replaces` are rows of the policy service or the milter for the same message that it made void.
    `fresh`: from a followed log, and read soon after it happened.
    """

    message_id: int
    seen: Seen
    replaces: tuple[int, ...] = ()
    fresh: bool = False


def without_effect(kind: str, value: str) -> str | None:
    """One line where no message can ever be found under such a listing: a row made by hand, in SQL.

    None where there is nothing wrong with it.
    """
    wanted = ""
    if kind in ("prefix", "promoted"):
        if not client_address.is_listed_network(value):
            wanted = "a network as gatepost writes it (192.0.2.0/24, 2001:db8::/64)"
    elif kind in ("dkim", "promoted-dkim", "sender", "author"):
        domain = value.rpartition("@")[2] if "@" in value or "dkim" in kind else value.lower()
        if not domain or domain != domain.lower():
            wanted = "its domain in lower case"
    else:
        wanted = "prefix, dkim, sender or author as its kind"
    if not wanted:
        return None
    named = f"{shown(kind[:LONGEST])} '{shown(value[:LONGEST])}'"
    return f"listing {named}: without effect, it was not made by gatepost; want {wanted}"


def trap_keys(row: Fresh) -> list[str]:
    """The traps of a message, each once, as both databases can store them."""
    keys = (index_key.clean(address.parse(t).trap_key) for t in row.seen.traps)
    return list(dict.fromkeys(keys))


def newest(connection: Connection, kind: str, value: str) -> RowMapping | None:
    """The listing of this identity that ends last, or None: it decides what the next hit does."""
    sql = "SELECT * FROM listing WHERE kind = ? AND value = ? ORDER BY until DESC, id DESC LIMIT 1"
    return sqltext.execute(connection, sql, (kind, value)).mappings().one_or_none()


# So many changes are kept: the publisher reads some again, because they may become visible out of
# order.
CHANGES_KEPT = 100_000


def changed(connection: Connection, identities: Iterable[tuple[str, str]]) -> None:
    """Record that the listings of these (kind, value) changed and have to be published."""
    sql = "INSERT INTO listing_change (kind, value) VALUES (?, ?)"
    sqltext.many(connection, sql, list(identities))


def begin(
    connection: Connection,
    row: Fresh,
    kind: str,
    value: str,
    seconds: int,
    reason: str,
    network: str | None,
) -> None:
    """Begin a listing at the time of `row`, for `seconds`, with its first hit. `network` is the /48
    or the organisation it counts for (`promotion`).
    """
    at = row.seen.facts.at
    made = connection.execute(
        insert(Listing).values(
            kind=kind,
            value=value,
            since=at,
            until=at + seconds,
            seconds=seconds,
            reason=reason,
            hits=0,
            by_hand=False,
            network=network,
        )
    )
    changed(connection, [(kind, value)])
    key = made.inserted_primary_key
    assert key is not None
    add_hit(connection, row, int(key[0]))


def add_hit(connection: Connection, row: Fresh, listing_id: int) -> None:
    """Add a hit; its traps are kept as evidence, up to EVIDENCE_MAX rows for a listing."""
    sqltext.execute(connection, "UPDATE listing SET hits = hits + 1 WHERE id = ?", (listing_id,))
    sql = "SELECT count(*) FROM evidence WHERE listing_id = ?"
    kept = sqltext.execute(connection, sql, (listing_id,)).scalar_one()
    keys = trap_keys(row)[: max(EVIDENCE_MAX - kept, 0)]
    # The columns of `evidence` in their order.
    rows = [(listing_id, row.message_id, key, row.seen.facts.at) for key in keys]
    sqltext.many(connection, sqltext.insert("evidence"), rows)
