"""The schema: create it, upgrade it, refuse one that is newer. Migrations are Alembic's.

A SQLite store is created and upgraded when it is first opened: one process migrates under a file
lock, the others wait. A server's schema is upgraded only by `milterctl db upgrade`, because several
mail hosts may share it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from errno import ENOENT
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, inspect
from sqlalchemy.exc import SQLAlchemyError

from gatepost_policy import config
from gatepost_policy.store import engine as store
from gatepost_policy.store.engine import StoreError
from gatepost_policy.store.removed import MIGRATE_END

if TYPE_CHECKING:
    from alembic.config import Config

# Every released schema, oldest first; the last one is that of this release. Kept here so that
# opening a store does not import Alembic. A test compares it with the files in migrations/.
REVISIONS = tuple(f"{number:04}" for number in range(1, 15))
HEAD = REVISIONS[-1]
# A number that no other program should use: advisory locks are shared by a whole database.
ADVISORY_LOCK = 0x6761746570


def ensure(engine: Engine) -> None:
    """Make sure the schema is HEAD. Raises StoreError (see `store.open_engine`)."""
    sqlite = engine.dialect.name == "sqlite"
    if sqlite:
        _make_directory(engine)
    found = current(engine)
    if found == HEAD:
        return
    _refuse_newer(engine, found)
    if not sqlite:
        had = "no gatepost schema" if found is None else f"schema {found}"
        raise StoreError(
            f"{store.name(engine)}: has {had}, wanted {HEAD}; run: milterctl db upgrade"
        )
    upgrade(engine)


def current(engine: Engine) -> str | None:
    """The schema's revision, None for an empty database. Raises StoreError."""
    with store.reading(engine) as connection:
        return _revision(connection)


def upgrade(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to HEAD; (revision before, revision now). Raises StoreError."""
    from alembic import command
    from alembic.util import CommandError

    try:
        with _locked(engine), store.writing(engine) as connection:
            if engine.dialect.name == "postgresql":
                # Another one may take long, and a table is changed when nobody reads it.
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
            before = _revision(connection)
            _refuse_newer(engine, before)
            if before != HEAD:
                command.upgrade(alembic_config(connection), HEAD)
            return before, HEAD
    except (CommandError, OSError, SQLAlchemyError) as error:
        raise StoreError(f"{store.name(engine)}: cannot be upgraded: {error}") from error


def alembic_config(connection: Connection | None = None) -> "Config":
    """Alembic's configuration for our migrations, on `connection` where one is given."""
    from alembic.config import Config

    made = Config()
    made.set_main_option("script_location", str(directory()).replace("%", "%%"))
    if connection is not None:
        made.attributes["connection"] = connection
    return made


def directory() -> Path:
    """The directory of the migrations: in a checkout the repository's, else the package's."""
    here = Path(__file__).resolve().parents[1]
    checkout = here.parents[1] / "migrations"
    return checkout if (checkout / "env.py").exists() else here / "_migrations"


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    row = connection.exec_driver_sql("SELECT version_num FROM alembic_version").first()
    return None if row is None else str(row[0])


def _refuse_newer(engine: Engine, found: str | None) -> None:
    if found is not None and found not in REVISIONS:
        raise StoreError(
            f"{store.name(engine)}: has schema {found}, newer than this gatepost knows ({HEAD}); "
            "install the gatepost that made it, or a later one"
        )


def _make_directory(engine: Engine) -> None:
    path = Path(str(engine.url.database))
    try:
        make_directory(path.parent)
        if not path.exists():
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise StoreError(
            f"{store.name(engine)}: cannot be created: {error.strerror}; "
            "look at owner and mode of its directory, or set store.url",
            temporary=True,
        ) from None


def make_directory(directory: Path) -> None:
    """Make the directory of a SQLite store if it is missing. Raises OSError.

    The default one is made with its parents. Of a configured one only the last part is made, and
    never directly below `/`: a path that is mostly new is probably mistyped, and an empty store
    would hide that.
    """
    if directory.is_dir():
        return
    default = directory == config.default_state_dir()
    if not default and directory.parent == directory.parent.parent:
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), str(directory))
    # 0700: the store holds personal data.
    directory.mkdir(mode=0o700, parents=default, exist_ok=True)


@contextmanager
def _locked(engine: Engine) -> Iterator[None]:
    """Only one process migrates a SQLite file; a server has its advisory lock."""
    if engine.dialect.name != "sqlite":
        yield
        return
    handle = os.open(
        f"{engine.url.database}{MIGRATE_END}", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
    )
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
