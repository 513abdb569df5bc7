"""Numbers that only grow: how one process tells the others that something in the store changed.

The topics are `traps`, `listings`, `repeat` (one more with every change) and `generation` (the
newest import of traps that is complete). The recorder polls them and publishes what is newer.
`old-mail` grows with every batch of an imported log; `hindsight` is how far old mail has been
compared with the traps (`traps` and `old-mail` together).
"""

from sqlalchemy import Connection, insert, select

from gatepost_policy.store.sqltext import execute
from gatepost_policy.store.tables import Revision, WaitingSums


def number(connection: Connection, topic: str) -> int:
    """The current number of `topic`, 0 before its first change."""
    sql = "SELECT number FROM revision WHERE topic = ?"
    found = execute(connection, sql, (topic,)).scalar_one_or_none()
    return 0 if found is None else int(found)


def bump(connection: Connection, topic: str) -> None:
    """One more, in the caller's transaction: the change and its announcement commit together."""
    sql = "UPDATE revision SET number = number + 1 WHERE topic = ?"
    changed = execute(connection, sql, (topic,))
    if not changed.rowcount:
        connection.execute(insert(Revision).values(topic=topic, number=1))


def old_mail_waits(connection: Connection) -> bool:
    """True where old mail has not been compared with what is a trap now (`ingest.trap_marks`), or
    sums wait to be counted (`ingest.waiting`): asked before these rooms are imported at all."""
    wanted = number(connection, "traps") + number(connection, "old-mail")
    waiting = connection.scalar(select(WaitingSums.id).limit(1))
    return waiting is not None or number(connection, "hindsight") < wanted
