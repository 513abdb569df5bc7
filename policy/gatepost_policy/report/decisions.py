"""Count messages by action and reason: rows, and messages that are only counted by now."""

from sqlalchemy import Connection

from gatepost_policy.store import sqltext
from gatepost_policy.system.dataclass import dataclass

COLUMNS = ("direction", "action", "reason", "messages")
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Decisions:
    """`lines`: (direction, action, reason, messages), the most first within a direction.

    `since`: Unix seconds of the oldest message (exact to the day where it is only counted), None
    for an empty store.
    """

    since: float | None
    lines: tuple[tuple[str, str, str, int], ...]


def count(connection: Connection) -> Decisions:
    """Count all messages in the store. Reads every row once. Raises SQLAlchemyError."""
    counted: dict[tuple[str, str, str], int] = {}
    oldest: list[float] = []
    for sql, scale in (
        ("SELECT direction, action, reason, COUNT(*), MIN(at) FROM message GROUP BY 1, 2, 3", 1),
        # `message_count` holds inbound mail only; submissions have a table of their own.
        (
            "SELECT 'inbound', action, reason, SUM(messages), MIN(day) FROM message_count"
            " GROUP BY 2, 3",
            DAY_S,
        ),
        (
            "SELECT direction, action, reason, SUM(messages), MIN(day) FROM submission_count"
            " GROUP BY 1, 2, 3",
            DAY_S,
        ),
    ):
        for direction, action, reason, messages, first in sqltext.execute(connection, sql, ()):
            key = (str(direction), str(action), str(reason))
            counted[key] = counted.get(key, 0) + int(messages)
            oldest.append(float(first) * scale)
    lines = sorted(
        ((*key, messages) for key, messages in counted.items()),
        key=lambda line: (line[0], -line[3], line[1:3]),
    )
    return Decisions(min(oldest, default=None), tuple(lines))
