"""Count messages for a report, on SQLite and PostgreSQL.

How it works: a whole domain's summary and the overview's come from the sums of `domain_day` and
`domain_host`; whatever is narrowed further (by time, host, trap, or to one address) is counted
from the rows; of a period the sums still tell its whole days (`day_sums`).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nsmallest
from typing import Any

from sqlalchemy import ColumnElement, Connection, Select, func, select

from gatepost_policy.mail.facts import Family
from gatepost_policy.report import day_sums, rhythm
from gatepost_policy.report.conditions import conditions, covers
from gatepost_policy.report.rhythm import Rhythm
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Host, Summary
from gatepost_policy.store.tables import DomainDay, DomainHost, Message, MessageDomain

RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror", "none")
HOSTS_MAX = 1_000


@dataclass(frozen=True, slots=True)
class Counted:
    """What the selected messages come to. `hosts` says how many clients there are in all,
    `spans` when each family was seen first and last."""

    summary: Summary
    rhythm: Rhythm | None
    trap_messages: int
    hosts: int
    spans: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def count(connection: Connection, selection: Selection) -> Counted:
    """Summary and rhythm of everything selected. Raises TooWide."""
    if not selection.narrowed and (selection.everything or selection.domain is not None):
        return _from_sums(connection, selection)
    return _from_rows(connection, selection)


def _from_sums(connection: Connection, selection: Selection) -> Counted:
    day, host, domain, family = DomainDay, DomainHost, selection.domain, selection.family
    mine, clients = [covers(day, domain)], [covers(host, domain)]
    if family is not None:
        mine.append(day.family == str(family))
        clients.append(host.family == str(family))
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
        .where(*mine)
        .group_by(day.family)
    ).all()
    messages = sum(int(row[1]) for row in rows)
    if not messages:
        return Counted(Summary(), None, 0, 0)
    first, last = min(row[4] for row in rows), max(row[5] for row in rows)
    if rhythm.certainly_dense(messages, first, last):
        days = connection.scalars(select(day.day).where(*mine).distinct()).all()
        beat: Rhythm | None = Rhythm(
            messages, first, last, len(days), rhythm.count_months(days), median_gap=0.0
        )
    else:
        if domain is None or family is not None:
            times = select(Message.at).where(*conditions(connection, selection))
        else:
            times = select(MessageDomain.at).where(covers(MessageDomain, domain))
        beat = rhythm.of(connection.scalars(times).all())
    hosts, in_all = _hosts(
        connection,
        select(
            host.host,
            host.family,
            func.max(host.name).label("name"),
            func.sum(host.messages).label("messages"),
        )
        .where(*clients)
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
    spans = {row[0]: (row[4], row[5]) for row in rows}
    return Counted(summary, beat, sum(int(row[2]) for row in rows), in_all, spans)


def _from_rows(connection: Connection, selection: Selection) -> Counted:
    """One pass over the messages, by client; their signatures and days; one over their times."""
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
    spans: dict[str, tuple[float, float]] = {}
    for row in groups:
        families[row[1]] += row[3]
        before = spans.get(row[1], (row[7], row[8]))
        spans[row[1]] = min(before[0], row[7]), max(before[1], row[8])
    first, last = min(row[7] for row in groups), max(row[8] for row in groups)
    results = day_sums.results(connection, selection, chosen, sum(row[6] for row in groups))
    beat = _rhythm(connection, selection, chosen, messages, first, last)
    clients = [row for row in groups if row[0] is not None]
    most = nsmallest(HOSTS_MAX, clients, key=lambda row: (-row[3], row[0]))
    summary = Summary(
        messages=messages,
        first_seen=first,
        last_seen=last,
        families=_families(families),
        dkim=_results(results),
        trap_hits=sum(int(row[5]) for row in groups),
        median_gap_days=beat.median_gap,
        hosts=tuple(Host(row[2], bare(row[0]), row[1], row[3]) for row in most),
    )
    return Counted(summary, beat, sum(row[4] for row in groups), len(clients), spans)


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
        return Rhythm(messages, first, last, len(days), rhythm.count_months(days), median_gap=0.0)
    at, where = day_sums.times(selection, chosen)
    found = rhythm.of(connection.scalars(select(at).where(*where)).all())
    assert found is not None
    return found


def _hosts(
    connection: Connection, grouped: "Select[str, str, str | None, int]"
) -> tuple[tuple[Host, ...], int]:
    """The clients with most messages, and how many there are in all."""
    found = grouped.subquery()
    rows = connection.execute(
        select(found.c.host, found.c.family, found.c.name, found.c.messages, func.count().over())
        .order_by(found.c.messages.desc(), found.c.host)
        .limit(HOSTS_MAX)
    ).all()
    in_all = rows[0][4] if rows else 0
    return tuple(Host(row[2], bare(row[0]), row[1], int(row[3])) for row in rows), in_all


def bare(address: str | None) -> str | None:
    """A client as it is shown: the prefix of a single address is that address."""
    return None if address is None else address.removesuffix("/32")


def _families(counts: Mapping[str, int]) -> dict[str, int]:
    """What was seen, in the manual's order."""
    return {str(f): counts[f] for f in Family if counts.get(f)}


def _results(counts: Mapping[str, int]) -> dict[str, int]:
    return {result: counts[result] for result in RESULTS if counts.get(result)}
