"""Put a backup into the place of a SQLite store, while the services run.

Everything is unpacked aside, checked and upgraded. Then the old database is locked, so that no
commit is lost; the new one is renamed into its place, missing segments are put back, and the
recorder notices it and goes on from the watermarks of the new database.

Ended at any moment, it leaves the old database or the new one, each whole.
"""

import fcntl
import itertools
import os
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost_policy import config, lookup, store
from gatepost_policy.recorder import backup
from gatepost_policy.store import StoreError, migrate
from gatepost_policy.system import directories
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

LOCK_S = 60.0
ASIDE = ".gatepost-restore-"
EMPTY_TRIES = 5


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `before` is what was in the old database (None: not readable), `kept` a
    copy of it (None: there was none).
    """

    contents: backup.Contents
    before: backup.Contents | None
    kept: Path | None


def restore(settings: "Settings", source: Path) -> Restored:
    """Replace the store by the backup at `source`; the services may run.

    The old database is locked until the new one is in its place, so no commit is lost between them.
    Raises backup.BackupError, StoreError, OSError.
    """
    # Where it is a link, the file that it names is the store: that directory has the space, and the
    # -wal.
    path = Path(os.path.realpath(backup.database(settings)))
    migrate.make_directory(path.parent)
    with (
        _alone(path),
        tempfile.TemporaryDirectory(dir=path.parent, prefix=ASIDE) as name,
    ):
        aside = Path(name)
        contents = backup.unpack(source, aside)
        # Upgraded where it is older; refused where it is newer.
        try:
            store.open_url(f"sqlite:///{aside / backup.DATABASE}").dispose()
        except StoreError as error:
            _, _, why = str(error).partition(f"{backup.DATABASE}: ")
            raise backup.BackupError(f"{shown(str(source))}: its database {why or error}") from None
        with closing(sqlite3.connect(aside / backup.DATABASE)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        # A file that belongs to root could not be opened by the services until this command ends.
        _owned_as(aside / backup.DATABASE, path if path.exists() else path.parent)
        with _old(path, aside) as old:
            before, kept = old
            os.replace(aside / backup.DATABASE, path)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            _put_back(aside / backup.JOURNAL, config.journal_dir(settings))
            _put_back(aside / backup.QUARANTINE, config.quarantine_dir(settings))
            directories.sync(path.parent)
        lookup.anew(config.state_dir(settings))
    return Restored(contents, before, kept)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One restore at a time: the second one would lock a file that the first has replaced. What one
    that was killed has left beside the store is removed. Raises StoreError, OSError.
    """
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        end = time.monotonic() + LOCK_S
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    text = f"store {shown(str(path))}: another restore is at work"
                    raise StoreError(text, temporary=True) from None
            time.sleep(0.1)
        for left in path.parent.glob(f"{ASIDE}*"):
            shutil.rmtree(left, ignore_errors=True)
        yield
    finally:
        os.close(handle)


@contextmanager
def _old(path: Path, aside: Path) -> Iterator[tuple[backup.Contents | None, Path | None]]:
    """The old database, locked: (what is in it, a copy of it) where there is a readable one."""
    if not path.exists():
        yield None, None
        return
    kept = _free_name(path, time.time())
    connection = sqlite3.connect(
        f"file:{path}?mode=rw", uri=True, timeout=LOCK_S, isolation_level=None
    )
    try:
        try:
            _lock(connection, path)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StoreError(f"store {shown(str(path))}: is locked", temporary=True) from None
            kept_damaged(path, kept)
            yield None, kept
            return
        except sqlite3.DatabaseError:
            kept_damaged(path, kept)
            yield None, kept
            return
        before: backup.Contents | None = None
        # Under its own name only when it is whole: we may be killed meanwhile.
        copy = aside / "before"
        os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
        try:
            with closing(sqlite3.connect(path)) as reader, closing(sqlite3.connect(copy)) as into:
                reader.backup(into)
                into.execute("PRAGMA journal_mode=DELETE")  # one file, without -wal and -shm
            before = backup.check(copy)
        except (sqlite3.Error, backup.BackupError):
            shutil.copyfile(path, copy)  # damaged, which is why it is replaced
        os.replace(copy, kept)
        yield before, kept
    finally:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        connection.close()


def _lock(connection: sqlite3.Connection, path: Path) -> None:
    """Lock the database at `path`, with nothing in its write-ahead log. Raises sqlite3.Error.

    If we are killed after the new database was renamed into its place, the old log lies beside it,
    and SQLite would write that into the new file. An empty one changes nothing.
    """
    for _ in range(EMPTY_TRIES):
        connection.execute("PRAGMA busy_timeout = 1000")
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        connection.execute(f"PRAGMA busy_timeout = {int(LOCK_S * 1000)}")
        connection.execute("BEGIN IMMEDIATE")
        try:
            if not os.stat(f"{path}-wal").st_size:
                return
        except FileNotFoundError:
            return
        connection.execute("ROLLBACK")
    # Somebody reads all the time, and so keeps what is in the log from being written into the file.
    connection.execute("BEGIN IMMEDIATE")


def _free_name(path: Path, at: float) -> Path:
    """A name for the copy of the database `path` that no earlier copy has, also where two were made
    in one second. `at`: Unix seconds.
    """
    first = f"{path.name}.before-{time.strftime('%Y%m%dT%H%M%S', time.gmtime(at))}"
    names = itertools.chain([first], (f"{first}-{number}" for number in itertools.count(2)))
    return next(kept for name in names if not (kept := path.with_name(name)).exists())


def kept_damaged(path: Path, kept: Path) -> None:
    """Copy a file that SQLite cannot read as it is. Raises OSError."""
    handle = os.open(kept, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as out, path.open("rb") as source:
        shutil.copyfileobj(source, out)


def _put_back(source: Path, target: Path) -> None:
    """Copy files that are missing in `target`. One that is there is the same file, or has grown
    since.
    """
    if not source.is_dir():
        return
    target.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in backup.files_in(source):
        final = target / path.name
        if final.exists():
            continue
        aside = target / f".{path.name}"
        shutil.copyfile(path, aside)
        aside.chmod(0o600)
        _owned_as(aside, target)
        os.replace(aside, final)
    directories.sync(target)


def _owned_as(file: Path, model: Path) -> None:
    """Give `file`, which we have made, the owner of `model`; only root can."""
    if os.geteuid() != 0:
        return
    owner = model.stat()
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchown(handle, owner.st_uid, owner.st_gid)
    finally:
        os.close(handle)
