"""Open the store, read it, write it: SQLite or PostgreSQL, and one exception type for both.

How it works: `open_engine` opens (SQLite: creates and upgrades) the store; `reading` and `writing`
are one transaction each. A SQLite writer takes the write lock at once (BEGIN IMMEDIATE): a
transaction that reads first and writes later could fail half-way with nothing to wait for.
Whatever the database refuses comes out as `StoreError`: one line, with the next step.

Rule: no engine exists before a fork (a SQLite handle or a socket must not be shared by processes).
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import make_url
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    InterfaceError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeout

from gatepost_policy import config
from gatepost_policy.shown import shown

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings

Result = TypeVar("Result")

CONNECT_TIMEOUT_S = 5
RETRIES = 8  # of work that a server could not bring in order with another host's
# Pages kept by one connection: the upper levels of every index of a large store. The rest is in
# the kernel's cache, which gives memory back when somebody else needs it.
SQLITE_CACHE_KIB = 16_384
WAL_LIMIT_BYTES = 67_108_864


class StoreError(Exception):
    """The store cannot be used. The text is one line that names the store and the next step.

    `temporary` is True where waiting may help: locked, full, server away.
    """

    def __init__(self, text: str, *, temporary: bool = False) -> None:
        super().__init__(text)
        self.temporary = temporary


def open_engine(settings: "Settings", *, ensure: bool = True) -> Engine:
    """The configured store, ready for use. Raises StoreError.

    A SQLite store is created and upgraded where needed; a server's schema must be the right one.
    `ensure=False` leaves the schema alone: for `db upgrade` and the doctor.
    """
    return open_url(config.store_url(settings), busy_ms=settings.store.busy_ms, ensure=ensure)


def open_url(url: str, *, busy_ms: int = 5_000, ensure: bool = True) -> Engine:
    """The store at an SQLAlchemy URL, as `config.store_url` gives it. Raises StoreError."""
    from gatepost_policy import migrate

    try:
        target = make_url(url)
        engine = _sqlite(url, busy_ms) if target.drivername == "sqlite" else _server(url)
    except (ArgumentError, NoSuchModuleError, ImportError) as error:
        raise StoreError(f"store: cannot be used: {shown(str(error))}; see store.url") from None
    if ensure:
        try:
            migrate.ensure(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _sqlite(url: str, busy_ms: int) -> Engine:
    engine = create_engine(
        url, connect_args={"timeout": busy_ms / 1000, "isolation_level": None}, pool_size=4
    )

    @event.listens_for(engine, "connect")
    def set_up(dbapi: Any, record: object) -> None:
        cursor = dbapi.cursor()
        # The segment is unlinked after the commit: FULL makes the commit outlive a power cut.
        for pragma in (
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
            "temp_store=MEMORY",
            f"cache_size=-{SQLITE_CACHE_KIB}",
            f"journal_size_limit={WAL_LIMIT_BYTES}",
        ):
            cursor.execute(f"PRAGMA {pragma}").fetchall()
        cursor.close()

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("gatepost_writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def _server(url: str) -> Engine:
    return create_engine(
        url,
        pool_pre_ping=True,  # a server that was restarted meanwhile costs one more round trip
        pool_size=2,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "application_name": "gatepost",
            # A server that vanished without a word (power, network) is noticed, not waited for.
            "keepalives_idle": 20,
            "keepalives_interval": 5,
            "keepalives_count": 4,
            "tcp_user_timeout": 40_000,
        },
    )


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """One transaction that only reads, all of it the same state. Raises StoreError."""
    with _translated(engine), engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            # Its default shows each statement another state: parts of a report would disagree.
            connection = connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            yield connection


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """One transaction that writes: committed at the end, rolled back on any error.

    Raises StoreError; after one that came from the commit itself it is not known whether the
    transaction holds (the answer may have got lost), so look before doing it again.
    """
    with _translated(engine), engine.connect() as bare:
        connection = bare.execution_options(gatepost_writing=True)
        with connection.begin():
            yield connection


def persistently(engine: Engine, work: Callable[[Connection], Result]) -> Result:
    """What `work` gives in one writing transaction, begun anew after a deadlock and the like.

    `work` must start from what the store says each time. Raises StoreError.
    """
    for attempt in range(1, RETRIES):
        try:
            with writing(engine) as connection:
                return work(connection)
        except StoreError as error:
            cause = error.__cause__
            if not isinstance(cause, SQLAlchemyError) or not retryable(cause):
                raise
        # Two hosts met; the one that waits a little longer goes second.
        time.sleep(random.uniform(0, 0.005 * 2**attempt))
    with writing(engine) as connection:
        return work(connection)


@contextmanager
def _translated(engine: Engine) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise explain(error, engine) from error


def name(engine: Engine) -> str:
    """The store in words for an operator: the file, or the URL without its password."""
    if engine.dialect.name == "sqlite":
        return f"store {shown(str(engine.url.database))}"
    return f"store {shown(engine.url.render_as_string(hide_password=True))}"


# A piece of SQLite's message: (what it means, the next step, waiting may help).
_SQLITE = (
    ("database is locked", "is locked by another program", "find it with fuser", True),
    ("disk is full", "the disk is full", "make room; the journal keeps what comes", True),
    ("readonly database", "is read-only", "look at owner and mode of file and directory", True),
    ("unable to open", "cannot be opened", "look at owner and mode of file and directory", True),
    ("disk I/O error", "the disk reports an error", "look at the kernel's log", True),
    ("not a database", "is damaged or no SQLite file", "restore it, or move it away", False),
    ("malformed", "is damaged", "restore it, or move it away and start anew", False),
    ("no such table", "has no gatepost schema", "run: milterctl db upgrade", False),
    ("no such column", "has another schema", "run: milterctl db upgrade", False),
)
# The first characters of PostgreSQL's SQLSTATE, likewise.
_POSTGRESQL = (
    ("42P01", "has no gatepost schema", "run: milterctl db upgrade", False),
    ("42703", "has another schema", "run: milterctl db upgrade", False),
    ("42501", "refuses us the right to do that", "grant it to this user", False),
    ("40", "could not bring concurrent transactions in order", "try again", True),
    ("53", "is out of disk, memory or connections", "look at the server's log", True),
    ("55", "an object is in use", "try again", True),
    ("57", "the server is stopping or starting", "try again", True),
    ("25006", "is read-only", "name the primary server in store.url", True),
)


def explain(error: SQLAlchemyError, engine: Engine) -> StoreError:
    """`error` as one line for an operator. Values of the statement are left out: privacy."""
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


def retryable(error: SQLAlchemyError) -> bool:
    """True for PostgreSQL's serialization failure and deadlock: the same work may go through."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    return getattr(cause, "sqlstate", None) in ("40001", "40P01")
