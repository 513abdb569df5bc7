"""Messages by day and family over the last year, for the overview's chart."""

from sqlalchemy import Connection, Integer, cast, func, select

from gatepost_policy.store.tables import Message

DAY = 86400
DAYS = 366


def rows(connection: Connection) -> list[tuple[int, str, int]]:
    """(days since 1970, family, messages) of the year before the newest message."""
    newest = connection.execute(select(func.max(Message.at))).scalar_one()
    if newest is None:
        return []
    # A whole number of days: PostgreSQL would round where SQLite cuts.
    day = cast(func.floor(Message.at / DAY), Integer)
    found = connection.execute(
        select(day, Message.family, func.count())
        .where(Message.at > newest - DAYS * DAY)
        .group_by(day, Message.family)
        .order_by(day)
    )
    return [(int(number), family, count) for number, family, count in found]
