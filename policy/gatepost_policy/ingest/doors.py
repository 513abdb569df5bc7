"""One message that a followed log and the milter or policy service saw becomes one row.

"Door" means the milter or the policy service here: its row is kept, because it knows more.
Whichever row is ingested first, the log's row is removed when the door's comes, and not written
where the door's is there. Finished messages are matched by queue id and client; recipients that
were refused before there was a queue id by client, sender and recipient. They are looked up by the
client's prefix and the time, which needs no index of its own. Nothing is looked up for a door's
message where no log is followed.
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from gatepost_policy.ingest import rows
from gatepost_policy.ingest.rows import Row
from gatepost_policy.mail.decision import Action
from gatepost_policy.store import sqltext

DOORS = ("milter", "policy")
LOGS = ("exim-log", "postfix-log")
# Seconds. The door records the end of a message, the log its beginning.
WINDOW_S = 900.0
# Seconds. A refusal is logged at once.
REFUSAL_S = 60.0


def watched(row: Row) -> bool:
    """True for a row that `milterctl watch` has read."""
    return bool(row.data and row.data.get("watched"))


def is_same(door: Row, log: Row) -> bool:
    """True where these two are one message, or one refused recipient of one."""
    one, other = door.message, log.message
    if one.prefix is None or one.prefix != other.prefix or one.sender_key != other.sender_key:
        return False
    if log.stage == "end" and other.queue_id is not None:
        return one.queue_id == other.queue_id and abs(one.at - other.at) <= WINDOW_S
    named = {recipient.trap_key for recipient in door.recipients}
    wanted = {recipient.trap_key for recipient in log.recipients}
    return bool(wanted) and wanted <= named and abs(one.at - other.at) <= REFUSAL_S


def refused_behind(door: Row, log: Row) -> bool:
    """True where the log of the same message says that it was refused after gatepost accepted it.

    That was another milter, or the MTA itself: the door's row still says "accept".
    """
    if log.stage != "end" or log.message.queue_id is None:
        return False
    return door.message.action == Action.ACCEPT and log.message.action != Action.ACCEPT


def stored(connection: Connection, batch: Iterable[Row]) -> list[Row]:
    """The stored rows of the other source that may be the same messages as some of `batch`."""
    follows: bool | None = None
    ids: set[int] = set()
    for row in batch:
        message = row.message
        if message.prefix is None or message.direction != "inbound":
            continue
        if watched(row):
            wanted = DOORS
        elif message.source in DOORS:
            if follows is None:
                sql = "SELECT 1 FROM watch_position LIMIT 1"
                follows = sqltext.execute(connection, sql).first() is not None
            if not follows:
                continue
            wanted = LOGS
        else:
            continue
        sql = (
            "SELECT id FROM message WHERE prefix = ? AND at BETWEEN ? AND ?"
            " AND source IN (?, ?) AND sender_key = ?"
        )
        span = (message.at - WINDOW_S, message.at + WINDOW_S)
        values: tuple[object, ...] = (message.prefix, *span, *wanted, message.sender_key)
        if message.queue_id is not None and row.stage == "end":
            sql, values = (
                f"{sql} AND (queue_id = ? OR queue_id IS NULL)",
                (*values, message.queue_id),
            )
        ids.update(sqltext.execute(connection, sql, values).scalars())
    return list(rows.load(connection, sorted(ids)).values()) if ids else []
