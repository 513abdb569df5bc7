"""A report's selectors as SQL conditions.

How it works: a domain and everything below it is one range of `message_domain` (see tables.py),
an address is one key of it, so no selector ever becomes a pattern. A prefix is looked up among the
recorded clients: as text it is no range of its own.
"""

import json
from collections.abc import Sequence
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import inet_aton
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Text,
    and_,
    bindparam,
    cast,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
)

from gatepost_policy.mail import client_address, index_key
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import IdentityKind
from gatepost_policy.report.selection import Selection, key_range
from gatepost_policy.store.tables import (
    AT_DOMAIN,
    Message,
    MessageDomain,
    MessageRecipient,
    MessageSignature,
    SenderIdentity,
)

PREFIXES_MAX = 20_000
# Messages to a domain that are named one by one. Of more each query finds them anew by itself.
IDS_MAX = 50_000
# By connection, which the store opens for one transaction: what another one sees is another thing.
_looked_up: "WeakKeyDictionary[Connection, dict[str, list[int] | None]]" = WeakKeyDictionary()


class TooWide(Exception):
    """A `--host` prefix holds more clients than one query can name. The text says what to do."""


def covers(table: Any, domain: str | None) -> ColumnElement[bool]:
    """One row a message (or its share of a sum) of `domain` and all below it; see tables.py.

    None stands for everything: for sums alone, which are kept for that too.
    """
    if domain is None:
        everything: ColumnElement[bool] = table.reversed == index_key.EVERYTHING
        return everything
    start, end = (index_key.fit(key) for key in key_range(domain))
    return and_(table.reversed >= start, table.reversed < end, table.shared < len(start))


def covers_given(table: Any) -> ColumnElement[bool]:
    """`covers` for a statement that is built once: `given` has the values of its parameters."""
    return and_(
        table.reversed >= bindparam("first"),
        table.reversed < bindparam("after"),
        table.shared < bindparam("length"),
    )


def given(domain: str) -> dict[str, str | int]:
    """The parameters of `covers_given`."""
    start, end = (index_key.fit(key) for key in key_range(domain))
    return {"first": start, "after": end, "length": len(start)}


def only_domain_and_time(selection: Selection) -> bool:
    """True where the keys of `message_domain` say all about what is selected."""
    return not selection.by_rows and selection.family is None


def conditions(connection: Connection, selection: Selection) -> list[ColumnElement[bool]]:
    """What a message row must fulfil to be selected. Raises TooWide."""
    if selection.only is not None:
        return [among(connection, selection.only)]
    found: list[ColumnElement[bool]] = []
    if selection.sender is not None:
        found.append(_by_sender(selection))
    if selection.host is not None:
        found.append(_by_host(connection, selection.host))
    if selection.trap is not None:
        found.append(_by_recipient(connection, selection.trap))
    if selection.since is not None:
        found.append(Message.at >= selection.since)
    if selection.until is not None:
        found.append(Message.at < selection.until)
    if selection.family is not None:
        found.append(Message.family == str(selection.family))
    if selection.name is not None:
        found.append(_by_name(selection.name))
    for column, text in (
        (Message.queue_id, selection.queue_id),
        (Message.message_id, selection.message_id),
        (Message.spf, selection.spf),
        (Message.dmarc, selection.dmarc),
        (Message.action, selection.decision),
        (Message.reason, selection.reason),
        (Message.source, selection.source),
    ):
        if text is not None:
            found.append(column == text)
    if selection.dkim is not None:
        found.append(_by_dkim(selection.dkim))
    return found


def _by_name(name: str) -> ColumnElement[bool]:
    """A client's name or one below it. No pattern: `_` and `%` are characters like others."""
    client, end = func.lower(Message.client_name), f".{name}"
    start = func.length(client) - len(end) + 1
    return or_(client == name, and_(start > 1, func.substr(client, start) == end))


def _by_dkim(result: str) -> ColumnElement[bool]:
    """A message with a signature of this result; `none` is one that was seen whole, unsigned."""
    # A name of its own: the query around it may look at the signatures as well.
    row = MessageSignature.__table__.alias().c
    mine = exists().where(row.message_id == Message.id)
    if result == "none":
        return and_(Message.stage == "end", or_(~mine, mine.where(row.result == "none")))
    return mine.where(row.result == result)


def _by_recipient(connection: Connection, trap: Address) -> ColumnElement[bool]:
    """A message to this recipient. A domain's are looked up once for all queries of a report."""
    chosen = select(MessageRecipient.message_id).where(recipient(trap))
    if trap.local or not trap.domain:
        return Message.id.in_(chosen)
    known = _looked_up.setdefault(connection, {})
    if trap.trap_key not in known:
        ids = list(connection.scalars(chosen.distinct().limit(IDS_MAX + 1)))
        known[trap.trap_key] = None if len(ids) > IDS_MAX else ids
    found = known[trap.trap_key]
    if found is None:
        return Message.id.in_(chosen)
    return among(connection, found)


def among(connection: Connection, ids: Sequence[int]) -> ColumnElement[bool]:
    """A message with one of these ids. One value, however many: a database takes only so many."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(ids)).table_valued("value")
        return Message.id.in_(select(each.c.value))
    return Message.id == func.any(cast(literal(list(ids), ARRAY(BigInteger)), ARRAY(BigInteger)))


def recipient(trap: Address) -> ColumnElement[bool]:
    """A recipient's key, or everybody in a domain for `@example.org`; an index for either."""
    key = index_key.fit(index_key.clean(trap.trap_key))
    if trap.local or not trap.domain:
        return MessageRecipient.trap_key == key
    return literal_column(AT_DOMAIN, Text) == key


def by_domain(selection: Selection) -> list[ColumnElement[bool]] | None:
    """What a `message_domain` row must fulfil, one row a message; None: its keys do not tell."""
    address, domain = selection.address, selection.domain
    if address is not None and not address.null:
        found: list[ColumnElement[bool]] = [
            MessageDomain.reversed == index_key.address_key(address)
        ]
    elif domain is not None:
        found = [covers(MessageDomain, domain)]
    else:
        return None
    if selection.since is not None:
        found.append(MessageDomain.at >= selection.since)
    if selection.until is not None:
        found.append(MessageDomain.at < selection.until)
    return found


@cache
def proven() -> ColumnElement[bool]:
    """`facts.Signature.proven` of a row with a domain (a test holds the two together)."""
    row = MessageSignature
    flags = literal(",") + func.coalesce(row.flags, "") + literal(",")
    return and_(
        row.crypto == "pass",
        row.result.in_(("pass", "policy")),
        func.coalesce(row.unsigned_bytes, 0) == 0,
        or_(row.body_limit.is_(None), row.unsigned_bytes.is_not(None)),
        *(flags.not_like(f"%,{flag},%") for flag in ("testing-key", "expired")),
        row.algorithm.is_not(None),
        or_(row.algorithm.not_like("rsa%"), row.key_bits >= 1024),
    )


def _by_sender(selection: Selection) -> ColumnElement[bool]:
    keys = by_domain(selection)
    if keys is not None:
        return Message.id.in_(select(MessageDomain.message_id).where(*keys))
    # `<>`, in words of the index: a parameter would not be known to be what it holds.
    return Message.sender_key == literal_column("''")


def _by_host(connection: Connection, network: IPv4Network | IPv6Network) -> ColumnElement[bool]:
    single = network.prefixlen == network.max_prefixlen
    if single or (network.version == 6 and network.prefixlen > 64):
        prefix = str(network if network.version == 4 else network.supernet(new_prefix=64))
        if network.version == 4:
            return Message.prefix == prefix
        if not single:
            raise TooWide(f"want one address, or a prefix of /64 or wider, got {network}")
        # An old row has no address any more: its /64 is all that is known.
        address = func.coalesce(Message.address, str(network.network_address))
        return and_(Message.prefix == prefix, address == str(network.network_address))
    prefixes = known_prefixes(connection, network)
    if len(prefixes) > PREFIXES_MAX:
        raise TooWide(f"{len(prefixes)} clients are known in {network}; ask for a longer prefix")
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(list(prefixes))).table_valued("value")
        return Message.prefix.in_(select(each.c.value))
    return Message.prefix == func.any(cast(literal(list(prefixes), ARRAY(Text)), ARRAY(Text)))


def known_prefixes(connection: Connection, network: IPv4Network | IPv6Network) -> Sequence[str]:
    """The recorded client prefixes inside `network`."""
    value = SenderIdentity.value
    start, end = _text_range(network)
    rows = connection.scalars(
        select(value).where(
            SenderIdentity.kind == str(IdentityKind.PREFIX), value >= start, value < end
        )
    )
    # The text range only narrows; which prefix is inside is for the numbers to say.
    inside = [text for text in rows if _inside(text, network)]
    # What retention has left of the older ones.
    coarse = {index_key.coarse_prefix(text) for text in inside}
    return inside + sorted(text for text in coarse if _inside(text, network))


def _inside(text: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        if network.version == 4 and text.endswith("/32"):
            # Most of them: an object for each costs seconds.
            number, shift = int.from_bytes(inet_aton(text[:-3])), 32 - network.prefixlen
            return number >> shift == int(network.network_address) >> shift
        return client_address.network_within(ip_network(text), network)
    except (ValueError, OSError):
        return False


def _text_range(network: IPv4Network | IPv6Network) -> tuple[str, str]:
    """From and to of the texts that every prefix inside `network` lies between."""
    if network.version == 4:
        parts = str(network.network_address).split(".")[: network.prefixlen // 8]
        text, after = ".".join(parts) + ".", "/"
    else:
        groups = network.network_address.exploded.split(":")[: network.prefixlen // 16]
        parts = [f"{int(group, 16):x}" for group in groups]
        # Trailing zero groups may be hidden in `::`, so only what stands before them is sure.
        while parts and parts[-1] == "0":
            parts.pop()
        text, after = ":".join(parts) + ":", ";"
    return (text, text[:-1] + after) if parts else ("", "g")
