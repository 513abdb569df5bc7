"""How far each journal segment has been stored: one row for each segment.

A segment's name is unique among all hosts of a store; `host` is the one whose journal it is in.
All functions work inside the caller's transaction and raise SQLAlchemyError.
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from gatepost_policy.store import sqltext


def read(connection: Connection, host: str | None = None) -> dict[str, int]:
    """{segment: offset in octets after its last stored record}, of `host`, or of all hosts."""
    sql = 'SELECT segment, "offset" FROM journal_mark'
    values: tuple[str, ...] = ()
    if host is not None:
        sql, values = f"{sql} WHERE host = ?", (host,)
    return {
        str(segment): int(offset) for segment, offset in sqltext.execute(connection, sql, values)
    }


def of_segments(connection: Connection, segments: Iterable[str]) -> dict[str, int]:
    """{segment: offset} of those of `segments` that have a mark, of any host."""
    sql = 'SELECT "offset" FROM journal_mark WHERE segment = ?'
    found: dict[str, int] = {}
    for segment in segments:
        offset = sqltext.execute(connection, sql, (segment,)).scalar()
        if offset is not None:
            found[segment] = int(offset)
    return found


def move(
    connection: Connection, segment: str, old: int | None, new: int, *, host: str, now: float
) -> bool:
    """Set the mark of `segment` from `old` (None: there is none yet) to `new`.

    False where it is not at `old`: another recorder reads the same journal.
    """
    if old is None:
        sql = sqltext.insert("journal_mark", "ON CONFLICT (segment) DO NOTHING")
        return sqltext.execute(connection, sql, (segment, new, host, now)).rowcount == 1
    sql = 'UPDATE journal_mark SET "offset" = ?, updated = ? WHERE segment = ? AND "offset" = ?'
    return sqltext.execute(connection, sql, (new, now, segment, old)).rowcount == 1


def forget(connection: Connection, segments: Iterable[str]) -> None:
    """Delete the marks of these segments, whose files are gone."""
    sql = "DELETE FROM journal_mark WHERE segment = ?"
    sqltext.many(connection, sql, [(segment,) for segment in segments])
