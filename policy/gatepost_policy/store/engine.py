"""Read the store and write it: SQLite or PostgreSQL, and one exception type for both.

How it works: `reading` and `writing` are one transaction each. A SQLite writer takes the write
lock at the start (BEGIN IMMEDIATE): one that reads first and writes later fails at once, without
waiting, where another has written in between. Every error of the database becomes a `StoreError`:
one line, with the next step.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DBAPIError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gatepost_policy.config import server_url
from gatepost_policy.store import file_identity
from gatepost_policy.text.escape import shown

Result = TypeVar("Result")

RETRIES = 8  # tries of a transaction that conflicts with another host's (deadlock and the like)


class StoreError(Exception):
    """The store cannot be used. The text is one line that names the store and the next step.

    `temporary` is True where waiting may help: locked, full, server away. `owner` is the user to
    become where this one has no right to the store.
    """

    def __init__(self, text: str, *, temporary: bool = False, owner: str | None = None) -> None:
        super().__init__(text)
        self.temporary = temporary
        self.owner = owner


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads; all its statements see the same state of the store. Raises
    StoreError."""
    with _translated(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            # By default each statement sees a newer state: parts of a report would not agree.
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes: committed at the end, rolled back on any error.

    Raises StoreError. After an error of the commit itself it is not known whether the transaction
    was committed (the server's answer may be lost): look before doing it again.
    """
    with _translated(engine), engine.connect() as bare:
        connection = bare.execution_options(gatepost_writing=True)
        with connection.begin():
            yield connection


def again(work: Callable[[], Result], also: type[SQLAlchemyError] | tuple[()] = ()) -> Result:
    """The result of `work`, which is repeated after a deadlock and the like, and after an error of
    the type `also`.

    `work` must make its own transaction and read the store anew each time. Raises StoreError after
    RETRIES tries.
    """
    for attempt in range(1, RETRIES):
        try:
            return work()
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, SQLAlchemyError):
                raise
            if not retryable(cause) and not isinstance(cause, also):
                raise
        # A random wait, so that two hosts do not conflict again.
        time.sleep(random.uniform(0, 0.005 * 2**attempt))
    return work()


def persistently(
    engine: Engine,
    work: Callable[[Connection], Result],
    also: type[SQLAlchemyError] | tuple[()] = (),
) -> Result:
    """The result of `work` in a writing transaction, repeated as in `again`. Raises StoreError."""

    def once() -> Result:
        with writing(engine) as connection:
            return work(connection)

    return again(once, also)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise explain(error, engine) from error


def name(engine: Engine) -> str:
    """The store's name for an operator: the file, or the URL without its password."""
    if engine.dialect.name == "sqlite":
        return f"store {shown(str(engine.url.database))}"
    # Without its options, because a password may be among them.
    database = quote(engine.url.database or "", safe="")  # a / in it would end the database's name
    url = engine.url.set(database=database).render_as_string(hide_password=False)
    return f"store {shown(server_url.parse(url).shown())}"


# (part of SQLite's message, what it means, the next step, whether waiting may help).
_SQLITE = (
    ("database is locked", "is locked by another program", "find it with fuser", True),
    ("disk is full", "the disk is full", "make room", True),
    (
        file_identity.REMOVED,
        "its file was removed or emptied",
        "restore it (milterctl db restore FILE), or make a new, empty one: milterctl db upgrade",
        True,
    ),
    (
        file_identity.STALE,
        "its file was replaced, but the -wal and -shm beside it are the old one's",
        "remove these two, or better: milterctl db restore FILE",
        True,
    ),
    (
        file_identity.LOG_GONE,
        "its -wal was replaced while it was open, and what only one of the two held is lost",
        "look at what else touches these files",
        True,
    ),
    (
        file_identity.LOG_CUT,
        "its -wal was cut short while it was open, and what only that part held is lost",
        "restart what else has it open (see fuser), then look at: milterctl db check",
        True,
    ),
    (
        file_identity.INDEX_GONE,
        "its -shm was removed while it was open",
        "it is opened anew; look at what else touches these files",
        True,
    ),
    ("readonly database", "is read-only", "look at owner and mode of file and directory", True),
    ("unable to open", "cannot be opened", "look at owner and mode of file and directory", True),
    ("disk I/O error", "the disk reports an error", "look at the kernel's log", True),
    ("not a database", "is damaged or no SQLite file", "restore it, or move it away", False),
    ("malformed", "is damaged", "restore it, or move it away and start anew", False),
    ("no such table", "has no gatepost schema", "run: milterctl db upgrade", False),
    ("no such column", "has another schema", "run: milterctl db upgrade", False),
)
# The same for PostgreSQL, by the first characters of its SQLSTATE.
_POSTGRESQL = (
    ("42P01", "has no gatepost schema", "run: milterctl db upgrade", False),
    ("42703", "has another schema", "run: milterctl db upgrade", False),
    ("42501", "refuses us the right to do that", "grant it to this user", False),
    ("40", "could not bring concurrent transactions in order", "try again", True),
    ("53", "is out of disk, memory or connections", "look at the server's log", True),
    ("55P03", "another session keeps it locked", "find it in pg_stat_activity", True),
    ("55", "an object is in use", "try again", True),
    ("57014", "a statement takes longer than allowed", "raise statement_timeout", True),
    ("57", "the server is stopping or starting", "try again", True),
    ("25006", "is read-only", "name the primary server in store.url", True),
)


def explain(error: SQLAlchemyError, engine: Engine) -> StoreError:
    """`error` as one line for an operator, without the statement's values (they may be private)."""
    what = name(engine)
    if isinstance(error, PoolTimeout):
        return StoreError(f"{what}: every connection is in use; try again", temporary=True)
    cause = error.orig if isinstance(error, DBAPIError) else None
    text = str(cause if cause is not None else error).splitlines()[0:1]
    line = shown(text[0]) if text else type(error).__name__
    sqlite = engine.dialect.name == "sqlite"
    state = getattr(cause, "sqlstate", None) or ""
    table, fits = (_SQLITE, line.__contains__) if sqlite else (_POSTGRESQL, state.startswith)
    for sign, meaning, step, temporary in table:
        if fits(sign):
            return StoreError(f"{what}: {meaning}; {step}", temporary=temporary)
    if not sqlite and not state and isinstance(error, OperationalError | InterfaceError):
        return StoreError(f"{what}: no answer: {line}; is the server up?", temporary=True)
    return StoreError(f"{what}: {line}")


def rescued(engine: Engine, log: file_identity.Inode) -> bool:
    """True where all of the removed write-ahead log `log` is known to be in the file.

    Raises StoreError.
    """
    with _translated(engine):
        return file_identity.rescue(engine, log)


def gone(path: Path, what: str) -> StoreError:
    """The error for a SQLite file that is not the one we opened; `what`: REMOVED, STALE or
    LOG_GONE."""
    meaning, step = next((m, s) for sign, m, s, _ in _SQLITE if sign == what)
    return StoreError(f"store {shown(str(path))}: {meaning}; {step}", temporary=True)


def retryable(error: SQLAlchemyError) -> bool:
    """True for PostgreSQL's serialization failure and deadlock: the same work may go through."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlstate", None) in ("40001", "40P01")
