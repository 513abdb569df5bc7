"""Numbers that only grow: by them a process sees that something in the store has changed.

The topics are `traps`, `listings`, `repeat` (plus one with every change) and `generation` (the
newest import of traps that is complete). The recorder polls them and publishes what has changed.
`old-mail` grows with every batch of an imported log; `hindsight` is the sum of `traps` and
`old-mail` at which old mail was last compared with all traps, `hindsight-left` how many messages
are still to be marked (it may fall). ERASED grows where the listings must
be read whole, because a change of one would name a person who was erased.
"""

from sqlalchemy import Connection, insert, select

from gatepost_policy.store.sqltext import execute
from gatepost_policy.store.tables import Revision, WaitingSums

ERASED = "erased"


def number(connection: Connection, topic: str) -> int:
    """The current number of `topic`, 0 before its first change."""
    sql = "SELECT number FROM revision WHERE topic = ?"
    found = execute(connection, sql, (topic,)).scalar_one_or_none()
    return 0 if found is None else int(found)


def bump(connection: Connection, topic: str) -> None:
    """Add one, in the caller's transaction, so that the change and its number commit together."""
    sql = "UPDATE revision SET number = number + 1 WHERE topic = ?"
    changed = execute(connection, sql, (topic,))
    if not changed.rowcount:
        connection.execute(insert(Revision).values(topic=topic, number=1))


def old_mail_waits(connection: Connection) -> bool:
    """True where old mail is not yet compared with all traps (`ingest.trap_marks`), or sums wait to
    be added (`ingest.waiting`). Here, so that most commands need not import those modules."""
    wanted = number(connection, "traps") + number(connection, "old-mail")
    waiting = connection.scalar(select(WaitingSums.id).limit(1))
    return waiting is not None or number(connection, "hindsight") < wanted
