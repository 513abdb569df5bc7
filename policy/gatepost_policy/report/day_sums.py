"""Count a period by DKIM result and by day: whole days from the sums, the rest from rows.

How it works: a period that begins or ends within a day has at most two days that are not whole;
only their messages are read. Where more than domain, family and time is selected, the sums cannot
be used, and all messages are read.
"""

import math
from collections import Counter
from collections.abc import Collection
from dataclasses import replace

from sqlalchemy import BigInteger, ColumnElement, Connection, cast, func, select

from gatepost_policy.mail.results import RESULTS
from gatepost_policy.report import rhythm
from gatepost_policy.report.conditions import (
    by_domain,
    chosen_ids,
    conditions,
    covers,
    only_domain_and_time,
)
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import DomainDay, Message, MessageDomain, MessageSignature

Conditions = list[ColumnElement[bool]]
DAY = 86_400


def results(
    connection: Connection, selection: Selection, chosen: Conditions, ended: int
) -> Counter[str]:
    """The number of signatures by result; `none` counts messages without any.

    `chosen`: `selection` as conditions; `ended`: how many of its messages were seen to their end.
    """
    whole = whole_days(selection)
    if whole is None:
        return _of_rows(connection, selection, chosen, ended)
    found: Counter[str] = Counter()
    columns = [func.sum(getattr(DomainDay, f"dkim_{result}")) for result in RESULTS]
    for result, summed in zip(
        RESULTS, connection.execute(select(*columns).where(*whole)).one(), strict=True
    ):
        found[result] = int(summed or 0)
    for edge in edges(selection):
        there = conditions(connection, edge)
        number = connection.scalar(
            select(func.count()).select_from(Message).where(*there, Message.stage == "end")
        )
        found += _of_rows(connection, edge, there, number or 0)
    return found


def _of_rows(
    connection: Connection, selection: Selection, chosen: Conditions, ended: int
) -> Counter[str]:
    """`results`, counted signature by signature."""
    column = MessageSignature.message_id
    of_these = []
    if chosen:
        of_these = [column.in_(chosen_ids(connection, selection))]
    found: Counter[str] = Counter()
    signed = 0
    # Positions count from 0: each signed message has one signature there.
    for result, number, first in connection.execute(
        select(
            MessageSignature.result,
            func.count(),
            func.count().filter(MessageSignature.position == 0),
        )
        .where(*of_these)
        .group_by(MessageSignature.result)
    ):
        found[result] += number
        signed += first
    # Not those of which only RCPT TO was seen: whether they were signed is not known.
    found["none"] += ended - signed
    return found


def days(
    connection: Connection, selection: Selection, chosen: Conditions, first: float, last: float
) -> Collection[int]:
    """The UTC days (since 1970) with a message. `first` and `last`: Unix seconds of the selection's
    first and last message."""
    whole = whole_days(selection)
    if whole is not None:
        found = set(connection.scalars(select(DomainDay.day).where(*whole).distinct()))
        # Days that are not whole can only be those of the first and the last message.
        return found | {int(first // DAY), int(last // DAY)}
    at, where = times(selection, chosen)
    # PostgreSQL's cast rounds and SQLite's truncates: only a message in the last half second of a
    # day could be counted on another day, which does not matter here.
    day = cast(at, BigInteger) // rhythm.DAY
    return connection.scalars(select(day).where(*where).distinct()).all()


def times(selection: Selection, chosen: Conditions) -> tuple[ColumnElement[float], Conditions]:
    """(the column with the messages' times, the conditions for its rows)."""
    keys = by_domain(selection) if only_domain_and_time(selection) else None
    if keys is None:
        return Message.at.expression, chosen
    return MessageDomain.at.expression, keys


def whole_days(selection: Selection) -> Conditions | None:
    """The conditions for the rows of `domain_day` within the period; None where the sums cannot be
    used."""
    if selection.by_rows:
        return None
    if selection.sender is not None and selection.domain is None:
        return None
    found = [covers(DomainDay, selection.domain)]
    begin, end = _borders(selection)
    if begin is not None and end is not None and begin >= end:
        return None
    if begin is not None:
        found.append(DomainDay.day >= begin)
    if end is not None:
        found.append(DomainDay.day < end)
    if selection.family is not None:
        found.append(DomainDay.family == str(selection.family))
    return found


def _borders(selection: Selection) -> tuple[int | None, int | None]:
    """(first whole day, first day after the last whole one); None: no limit."""
    since, until = selection.since, selection.until
    return (
        None if since is None else math.ceil(since / DAY),
        None if until is None else math.floor(until / DAY),
    )


def edges(selection: Selection) -> list[Selection]:
    """Selections of the parts of the period that `whole_days` does not cover."""
    begin, end = _borders(selection)
    found = []
    if begin is not None and selection.since != begin * DAY:
        found.append(replace(selection, until=float(begin * DAY)))
    if end is not None and selection.until != end * DAY:
        found.append(replace(selection, since=float(end * DAY)))
    return found
