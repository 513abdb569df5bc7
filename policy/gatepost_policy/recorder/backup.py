"""A backup of a whole SQLite store in one file, made while the services run.

`restoring` puts it back.

What is in it: the database (journal watermarks, traps, listings, history), the journal segments
that were waiting, the quarantine, and `manifest.json` with a SHA-256 of each. It is a plain tar.

Why it is complete: the segments are linked first, and the database is copied after that (SQLite's
own online backup). So a record that was in the journal at the beginning is in the copy of the
database, or in a linked segment after the watermark in that copy.

Limits: SQLite only. A PostgreSQL server has its own tools (pg_dump, pg_basebackup).
"""

import fcntl
import hashlib
import io
import json
import os
import shutil
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from gatepost_policy import config, journal, store
from gatepost_policy.store import migrate
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

FORMAT = 1
MANIFEST = "manifest.json"
DATABASE = "gatepost.sqlite"
JOURNAL, QUARANTINE = "journal/", "quarantine/"
ASIDE = ".gatepost-backup-"
PIECE = 1_048_576
PAGES = 2_000  # that are copied at once: 8 MiB
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class BackupError(Exception):
    """The backup cannot be made or restored. The text is one line that names the file."""


@dataclass(frozen=True, slots=True)
class Contents:
    """How much is in a backup, or in a store."""

    messages: int
    traps: int
    segments: int = 0
    quarantined: int = 0

    def __str__(self) -> str:
        return (
            f"{plural(self.messages, 'message')}, {plural(self.traps, 'trap')}, "
            f"{plural(self.segments, 'journal segment')}, "
            f"{plural(self.quarantined, 'record')} in quarantine"
        )


def database(settings: "Settings") -> Path:
    path = config.database_path(settings)
    if path is None:
        raise BackupError(
            "the store is a PostgreSQL server: use pg_dump, or pg_basebackup with its archive"
        )
    return path


def make(settings: "Settings", target: Path) -> Contents:
    """Write a backup to `target`, and read it back to check it. Raises BackupError, StoreError,
    OSError.

    What is there already is replaced only where it is an earlier backup, whole or cut short.
    """
    path = database(settings)
    target = Path(os.path.realpath(target))
    _may_replace(target)
    store.open_engine(settings, create=False).dispose()
    with _aside(target.parent) as aside:
        members = list(_linked(settings, aside))
        copy = aside / DATABASE
        _copy(path, copy)
        made = aside / "backup.tar"
        handle = os.open(made, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb") as file:
            _write(file, [(DATABASE, copy), *members])
            file.flush()
            os.fsync(file.fileno())
        contents = verify(made)
        os.replace(made, target)
        return contents


@contextmanager
def _aside(parent: Path) -> Iterator[Path]:
    """A directory for what is not whole yet, where the backup will be, so that it is only renamed.

    It is locked as long as it is used. One that is not belongs to a backup that was killed, and is
    as large as the store: it goes. Raises OSError.
    """
    for left in parent.glob(f"{ASIDE}*"):
        with suppress(OSError):
            handle = os.open(left, DIRECTORY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
            finally:
                os.close(handle)
    name, handle = _locked(parent)
    try:
        yield name
    finally:
        shutil.rmtree(name, ignore_errors=True)
        os.close(handle)


def _locked(parent: Path) -> tuple[Path, int]:
    """(a new directory, the descriptor that holds its lock). Raises OSError."""
    while True:
        name = Path(tempfile.mkdtemp(dir=parent, prefix=ASIDE))
        # Before it is locked, another backup may take it for a left one.
        with suppress(FileNotFoundError):
            handle = os.open(name, DIRECTORY)
            # Where a file system has no locks, nobody can take it away from us either.
            with suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            if name.exists():
                return name, handle
            os.close(handle)


def _copy(path: Path, copy: Path) -> None:
    """The database at `path` as it is now, in one file. Raises sqlite3.Error."""
    with (
        closing(sqlite3.connect(f"file:{path}?mode=rw", uri=True, isolation_level=None)) as source,
        closing(sqlite3.connect(copy)) as into,
    ):
        # Without a transaction of our own SQLite begins anew after each commit of another process:
        # a large store that is written to would never be copied.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_master").fetchone()
        # SQLite's loop does not come back to Python before the end, but for `progress`: without it
        # a signal would wait as long.
        source.backup(into, pages=PAGES, progress=lambda *_: None)
        source.execute("ROLLBACK")
        into.execute("PRAGMA journal_mode=DELETE")


def _may_replace(target: Path) -> None:
    """Raises BackupError where `target` is not an earlier backup, and OSError."""
    where = shown(str(target))
    if target.exists() and not target.is_file():
        raise BackupError(f"{where}: is no plain file; a backup is read back, and wants one")
    try:
        with target.open("rb") as file:
            head = file.read(tarfile.BLOCKSIZE)
    except FileNotFoundError:
        return
    # A tar begins with the name of its first member, and `_write` puts the database first.
    if head and not head.startswith(DATABASE.encode() + b"\0"):
        raise BackupError(f"{where}: is there, and is no backup; it is not overwritten")


def _linked(settings: "Settings", aside: Path) -> Iterator[tuple[str, Path]]:
    """Every segment and quarantined record as it is now: a link stays when the recorder unlinks the
    file.
    """
    for prefix, paths in (
        (JOURNAL, journal.segments(config.journal_dir(settings))),
        (QUARANTINE, files_in(config.quarantine_dir(settings))),
    ):
        place = aside / prefix
        place.mkdir()
        for path in paths:
            try:
                os.link(path, place / path.name)
            except FileNotFoundError:
                continue  # ingested meanwhile: it is in the database
            except OSError:
                shutil.copyfile(path, place / path.name)  # another file system
            yield prefix + path.name, place / path.name


def files_in(directory: Path) -> list[Path]:
    try:
        return sorted(p for p in directory.iterdir() if p.is_file())
    except FileNotFoundError:
        return []


def _write(file: IO[bytes], members: list[tuple[str, Path]]) -> None:
    sums: dict[str, list[Any]] = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, path in members:
            with path.open("rb") as source:
                info = tarfile.TarInfo(name)
                # A live segment grows while it is read: only what is there now is copied.
                info.size = os.fstat(source.fileno()).st_size
                info.mode, info.mtime = 0o600, int(time.time())
                summing = _Summing(source)
                tar.addfile(info, summing)
                sums[name] = [info.size, summing.sum.hexdigest()]
        text = json.dumps({"format": FORMAT, "schema": migrate.HEAD, "files": sums}).encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode = len(text), 0o600
        tar.addfile(info, io.BytesIO(text))


class _Summing:
    """A file that computes the SHA-256 of what is read from it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sum = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Read the next octets."""
        data = self.file.read(size)
        self.sum.update(data)
        return data


def verify(path: Path) -> Contents:
    """Read all of a backup and compare it with its manifest; returns what is in it.

    Raises BackupError where it is no backup or not complete, and OSError.
    """
    with tempfile.TemporaryDirectory(dir=path.absolute().parent, prefix=".gatepost-check-") as to:
        return unpack(path, Path(to))


def unpack(path: Path, to: Path) -> Contents:
    where = shown(str(path))
    found: dict[str, list[Any]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            text = b""
            for member in tar:
                source = tar.extractfile(member) if member.isreg() else None
                if source is None or not _is_ours(member.name):
                    raise BackupError(f"{where}: is no backup of gatepost: {shown(member.name)}")
                if member.name == MANIFEST:
                    text = source.read(64 * PIECE)
                    continue
                target = to / member.name
                target.parent.mkdir(exist_ok=True)
                size, summed = 0, hashlib.sha256()
                handle = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
                with os.fdopen(handle, "wb") as out:
                    while data := source.read(PIECE):
                        out.write(data)
                        summed.update(data)
                        size += len(data)
                    out.flush()
                    os.fsync(out.fileno())
                found[member.name] = [size, summed.hexdigest()]
        manifest = json.loads(text)
        if manifest["format"] != FORMAT:
            raise BackupError(f"{where}: was made by a later gatepost")
        wanted = dict(manifest["files"])
    except (tarfile.TarError, ValueError, KeyError, TypeError, EOFError) as error:
        what = type(error).__name__
        raise BackupError(f"{where}: is no whole backup of gatepost ({what})") from None
    if found != wanted:
        names = sorted({*found, *wanted})
        bad = next(name for name in names if found.get(name) != wanted.get(name))
        raise BackupError(f"{where}: damaged: {shown(bad)} is not what was written")
    if DATABASE not in found:
        raise BackupError(f"{where}: has no database")
    return check(
        to / DATABASE,
        sum(name.startswith(JOURNAL) for name in found),
        sum(name.startswith(QUARANTINE) for name in found),
        f"{where}: its database",
    )


def _is_ours(name: str) -> bool:
    """True for the names that we write: an archive must not write to any other path."""
    if name in (MANIFEST, DATABASE):
        return True
    prefix, _, rest = name.partition("/")
    return (
        f"{prefix}/" in (JOURNAL, QUARANTINE) and bool(rest) and "/" not in rest and rest[0] != "."
    )


def check(path: Path, segments: int = 0, quarantined: int = 0, said: str = "") -> Contents:
    """What is in the database at `path`. Raises BackupError where SQLite finds it damaged; its text
    names the file `said`, or `path`.
    """
    said = said or shown(str(path))
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if found != "ok":
                raise BackupError(f"{said}: {found}")
            messages = connection.execute("SELECT count(*) FROM message").fetchone()[0]
            sql = "SELECT count(*) FROM trap WHERE removed IS NULL"
            traps = connection.execute(sql).fetchone()[0]
    except sqlite3.Error as error:
        raise BackupError(f"{said}: {error}") from None
    return Contents(messages, traps, segments, quarantined)
