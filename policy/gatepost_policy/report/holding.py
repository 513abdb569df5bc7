"""Limit a page to the newest messages where they have to be counted row by row.

A domain, and all mail together, are answered from sums by day, however many messages there are.
Anything else (a recipient, a network, an address, a filter) is counted from rows, and a page reads
only the newest `most` of them, to be quick. How it works: their ids are looked up once, newest
first, and replace the selection. Older messages to a trap are counted as well: a sender must not
look clean because much has come from it since. The page says when messages were left out
(`summary.Held`).
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, exists, func, or_, select

from gatepost_policy.report import messages
from gatepost_policy.report.conditions import (
    among,
    by_domain,
    conditions,
    only_domain_and_time,
    recipient,
    trapped,
)
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Held
from gatepost_policy.store.tables import Message, MessageDomain, MessageRecipient

MOST = 10_000
HITS_MOST = 1_000  # of older messages to a trap, which are counted as well
COUNTED_MAX = 50_000  # messages to a recipient: counted up to here, "unknown" beyond


def hold(
    connection: Connection, selection: Selection, most: int = MOST
) -> tuple[Selection, Held | None]:
    """(`selection` limited to its newest `most` messages and the newest HITS_MOST older ones to a
    trap, what to say of that on the page).

    The second is None where there are no more than `most`. A selection that the sums answer is
    returned unchanged. Raises conditions.TooWide.
    """
    if selection.everything or (selection.address is None and not selection.narrowed):
        return selection, None
    if _is_trap(selection):
        ids = _to_recipient(connection, selection, most + 1)
    else:
        ids = messages.newest(connection, selection, most + 1)
    held = replace(selection, only=tuple(ids[:most]))
    if len(ids) <= most:
        return held, None
    since = connection.scalar(select(Message.at).where(Message.id == ids[most - 1])) or 0.0
    older = _older_hits(connection, selection, since, ids[most - 1])
    held = replace(selection, only=(*ids[:most], *older[:HITS_MOST]))
    hits, all_hits = min(len(older), HITS_MOST), len(older) <= HITS_MOST
    return held, Held(most, _in_all(connection, selection), since, hits, all_hits)


def _older_hits(
    connection: Connection, selection: Selection, since: float, last: int
) -> Sequence[int]:
    """Ids of the newest messages to a trap that are older than `last`, which came at `since` (Unix
    seconds); at most one more than HITS_MOST. None for one recipient: all are to it."""
    if selection.trap is not None and selection.trap.local:
        return ()
    if selection.trap is not None and _is_trap(selection):
        row, mine = MessageRecipient, recipient(selection.trap)
        where = [trapped(), exists().where(row.message_id == Message.id, mine)]
    elif (keys := by_domain(selection)) is not None and only_domain_and_time(selection):
        # A sender may have many messages, and traps few: both have an index, and none is read.
        sent, hits = MessageDomain, select(Message.id).where(trapped())
        return connection.scalars(
            select(sent.message_id)
            .where(*keys, sent.message_id.in_(hits))
            .where(sent.at <= since, or_(sent.at < since, sent.message_id < last))
            .order_by(sent.at.desc(), sent.message_id.desc())
            .limit(HITS_MOST + 1)
        ).all()
    else:
        where = conditions(connection, replace(selection, trapped=True))
    return connection.scalars(
        select(Message.id)
        .where(*where, Message.at <= since, or_(Message.at < since, Message.id < last))
        .order_by(Message.at.desc(), Message.id.desc())
        .limit(HITS_MOST + 1)
    ).all()


def _alone(selection: Selection, what: Selection) -> bool:
    """True where `selection` is no narrower than `what`; the limit is not compared."""
    return replace(selection, limit=0) == replace(what, limit=0)


def _is_trap(selection: Selection) -> bool:
    return selection.trap is not None and _alone(selection, Selection(trap=selection.trap))


def _to_recipient(connection: Connection, selection: Selection, most: int) -> Sequence[int]:
    """Ids of the newest `most` messages to a trap or to a domain's recipients.

    Newest first. The index of recipients has no times: with fewer than `most` messages it names
    them; with more, a scan back through time finds `most` of them soon.
    """
    assert selection.trap is not None
    row, mine = MessageRecipient, recipient(selection.trap)
    ids = connection.scalars(select(row.message_id).where(mine).distinct().limit(most)).all()
    these = exists().where(row.message_id == Message.id, mine)
    return connection.scalars(
        select(Message.id)
        .where(these if len(ids) == most else among(connection, ids))
        .order_by(Message.at.desc(), Message.id.desc())
        .limit(most)
    ).all()


def _in_all(connection: Connection, selection: Selection) -> int | None:
    """How many messages are selected; None where more than an index would have to be read."""
    if _is_trap(selection):
        assert selection.trap is not None
        ids = select(MessageRecipient.message_id).where(recipient(selection.trap)).distinct()
        known = select(func.count()).select_from(ids.limit(COUNTED_MAX + 1).subquery())
        number = connection.scalar(known) or 0
        return number if number <= COUNTED_MAX else None
    keys = by_domain(selection)
    if keys is not None and only_domain_and_time(selection):
        return connection.scalar(select(func.count()).select_from(MessageDomain).where(*keys))
    if selection.host is not None and _alone(selection, Selection(host=selection.host)):
        where = conditions(connection, selection)
        return connection.scalar(select(func.count()).select_from(Message).where(*where))
    return None
