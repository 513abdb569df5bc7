"""Open the store: SQLite (created and upgraded where needed) or PostgreSQL.

Rule: make no engine before a fork: a SQLite handle or a socket must not be shared by processes.
"""

import os
import pwd
import sqlite3
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import (
    ArgumentError,
    NoSuchModuleError,
)

from gatepost_policy import config
from gatepost_policy.store import file_identity, removed
from gatepost_policy.store.engine import StoreError
from gatepost_policy.system import extras
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

SQLITE = "sqlite:///"
CONNECT_TIMEOUT_S = 5
# For a lock of another session: a command that waits without a word looks dead, and of a recorder
# nobody would know why it stores nothing.
LOCK_TIMEOUT_MS = 30_000
# Each connection's own cache: enough for the upper levels of every index of a large store. The
# rest stays in the kernel's cache, which frees memory when other programs need it.
SQLITE_CACHE_KIB = 16_384
WAL_LIMIT_BYTES = 67_108_864


def open_engine(settings: "Settings", *, ensure: bool = True, create: bool | None = None) -> Engine:
    """The configured store, ready for use. Raises StoreError.

    A SQLite store is upgraded where needed; a server's schema must be the right one. `ensure=False`
    does not look at the schema: for `db upgrade` and the doctor. `create` says whether a missing
    SQLite file is made: True is for a service that starts and for `db upgrade`, False never, None
    unless there was one before, which somebody has removed (and never with `ensure=False`).
    """
    path = config.database_path(settings)
    if path is not None:
        _may_read(path)
    if path is not None and not _may_create(settings, path, ensure, create):
        what = "the file is empty" if path.exists() else "there is no file"
        raise StoreError(
            f"store {shown(str(path))}: {what}; restore it (milterctl db restore FILE), "
            "or make a new, empty one: milterctl db upgrade",
            temporary=True,
        )
    return open_url(config.store_url(settings), busy_ms=settings.store.busy_ms, ensure=ensure)


def _may_create(settings: "Settings", path: Path, ensure: bool, create: bool | None) -> bool:
    if removed.is_there(path):
        return True
    if create is None:
        # An empty store in the place of one that was removed would hide that, and the services
        # would have no traps and no listings any more.
        create = ensure and not removed.was_there(path, config.journal_dir(settings))
    return create or removed.is_there(path)


def _may_read(path: Path) -> None:
    """Raises StoreError where this user has no right to the file, or to look for it, and where it
    is none: SQLite would write a journal beside a device or a directory.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise StoreError(f"store {shown(str(path))}: is no plain file; set store.url to one")
        allowed = os.access(path, os.R_OK)
    except PermissionError:
        allowed = False
    except OSError:
        return
    if allowed:
        return
    try:
        owner = pwd.getpwuid(os.stat(path.parent).st_uid).pw_name
    except (OSError, KeyError):
        owner = "root"
    raise StoreError(
        f"store {shown(str(path))}: user {_me()} has no right to read it, {owner} has", owner=owner
    )


def _me() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def open_url(url: str, *, busy_ms: int = 5_000, ensure: bool = True) -> Engine:
    """The store at an SQLAlchemy URL, as `config.store_url` gives it. Raises StoreError."""
    from gatepost_policy.store import migrate

    try:
        if url.startswith(SQLITE):
            # Not by `make_url`: the path is as it is, also where it has a % or a ?.
            engine = _sqlite(URL.create("sqlite", database=url.removeprefix(SQLITE)), busy_ms)
        else:
            engine = _server(url)
    except ModuleNotFoundError as error:
        if error.name != "psycopg":
            raise
        wanted = extras.install("postgresql")
        raise StoreError(f"store: PostgreSQL needs psycopg, which is not installed: {wanted}"
                         ) from None  # fmt: skip
    except (ArgumentError, NoSuchModuleError, ImportError, ValueError) as error:
        # Only the type: the text repeats the URL, and with it the password.
        what = type(error).__name__
        raise StoreError(f"store: cannot be used ({what}); see store.url") from None
    if ensure:
        try:
            migrate.ensure(engine)
        except BaseException:
            engine.dispose()
            raise
    return engine


def _sqlite(url: URL, busy_ms: int) -> Engine:
    engine = create_engine(
        url, connect_args={"timeout": busy_ms / 1000, "isolation_level": None}, pool_size=4
    )

    @event.listens_for(engine, "connect")
    def set_up(dbapi: Any, record: object) -> None:
        try:
            prepare(dbapi)
        except BaseException as error:
            # At once: as long as one connection is open, SQLite does not read a damaged log anew.
            dbapi.close()
            if isinstance(error, sqlite3.Error) and file_identity.is_cut(str(engine.url.database)):
                raise sqlite3.OperationalError(file_identity.LOG_CUT) from None
            raise

    def prepare(dbapi: Any) -> None:
        cursor = dbapi.cursor()
        # FULL: the journal segment is removed after the commit, which must survive a power cut.
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

    file_identity.watch(engine)  # after the pragmas: then the write-ahead log exists

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("gatepost_writing")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine


def server_arguments(url: str) -> dict[str, str | int]:
    """libpq's options for a connection to a PostgreSQL server, except those that `url` sets."""
    ours: dict[str, str | int] = {
        "connect_timeout": CONNECT_TIMEOUT_S,
        "application_name": "gatepost",
        # So a server that vanished (power, network) is noticed within about 40 s.
        "keepalives_idle": 20,
        "keepalives_interval": 5,
        "keepalives_count": 4,
        "tcp_user_timeout": 40_000,
    }
    named = make_url(url).query
    # The operator's URL overrides ours.
    return {key: value for key, value in ours.items() if key not in named}


def _server(url: str) -> Engine:
    engine = create_engine(
        url,
        pool_pre_ping=True,  # tests each connection first: the server may have been restarted
        pool_size=2,
        connect_args=server_arguments(url),
    )

    @event.listens_for(engine, "connect")
    def bounded(dbapi: Any, record: Any) -> None:
        # By a statement: poolers refuse it as an option of the connection.
        dbapi.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        dbapi.commit()

    return engine
