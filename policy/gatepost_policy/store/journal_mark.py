"""How far each journal segment has been taken into the store: one row a segment.

A segment's name is unique among all hosts of a store; `host` says whose it is.
"""

from collections.abc import Iterable

from sqlalchemy import Connection

from gatepost_policy.store import sqltext


def read(connection: Connection, host: str | None = None) -> dict[str, int]:
    """The offset (octets) behind the last record in the store, by segment; of `host` alone, or
    of all hosts."""
    sql = 'SELECT segment, "offset" FROM journal_mark'
    values: tuple[str, ...] = ()
    if host is not None:
        sql, values = f"{sql} WHERE host = ?", (host,)
    return {
        str(segment): int(offset) for segment, offset in sqltext.execute(connection, sql, values)
    }


def of_segments(connection: Connection, segments: Iterable[str]) -> dict[str, int]:
    """The offsets of those of `segments` that have a mark, whichever host it is of."""
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
    """These segments are gone."""
    sql = "DELETE FROM journal_mark WHERE segment = ?"
    sqltext.many(connection, sql, [(segment,) for segment in segments])
