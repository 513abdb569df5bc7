"""Import a published list of traps: hundreds of thousands of lines, which all become visible at
once.

How it is atomic: the rows have generation N+1 while the revision `generation` is N, so they are not
in force; the last commit sets it to N+1. Rows of an import that was killed are removed by the next
one. Batches of BATCH_ROWS are committed on the way, so that no other process waits long for the
write lock.

Limits: an import takes no patterns, because `*` is legal in an address and published lists hold
such addresses. One import at a time.
"""

import fcntl
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, delete, insert, select, text, update

from gatepost_policy.store import revision
from gatepost_policy.store.tables import Revision, TrapRow
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.traps.names import classify

BATCH_ROWS = 5_000
MAX_REFUSED = 20


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import did. `refused` holds the first lines it could not take: number, line, why."""

    added: int
    known: int
    invalid: int
    refused: tuple[tuple[int, str, str], ...]


_INSERT = """INSERT INTO trap
 (kind, key, raw, source, note, published, published_at, added, generation, live_as)
 VALUES (:kind, :key, :raw, :source, :note, :published, :published_at, :added, :generation, '')
 ON CONFLICT (kind, key) DO NOTHING"""


def import_lines(
    connection: Connection,
    lines: Iterable[bytes],
    *,
    at: float,
    source: str = "",
    note: str = "",
    published: str = "",
    published_at: float | None = None,
    progress: Callable[[int], None] = lambda octets: None,
    dry_run: bool = False,
) -> Imported:
    """Take one address a line; `#` starts a comment, `@domain` is a domain trap.

    All of it becomes visible at the end, or nothing. A trap that was removed by hand stays removed:
    a list that is imported every week must not make a mailbox in use a trap again. `progress` is
    called with the octets of each batch; `at` and `published_at` are Unix seconds. With `dry_run`
    nothing becomes visible: what was counted is removed at the end, or, if this is killed, by the
    next import. Raises BlockingIOError where another import runs.
    """
    with _only_one(connection):
        visible = revision.number(connection, "generation")
        _drop_unfinished(connection, visible)
        shared: dict[str, Any] = {"source": source, "note": note, "added": at}
        shared |= {"published": published, "published_at": published_at, "generation": visible + 1}
        added = known = invalid = octets = 0
        refused: list[tuple[int, str, str]] = []
        batch: dict[tuple[str, str], str] = {}

        def flush() -> None:
            nonlocal added, known, octets
            if batch:
                rows = [
                    {"kind": kind, "key": key, "raw": raw, **shared}
                    for (kind, key), raw in batch.items()
                ]
                new = connection.execute(text(_INSERT), rows).rowcount
                added += new
                known += len(rows) - new
                batch.clear()
            connection.commit()
            progress(octets)
            octets = 0

        for number, line in enumerate(lines, 1):
            octets += len(line)
            if number == 1 and line.startswith(b"\xef\xbb\xbf"):
                line = line[3:]
            name = line.partition(b"#")[0].strip() if line[:1] == b"#" else line.strip()
            if not name:
                continue
            if b"#" in name:
                # `#` is legal in a local part; as a comment it stands after a blank.
                name = re.split(rb"\s#", name, maxsplit=1)[0].strip()
            try:
                raw = name.decode("utf-8")
                kind_key = classify(raw, patterns=False)
            except ValueError as error:
                invalid += 1
                if len(refused) < MAX_REFUSED:
                    why = "no UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
                    refused.append((number, name[:80].decode("utf-8", "backslashreplace"), why))
                continue
            if kind_key in batch:
                known += 1
            else:
                batch[kind_key] = raw
                if len(batch) >= BATCH_ROWS:
                    flush()
        flush()
        if dry_run:
            _drop_unfinished(connection, visible)
        elif added:
            _set_generation(connection, visible + 1)
            revision.bump(connection, "traps")
            connection.commit()
    return Imported(added, known, invalid, tuple(refused))


def _drop_unfinished(connection: Connection, visible: int) -> None:
    """Remove the rows of an import that was killed, a batch at a time."""
    some = select(TrapRow.id).where(TrapRow.generation > visible).limit(BATCH_ROWS)
    while connection.execute(delete(TrapRow).where(TrapRow.id.in_(some))).rowcount:
        connection.commit()
    connection.commit()


def _set_generation(connection: Connection, generation: int) -> None:
    changed = connection.execute(
        update(Revision).where(Revision.topic == "generation").values(number=generation)
    )
    if not changed.rowcount:
        connection.execute(insert(Revision).values(topic="generation", number=generation))


@contextmanager
def _only_one(connection: Connection) -> Iterator[None]:
    """Hold the import lock: a lock file beside a SQLite store, an advisory lock on a server."""
    if connection.dialect.name == "sqlite":
        path = f"{connection.engine.url.database}.import-lock"
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        finally:
            os.close(descriptor)
        return
    # The number of this lock in the database: one that no other program is likely to use.
    if not connection.scalar(text("SELECT pg_try_advisory_lock(7449366402208134004)")):
        raise BlockingIOError("another import of traps is running")
    try:
        yield
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(7449366402208134004)"))
        connection.commit()
