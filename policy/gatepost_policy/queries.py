"""Count messages for a report, on SQLite and PostgreSQL.

How it works: a domain and everything below it is one range of `message_domain` (see tables.py),
an address is one key of it, so no selector ever becomes a LIKE pattern. A whole domain's summary
and the overview's come from the sums of `domain_day` and `domain_host`; whatever is narrowed
further (by time, host, trap, family, or to one address) is counted from the rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Select,
    and_,
    cast,
    func,
    select,
)

from gatepost_policy import derive, rhythm
from gatepost_policy.address import Address
from gatepost_policy.facts import Family, IdentityKind
from gatepost_policy.rhythm import Rhythm
from gatepost_policy.selection import Selection, key_range
from gatepost_policy.summary import Host, Summary
from gatepost_policy.tables import (
    DomainDay,
    DomainHost,
    Message,
    MessageDomain,
    MessageRecipient,
    MessageSignature,
    SenderIdentity,
)

RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror", "none")
HOSTS_MAX = 1_000
PREFIXES_MAX = 20_000


class TooWide(Exception):
    """A `--host` prefix holds more clients than one query can name. The text says what to do."""


@dataclass(frozen=True, slots=True)
class Counted:
    """What the selected messages come to. `hosts` says how many clients there are in all."""

    summary: Summary
    rhythm: Rhythm | None
    trap_messages: int
    hosts: int


def count(connection: Connection, selection: Selection) -> Counted:
    """Summary and rhythm of everything selected. Raises TooWide."""
    if not selection.narrowed and (selection.everything or selection.domain is not None):
        return _from_sums(connection, selection.domain)
    return _from_rows(connection, selection)


def _covers(table: Any, domain: str | None) -> ColumnElement[bool]:
    """One row a message (or its share of a sum) of `domain` and all below it; see tables.py.

    None stands for everything: for sums alone, which are kept for that too.
    """
    if domain is None:
        everything: ColumnElement[bool] = table.reversed == derive.EVERYTHING
        return everything
    start, end = (derive.fit(key) for key in key_range(domain))
    return and_(table.reversed >= start, table.reversed < end, table.shared < len(start))


def _from_sums(connection: Connection, domain: str | None) -> Counted:
    mine = _covers(DomainDay, domain)
    day = DomainDay
    results = (
        day.dkim_pass, day.dkim_fail, day.dkim_policy, day.dkim_neutral,
        day.dkim_temperror, day.dkim_permerror, day.dkim_none,
    )  # fmt: skip
    rows = connection.execute(
        select(
            day.family,
            func.sum(day.messages),
            func.sum(day.trap_messages),
            func.sum(day.trap_hits),
            func.min(day.first_at),
            func.max(day.last_at),
            *(func.sum(column) for column in results),
        )
        .where(mine)
        .group_by(day.family)
    ).all()
    messages = sum(int(row[1]) for row in rows)
    if not messages:
        return Counted(Summary(), None, 0, 0)
    first, last = min(row[4] for row in rows), max(row[5] for row in rows)
    if rhythm.certainly_dense(messages, first, last):
        days = connection.scalars(select(day.day).where(mine).distinct()).all()
        beat: Rhythm | None = Rhythm(
            messages, first, last, len(days), rhythm.count_months(days), median_gap=0.0
        )
    else:
        times = select(Message.at)
        if domain is not None:
            times = select(MessageDomain.at).where(_covers(MessageDomain, domain))
        beat = rhythm.of(connection.scalars(times).all())
    host = DomainHost
    hosts, in_all = _hosts(
        connection,
        select(
            host.host,
            host.family,
            func.max(host.name).label("name"),
            func.sum(host.messages).label("messages"),
        )
        .where(_covers(DomainHost, domain))
        .group_by(host.host, host.family),
    )
    summary = Summary(
        messages=messages,
        first_seen=first,
        last_seen=last,
        families=_families({row[0]: int(row[1]) for row in rows}),
        dkim=_results({r: sum(int(row[6 + i]) for row in rows) for i, r in enumerate(RESULTS)}),
        trap_hits=sum(int(row[3]) for row in rows),
        median_gap_days=None if beat is None else beat.median_gap,
        hosts=hosts,
    )
    return Counted(summary, beat, sum(int(row[2]) for row in rows), in_all)


def _from_rows(connection: Connection, selection: Selection) -> Counted:
    """One pass over the messages, by client; one over their signatures; one over their times."""
    chosen = conditions(connection, selection)
    client: ColumnElement[str | None] = func.coalesce(Message.address, Message.prefix)
    groupings: list[ColumnElement[Any]] = [client, Message.family.expression]
    groups = connection.execute(
        select(
            client,
            Message.family,
            func.max(Message.client_name),
            func.count(),
            func.count().filter(Message.traps > 0),
            func.sum(Message.traps),
            func.count().filter(Message.stage == "end"),
            func.min(Message.at),
            func.max(Message.at),
        )
        .where(*chosen)
        .group_by(*groupings)
    ).all()
    messages = sum(row[3] for row in groups)
    if not messages:
        return Counted(Summary(), None, 0, 0)
    families: Counter[str] = Counter()
    for row in groups:
        families[row[1]] += row[3]
    first, last = min(row[7] for row in groups), max(row[8] for row in groups)
    results, signed = _signatures(connection, selection, chosen)
    # A message of which only a RCPT TO was seen may have been signed: nobody knows.
    results["none"] += sum(row[6] for row in groups) - signed
    beat = _rhythm(connection, selection, chosen, messages, first, last)
    hosts = [Host(row[2], bare(row[0]), row[1], row[3]) for row in groups if row[0] is not None]
    hosts.sort(key=lambda host: (-host.messages, host.address or ""))
    in_all = len(hosts)
    summary = Summary(
        messages=messages,
        first_seen=first,
        last_seen=last,
        families=_families(families),
        dkim=_results(results),
        trap_hits=sum(int(row[5]) for row in groups),
        median_gap_days=beat.median_gap,
        hosts=tuple(hosts[:HOSTS_MAX]),
    )
    return Counted(summary, beat, sum(row[4] for row in groups), in_all)


def _signatures(
    connection: Connection, selection: Selection, chosen: list[ColumnElement[bool]]
) -> tuple[Counter[str], int]:
    """How many signatures there are by result, and how many messages have one."""
    column = MessageSignature.message_id
    of_these = []
    if chosen:
        keys = by_domain(selection) if _only_domain_and_time(selection) else None
        ids = (
            select(Message.id).where(*chosen)
            if keys is None
            else select(MessageDomain.message_id).where(*keys)
        )
        of_these = [column.in_(ids)]
    results: Counter[str] = Counter()
    for result, number in connection.execute(
        select(MessageSignature.result, func.count())
        .where(*of_these)
        .group_by(MessageSignature.result)
    ):
        results[result] += number
    signed = connection.scalar(select(func.count(column.distinct())).where(*of_these))
    return results, signed or 0


def _only_domain_and_time(selection: Selection) -> bool:
    """True where the keys of `message_domain` say all about what is selected."""
    return selection.host is None and selection.trap is None and selection.family is None


def _rhythm(
    connection: Connection,
    selection: Selection,
    chosen: list[ColumnElement[bool]],
    messages: int,
    first: float,
    last: float,
) -> Rhythm:
    keys = by_domain(selection) if _only_domain_and_time(selection) else None
    if keys is None:
        at, where = Message.at, chosen
    else:
        at, where = MessageDomain.at, keys
    if not rhythm.certainly_dense(messages, first, last):
        found = rhythm.of(connection.scalars(select(at).where(*where)).all())
        assert found is not None
        return found
    # PostgreSQL's cast rounds to the next second, SQLite's cuts: of thousands of messages the one
    # at midnight decides nothing.
    day = cast(at, BigInteger) // rhythm.DAY
    days = connection.scalars(select(day).where(*where).distinct()).all()
    return Rhythm(messages, first, last, len(days), rhythm.count_months(days), median_gap=0.0)


def _hosts(
    connection: Connection, grouped: "Select[str, str, str | None, int]"
) -> tuple[tuple[Host, ...], int]:
    """The clients with most messages, and how many there are in all."""
    found = grouped.subquery()
    rows = connection.execute(
        select(found.c.host, found.c.family, found.c.name, found.c.messages)
        .order_by(found.c.messages.desc(), found.c.host)
        .limit(HOSTS_MAX)
    ).all()
    in_all = len(rows)
    if in_all == HOSTS_MAX:
        in_all = connection.scalar(select(func.count()).select_from(found)) or in_all
    return tuple(Host(row[2], bare(row[0]), row[1], int(row[3])) for row in rows), in_all


def bare(address: str | None) -> str | None:
    """A client as it is shown: the prefix of a single address is that address."""
    return None if address is None else address.removesuffix("/32")


def _families(counts: Mapping[str, int]) -> dict[str, int]:
    """What was seen, in the manual's order."""
    return {str(f): counts[f] for f in Family if counts.get(f)}


def _results(counts: Mapping[str, int]) -> dict[str, int]:
    return {result: counts[result] for result in RESULTS if counts.get(result)}


def conditions(connection: Connection, selection: Selection) -> list[ColumnElement[bool]]:
    """What a message row must fulfil to be selected. Raises TooWide."""
    found: list[ColumnElement[bool]] = []
    if selection.sender is not None:
        found.append(_by_sender(selection))
    if selection.host is not None:
        found.append(_by_host(connection, selection.host))
    if selection.trap is not None:
        found.append(
            Message.id.in_(select(MessageRecipient.message_id).where(_recipient(selection.trap)))
        )
    if selection.since is not None:
        found.append(Message.at >= selection.since)
    if selection.until is not None:
        found.append(Message.at < selection.until)
    if selection.family is not None:
        found.append(Message.family == str(selection.family))
    return found


def _recipient(trap: Address) -> ColumnElement[bool]:
    """A recipient's key, or everybody in a domain for `@example.org` (which reads them all)."""
    key = derive.fit(derive.clean(trap.trap_key))
    if trap.local or not trap.domain:
        return MessageRecipient.trap_key == key
    return MessageRecipient.trap_key.endswith(key, autoescape=True)


def by_domain(selection: Selection) -> list[ColumnElement[bool]] | None:
    """What a `message_domain` row must fulfil, one row a message; None: its keys do not tell."""
    address, domain = selection.address, selection.domain
    if address is not None and address.domain:
        found: list[ColumnElement[bool]] = [MessageDomain.reversed == derive.address_key(address)]
    elif domain is not None:
        found = [_covers(MessageDomain, domain)]
    else:
        return None
    if selection.since is not None:
        found.append(MessageDomain.at >= selection.since)
    if selection.until is not None:
        found.append(MessageDomain.at < selection.until)
    return found


def _by_sender(selection: Selection) -> ColumnElement[bool]:
    keys = by_domain(selection)
    if keys is not None:
        return Message.id.in_(select(MessageDomain.message_id).where(*keys))
    # `<>`, or a local user without a domain
    return Message.sender_key == ("" if selection.address is None else selection.address.key)


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
    return Message.prefix.in_(prefixes)


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
    coarse = {derive.coarse_prefix(text) for text in inside}
    return inside + sorted(text for text in coarse if _inside(text, network))


def _inside(text: str, network: IPv4Network | IPv6Network) -> bool:
    try:
        return ip_network(text).subnet_of(network)  # type: ignore[arg-type]
    except (ValueError, TypeError):  # TypeError: the other family
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
