"""How many messages got which answer, for which reason: rows, and what became numbers."""

from dataclasses import dataclass

from sqlalchemy import Connection

from gatepost_policy.store import sqltext

COLUMNS = ("direction", "action", "reason", "messages")
DAY_S = 86_400


@dataclass(frozen=True, slots=True)
class Decisions:
    """`lines` are (direction, action, reason, messages), the most first within a direction.

    `since` is the time of the oldest message in Unix seconds (to the day where it has become a
    number), None for an empty store.
    """

    since: float | None
    lines: tuple[tuple[str, str, str, int], ...]


def count(connection: Connection) -> Decisions:
    """All that the store remembers. Reads every message once. Raises StoreError."""
    counted: dict[tuple[str, str, str], int] = {}
    oldest: list[float] = []
    for sql, scale in (
        ("SELECT direction, action, reason, COUNT(*), MIN(at) FROM message GROUP BY 1, 2, 3", 1),
        # Submissions kept in full are rows until they age; only inbound mail is in numbers.
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
