"""A report's selectors as SQL conditions.

How it works: a domain with its subdomains is one range of `message_domain` (see tables.py), and
an address is one key of it, so no LIKE pattern is needed. A prefix is looked up among the recorded
clients, because as text it is not one range.
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
    Select,
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
# Most messages to a domain whose ids are kept for a report. With more, each query looks again.
IDS_MAX = 50_000
# By connection, because each transaction may see other messages.
_looked_up: "WeakKeyDictionary[Connection, dict[str, list[int] | None]]" = WeakKeyDictionary()


class TooWide(Exception):
    """A `--host` prefix holds more clients than one query can name. The text says what to do."""


def covers(table: Any, domain: str | None) -> ColumnElement[bool]:
    """The condition for `domain` and its subdomains: one row for each message, or each sum's share
    (`shared` in tables.py).

    None: everything. Only for tables of sums, which have rows for all mail as well.
    """
    if domain is None:
        everything: ColumnElement[bool] = table.reversed == index_key.EVERYTHING
        return everything
    start, end = (index_key.fit(key) for key in key_range(domain))
    return and_(table.reversed >= start, table.reversed < end, table.shared < len(start))


def covers_given(table: Any) -> ColumnElement[bool]:
    """`covers` with bound parameters, for a statement built once; `given` returns their values."""
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
    """True where `message_domain` alone is enough for this selection."""
    return not selection.by_rows and selection.family is None


def conditions(connection: Connection, selection: Selection) -> list[ColumnElement[bool]]:
    """The conditions for the rows of `message` that are selected. Raises TooWide."""
    found: list[ColumnElement[bool]] = []
    if selection.trapped:
        found.append(trapped())
    if selection.only is not None:
        return [*found, among(connection, selection.only)]
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


def trapped() -> ColumnElement[bool]:
    """The condition for a message to a trap. With a literal, not a parameter: only so the database
    can use the partial index."""
    return Message.traps > literal_column("0")


def _by_name(name: str) -> ColumnElement[bool]:
    """A client with this name or a name below it. Not LIKE, in which `_` and `%` are special."""
    client, end = func.lower(Message.client_name), f".{name}"
    start = func.length(client) - len(end) + 1
    return or_(client == name, and_(start > 1, func.substr(client, start) == end))


def _by_dkim(result: str) -> ColumnElement[bool]:
    """A message with a signature of this result; `none`: a message seen to its end, unsigned."""
    # An alias, because the outer query may use the table of signatures too.
    row = MessageSignature.__table__.alias().c
    mine = exists().where(row.message_id == Message.id)
    if result == "none":
        return and_(Message.stage == "end", or_(~mine, mine.where(row.result == "none")))
    return mine.where(row.result == result)


def _by_recipient(connection: Connection, trap: Address) -> ColumnElement[bool]:
    """A message to this recipient. Of a domain the ids are read once for all of a report."""
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
    """A message with one of these ids. They are one parameter, because databases limit the number
    of parameters."""
    if connection.dialect.name == "sqlite":
        return Message.id.in_(_listed(connection, ids))
    return Message.id == func.any(cast(literal(list(ids), ARRAY(BigInteger)), ARRAY(BigInteger)))


def _listed(connection: Connection, ids: Sequence[int]) -> Select[Any]:
    """These ids as a subquery."""
    if connection.dialect.name == "sqlite":
        each = func.json_each(json.dumps(ids)).table_valued("value")
        return select(each.c.value)
    return select(func.unnest(cast(literal(list(ids), ARRAY(BigInteger)), ARRAY(BigInteger))))


def chosen_ids(connection: Connection, selection: Selection) -> Select[Any]:
    """The ids of the selected messages as a subquery, without reading `message` where ids or an
    index of senders answer. Raises TooWide."""
    if selection.only is not None and not selection.trapped:
        return _listed(connection, selection.only)
    keys = by_domain(selection) if only_domain_and_time(selection) else None
    if keys is not None:
        return select(MessageDomain.message_id).where(*keys)
    return select(Message.id).where(*conditions(connection, selection))


def recipient(trap: Address) -> ColumnElement[bool]:
    """The condition for a recipient, or for all recipients in a domain (`@example.org`); each has
    an index."""
    key = index_key.fit(index_key.clean(trap.trap_key))
    if trap.local or not trap.domain:
        return MessageRecipient.trap_key == key
    return literal_column(AT_DOMAIN, Text) == key


def by_domain(selection: Selection) -> list[ColumnElement[bool]] | None:
    """The conditions for rows of `message_domain`, one for each message; None where the selection
    is not by sender."""
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
    """`facts.Signature.proven` as SQL, for a row with a domain (a test compares the two)."""
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
    # `<>`. A literal, not a parameter: only so the database can use the partial index.
    return Message.sender_key == literal_column("''")


def _by_host(connection: Connection, network: IPv4Network | IPv6Network) -> ColumnElement[bool]:
    single = network.prefixlen == network.max_prefixlen
    if single or (network.version == 6 and network.prefixlen > 64):
        prefix = str(network if network.version == 4 else network.supernet(new_prefix=64))
        if network.version == 4:
            return Message.prefix == prefix
        if not single:
            raise TooWide(f"want one address, or a prefix of /64 or wider, got {network}")
        # An old row has only its /64 left: it counts for every address in that.
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
    """The recorded client prefixes inside `network`, as text."""
    value = SenderIdentity.value
    start, end = _text_range(network)
    rows = connection.scalars(
        select(value).where(
            SenderIdentity.kind == str(IdentityKind.PREFIX), value >= start, value < end
        )
    )
    # The text range holds too many: only the numbers show which prefixes are inside.
    inside = [text for text in rows if _inside(text, network)]
    # The wider prefixes that retention has left of older clients.
    coarse = {index_key.coarse_prefix(text) for text in inside}
    return inside + sorted(text for text in coarse if _inside(text, network))


def _inside(text: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        if network.version == 4 and text.endswith("/32"):
            # The most common form. Making an object for each would take seconds.
            number, shift = int.from_bytes(inet_aton(text[:-3])), 32 - network.prefixlen
            return number >> shift == int(network.network_address) >> shift
        return client_address.network_within(ip_network(text), network)
    except (ValueError, OSError):
        return False


def _text_range(network: IPv4Network | IPv6Network) -> tuple[str, str]:
    """(start, end) of a range of texts that holds every prefix inside `network`."""
    if network.version == 4:
        parts = str(network.network_address).split(".")[: network.prefixlen // 8]
        text, after = ".".join(parts) + ".", "/"
    else:
        groups = network.network_address.exploded.split(":")[: network.prefixlen // 16]
        parts = [f"{int(group, 16):x}" for group in groups]
        # Trailing zero groups may be written as `::`, so only the groups before them are certain.
        while parts and parts[-1] == "0":
            parts.pop()
        text, after = ":".join(parts) + ":", ";"
    return (text, text[:-1] + after) if parts else ("", "g")
