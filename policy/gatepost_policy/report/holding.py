"""Hold a page to so many messages where they have to be counted one by one.

Sums tell of a domain and of everything, however much that is. What they do not tell (a recipient,
a network, an address, a filter) is counted from rows, and a page that somebody waits for reads the
newest of them only. How it works: their ids are looked up once, newest first, and stand for the
selection from then on. That something was left out is said on the page: no figure may look whole
that is not.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Connection, exists, func, select

from gatepost_policy.report import messages
from gatepost_policy.report.conditions import (
    by_domain,
    conditions,
    only_domain_and_time,
    recipient,
)
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Held
from gatepost_policy.store.tables import Message, MessageDomain, MessageRecipient

MOST = 10_000
COUNTED_MAX = 50_000  # messages to a recipient that are counted at all


def hold(
    connection: Connection, selection: Selection, most: int = MOST
) -> tuple[Selection, Held | None]:
    """`selection` as its newest messages, and what is to be said; None: it has no more than that.

    What the sums tell comes back as it is. Raises conditions.TooWide.
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
    since = connection.scalar(select(func.min(Message.at)).where(*conditions(connection, held)))
    return held, Held(most, _in_all(connection, selection), since or 0.0)


def _alone(selection: Selection, what: Selection) -> bool:
    """True where nothing else narrows it than `what` does."""
    return replace(selection, limit=0) == replace(what, limit=0)


def _is_trap(selection: Selection) -> bool:
    return selection.trap is not None and _alone(selection, Selection(trap=selection.trap))


def _to_recipient(connection: Connection, selection: Selection, most: int) -> Sequence[int]:
    """The newest `most` messages to a trap or to a domain's recipients, or all if there are fewer.

    An index has all of them, but not when they came. Where there are many, going back through time
    and asking of each message whether it is one of them ends soon.
    """
    assert selection.trap is not None
    row, mine = MessageRecipient, recipient(selection.trap)
    ids = connection.scalars(select(row.message_id).where(mine).distinct().limit(most)).all()
    if len(ids) < most:
        return ids
    return connection.scalars(
        select(Message.id)
        .where(exists().where(row.message_id == Message.id, mine))
        .order_by(Message.at.desc(), Message.id.desc())
        .limit(most)
    ).all()


def _in_all(connection: Connection, selection: Selection) -> int | None:
    """How many there are, where an index alone tells."""
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
