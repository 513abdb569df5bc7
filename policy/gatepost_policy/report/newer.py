"""Messages stored after a certain one: ids grow in the order in which rows are written."""

from sqlalchemy import Connection, func, select

from gatepost_policy.report.conditions import conditions
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import Message


def last(connection: Connection) -> int:
    """The id of the newest message; 0 where there is none."""
    return connection.scalar(select(func.max(Message.id))) or 0


def since(
    connection: Connection, selection: Selection, after: int, most: int
) -> tuple[list[int], int]:
    """(ids of the selected messages above `after`, the id to pass as `after` the next time).

    Oldest first, at most `most`. Raises conditions.TooWide.
    """
    newest = last(connection)
    ids = list(
        connection.scalars(
            select(Message.id)
            .where(Message.id > after, *conditions(connection, selection))
            .order_by(Message.id)
            .limit(most)
        )
    )
    return ids, (ids[-1] if len(ids) == most else max(after, newest))
