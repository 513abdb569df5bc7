"""The record of trap hits: one row for each message and each organisation or prefix it counts for.

`past` reads it. Every hit is recorded, also one that listed nobody: an excuse holds only a few
times, and a hit with one witness can later get its second.
"""

from collections.abc import Sequence

from sqlalchemy import Connection, delete

from gatepost_policy.listings.table import Fresh
from gatepost_policy.mail import index_key
from gatepost_policy.mail.organisation import organisation
from gatepost_policy.rules.blame import Blame
from gatepost_policy.store.sqltext import chunks, insert, many
from gatepost_policy.store.tables import TrapHit


def remember(connection: Connection, row: Fresh, found: Blame) -> None:
    """Record whose hit this message was, and the reason that `blame` found."""
    facts = row.seen.facts
    name = facts.client.name
    # The hash of the organisation's own signature, or of any where nobody is proven.
    hashes: dict[str, str] = {}
    for signature in facts.signatures:
        if signature.proven and signature.domain and signature.b_hash:
            hashes.setdefault(organisation(signature.domain), signature.b_hash)
    prefix, host = facts.client.prefix, None if name is None else host_of(name)
    # The columns of `trap_hit` in their order.
    values = [
        (
            row.message_id, index_key.fit(index_key.clean(whose)), facts.at, str(found.reason),
            hashes.get(whose), prefix, host,
        )
        for whose in dict.fromkeys(found.whose)
    ]  # fmt: skip
    many(connection, insert("trap_hit"), values)


def host_of(name: str) -> str:
    """The organisation of a client's verified name, as both databases can store it."""
    return index_key.clean(organisation(name.rstrip(".").lower()))


def forget(connection: Connection, messages: Sequence[int]) -> None:
    """Delete the hits of these messages (numbers), which are void or erased."""
    for part in chunks(messages):
        connection.execute(delete(TrapHit).where(TrapHit.message_id.in_(part)))
