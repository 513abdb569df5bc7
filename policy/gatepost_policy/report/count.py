"""Count messages for a report, on SQLite and PostgreSQL.

How it works: the summaries of a whole domain and of the overview come from the sums of `domain_day`
and `domain_host`. A narrower selection (by time, host, trap, or one address) is counted from the
rows; for a period the sums of its whole days are used (`day_sums`).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import field
from functools import cache
from heapq import nsmallest
from typing import Any

from sqlalchemy import ColumnElement, Connection, Executable, bindparam, func, select

from gatepost_policy.mail.facts import Family
from gatepost_policy.mail.results import DMARC_RESULTS, RESULTS, SPF_RESULTS
from gatepost_policy.report import day_sums, rhythm
from gatepost_policy.report.conditions import conditions, covers, covers_given, given
from gatepost_policy.report.rhythm import Rhythm
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Host, Summary
from gatepost_policy.store.tables import DomainDay, DomainHost, Message, MessageDomain
from gatepost_policy.system.dataclass import dataclass

HOSTS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Counted:
    """The counts of the selected messages. `hosts`: the number of all clients; `spans`: {family:
    (first, last)} in Unix seconds."""

    summary: Summary
    rhythm: Rhythm | None
    trap_messages: int
    hosts: int
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def count(connection: Connection, selection: Selection) -> Counted:
    """Summary and rhythm of the selected messages. Raises TooWide, SQLAlchemyError."""
    if not selection.narrowed and (selection.everything or selection.domain is not None):
        return _from_sums(connection, selection)
    return _from_rows(connection, selection)


def _from_sums(connection: Connection, selection: Selection) -> Counted:
    day, domain, family = DomainDay, selection.domain, selection.family
    values: dict[str, Any] = {} if domain is None else given(domain)
    if family is not None:
        values["family"] = str(family)
    everything, any_family = domain is None, family is None
    rows = connection.execute(_sums(everything, any_family), values).all()
    messages = sum(int(row.messages) for row in rows)
    if not messages:
        return Counted(Summary(), None, 0, 0)
    first, last = min(row.first for row in rows), max(row.last for row in rows)
    if rhythm.certainly_dense(messages, first, last):
        mine = _narrowed(day, everything, any_family)
        days = connection.scalars(select(day.day).where(*mine).distinct(), values).all()
        beat: Rhythm | None = rhythm.dense(messages, first, last, days)
    else:
        if domain is None or family is not None:
            times = select(Message.at).where(*conditions(connection, selection))
        else:
            times = select(MessageDomain.at).where(covers(MessageDomain, domain))
        beat = rhythm.of(connection.scalars(times).all())
    hosts, in_all = _hosts(connection, everything, any_family, values)
    summary = Summary(
        messages=messages,
        first_seen=first,
        last_seen=last,
        families=families({row.family: int(row.messages) for row in rows}),
        dkim=_summed(rows, "dkim", RESULTS),
        spf=_summed(rows, "spf", SPF_RESULTS),
        dmarc=_summed(rows, "dmarc", DMARC_RESULTS),
        trap_hits=sum(int(row.trap_hits) for row in rows),
        median_gap_days=None if beat is None else beat.median_gap,
        hosts=hosts,
    )
    spans = {row.family: (row.first, row.last) for row in rows}
    return Counted(summary, beat, sum(int(row.trap_messages) for row in rows), in_all, spans)


def _from_rows(connection: Connection, selection: Selection) -> Counted:
    """`count` from the rows: grouped by client, then signatures, checks and times."""
    chosen = conditions(connection, selection)
    client: ColumnElement[str | None] = func.coalesce(Message.address, Message.prefix)
    groupings: list[ColumnElement[Any]] = [client, Message.family.expression]
    groups = connection.execute(
        select(
            client.label("host"),
            Message.family,
            func.max(Message.client_name).label("name"),
            func.count().label("messages"),
            func.count().filter(Message.traps > 0).label("trap_messages"),
            func.sum(Message.traps).label("trap_hits"),
            func.count().filter(Message.stage == "end").label("ended"),
            func.min(Message.at).label("first"),
            func.max(Message.at).label("last"),
        )
        .where(*chosen)
        .group_by(*groupings)
    ).all()
    messages = sum(row.messages for row in groups)
    if not messages:
        return Counted(Summary(), None, 0, 0)
    counts: Counter[str] = Counter()
    spans: dict[str, tuple[float, float]] = {}
    for row in groups:
        counts[row.family] += row.messages
        since, until = spans.get(row.family, (row.first, row.last))
        spans[row.family] = min(since, row.first), max(until, row.last)
    first, last = min(row.first for row in groups), max(row.last for row in groups)
    results = day_sums.results(connection, selection, chosen, sum(row.ended for row in groups))
    spf, dmarc = _checks(connection, chosen)
    beat = _rhythm(connection, selection, chosen, messages, first, last)
    clients = [row for row in groups if row.host is not None]
    most = nsmallest(HOSTS_MAX, clients, key=lambda row: (-row.messages, row.host))
    summary = Summary(
        messages=messages,
        first_seen=first,
        last_seen=last,
        families=families(counts),
        dkim=in_order(results, RESULTS),
        spf=in_order(spf, SPF_RESULTS),
        dmarc=in_order(dmarc, DMARC_RESULTS),
        trap_hits=sum(int(row.trap_hits) for row in groups),
        median_gap_days=beat.median_gap,
        hosts=tuple(Host(r.name, bare(r.host), r.family, r.messages) for r in most),
    )
    return Counted(summary, beat, sum(row.trap_messages for row in groups), len(clients), spans)


def _checks(
    connection: Connection, chosen: list[ColumnElement[bool]]
) -> tuple[Counter[str], Counter[str]]:
    """(SPF, DMARC): numbers of messages by result, of those that were evaluated."""
    spf: Counter[str] = Counter()
    dmarc: Counter[str] = Counter()
    for row in connection.execute(
        select(Message.spf, Message.dmarc, func.count().label("messages"))
        .where(*chosen)
        .group_by(Message.spf, Message.dmarc)
    ):
        if row.spf is not None:
            spf[row.spf] += row.messages
        if row.dmarc is not None:
            dmarc[row.dmarc] += row.messages
    return spf, dmarc


def _rhythm(
    connection: Connection,
    selection: Selection,
    chosen: list[ColumnElement[bool]],
    messages: int,
    first: float,
    last: float,
) -> Rhythm:
    if rhythm.certainly_dense(messages, first, last):
        days = day_sums.days(connection, selection, chosen, first, last)
        return rhythm.dense(messages, first, last, days)
    at, where = day_sums.times(selection, chosen)
    found = rhythm.of(connection.scalars(select(at).where(*where)).all())
    assert found is not None
    return found


def _narrowed(table: Any, everything: bool, any_family: bool) -> list[ColumnElement[bool]]:
    """The conditions for rows of sums; the values are parameters of the statement."""
    found = [covers(table, None) if everything else covers_given(table)]
    return found if any_family else [*found, table.family == bindparam("family")]


# Cached: an overview runs these a hundred times, and building one costs more than running it.
@cache
def _sums(everything: bool, any_family: bool) -> Executable:
    """The statement for the sums over all days, by family."""
    day = DomainDay
    summed = (
        day.messages, day.trap_messages, day.trap_hits,
        day.dkim_pass, day.dkim_fail, day.dkim_policy, day.dkim_neutral,
        day.dkim_temperror, day.dkim_permerror, day.dkim_none,
        *(getattr(day, f"spf_{result}") for result in SPF_RESULTS),
        *(getattr(day, f"dmarc_{result}") for result in DMARC_RESULTS),
    )  # fmt: skip
    return (
        select(
            day.family,
            func.min(day.first_at).label("first"),
            func.max(day.last_at).label("last"),
            *(func.sum(column).label(column.key) for column in summed),
        )
        .where(*_narrowed(day, everything, any_family))
        .group_by(day.family)
    )


@cache
def _clients(everything: bool, any_family: bool) -> Executable:
    """The statement for the clients with most messages, each row with the number of all clients."""
    host = DomainHost
    found = (
        select(
            host.host,
            host.family,
            func.max(host.name).label("name"),
            func.sum(host.messages).label("messages"),
        )
        .where(*_narrowed(host, everything, any_family))
        .group_by(host.host, host.family)
        .subquery()
    )
    return (
        select(found, func.count().over().label("in_all"))
        .order_by(found.c.messages.desc(), found.c.host)
        .limit(HOSTS_MAX)
    )


def _hosts(
    connection: Connection, everything: bool, any_family: bool, values: Mapping[str, Any]
) -> tuple[tuple[Host, ...], int]:
    """(clients with most messages, number of all clients)."""
    rows = connection.execute(_clients(everything, any_family), values).all()
    in_all = rows[0].in_all if rows else 0
    hosts = (Host(r.name, bare(r.host), r.family, int(r.messages)) for r in rows)
    return tuple(hosts), in_all


def bare(address: str | None) -> str | None:
    """A client as it is shown: a /32 without its length."""
    return None if address is None else address.removesuffix("/32")


def families(counts: Mapping[str, int]) -> dict[str, int]:
    """The counts that are not 0, in the manual's order of families."""
    return {str(f): counts[f] for f in Family if counts.get(f)}


def _summed(rows: Sequence[Any], what: str, words: Sequence[str]) -> dict[str, int]:
    """The sums of the columns `{what}_{word}` that are not 0."""
    counts = {word: sum(int(row._mapping[f"{what}_{word}"]) for row in rows) for word in words}
    return in_order(counts, words)


def in_order(counts: Mapping[str, int], words: Sequence[str]) -> dict[str, int]:
    """The counts that are not 0, in the order of `words`."""
    return {word: counts[word] for word in words if counts.get(word)}
