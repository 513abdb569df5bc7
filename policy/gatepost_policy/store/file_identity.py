"""Is the SQLite file that we have open still the one at its path?

Where it was replaced (a backup put back by hand) or removed, we would go on writing to the old
file, which has no name any more: all of that would be lost when the last process closes it. So
device and inode are compared before each transaction, and before the commit of a writing one.
"""

import fcntl
import os
import sqlite3
import struct
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

from sqlalchemy import Connection, Engine, event
from sqlalchemy.exc import DisconnectionError, OperationalError
from sqlalchemy.pool import QueuePool

from gatepost_policy.store.removed import is_there
from gatepost_policy.system.dataclass import dataclass

Inode = tuple[int, int]
# By engine: removed logs (write-ahead logs without a name) that this process has written into the
# file completely.
_rescued: "WeakKeyDictionary[Engine, set[Inode]]" = WeakKeyDictionary()

REMOVED = "database file removed"
STALE = "database file replaced beside its old log"
LOG_GONE = "write-ahead log replaced"
LOG_CUT = "write-ahead log cut short"
INDEX_GONE = "index of the write-ahead log removed"
# The head of the -shm file (SQLite, "WAL-mode File Format" 2.1): size of a page and number of valid
# frames, in the machine's order of octets.
_INDEX = struct.Struct("=I4xIBBHI")
_LOG_HEAD, _FRAME_HEAD = 32, 24
_INDEXES_MAX = 64  # then those that nobody uses any more are closed
_open_indexes: dict[Inode, int] = {}  # the descriptor of each -shm file that was read
_engines: "WeakSet[Engine]" = WeakSet()  # all that `watch` watches in this process
_renewed: set[str] = set()  # files whose removed index was left, see `renewed`
_kept_open: list[int] = []  # see `_leave_index`
# SQLite's lock of a reader ("File Locking And Concurrency", os.h: SHARED_FIRST, SHARED_SIZE).
_SHARED_FIRST, _SHARED_SIZE = 0x4000_0002, 510
_FLOCK = struct.Struct("hhqqi4x")


@dataclass(frozen=True, slots=True)
class Files:
    """Device and inode of a store's file and of its write-ahead log; None where there is none."""

    main: Inode | None
    log: Inode | None

    def changed(self, now: "Files") -> str | None:
        """What happened to the file since: REMOVED, STALE, "replaced", or None (nothing).

        STALE: replaced, but the old file's log is still there. SQLite would apply that log to the
        new file, and damage it.
        """
        if now.main == self.main:
            return None
        if now.main is None:
            return REMOVED
        return STALE if now.log is not None and now.log == self.log else "replaced"

    def log_lost(self, now: "Files") -> bool:
        """True where an open connection writes into a log that has no name any more."""
        return now.main == self.main and self.log is not None and now.log != self.log


def files(path: Path | str, main: Inode | None = None) -> Files:
    """The identity of the files that are at `path` now; one that was emptied in place is none.

    `main`: the file that was there before it was opened, when another may have come since.
    """
    found = main or (_inode(f"{path}") if is_there(path) else None)
    return Files(found, _inode(f"{path}-wal"))


def _inode(path: str) -> Inode | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def is_cut(path: Path | str) -> bool:
    """True where the write-ahead log is shorter than its index says: somebody cut the open file.

    The frames that are gone cannot be read any more; the next one would be written behind a hole,
    and the file would be damaged by all that follows.
    """
    before = _index(path)
    try:
        size = os.stat(f"{path}-wal").st_size
    except OSError:
        return False  # removed: see `Files.log_lost`
    # SQLite changes the index before it makes the log shorter itself.
    if before is None or _index(path) != before:
        return False
    _, _, ready, _, page, frames = before
    page = 65_536 if page == 1 else page
    return bool(ready and frames) and size < _LOG_HEAD + frames * (_FRAME_HEAD + page)


def _index(path: Path | str) -> tuple[int, ...] | None:
    try:
        return _INDEX.unpack(os.pread(_held(f"{path}-shm"), _INDEX.size, 0))
    except (OSError, struct.error):
        return None


def _held(path: str) -> int:
    """A descriptor of the -shm file at `path` that stays open.

    It must not be closed while SQLite has the file open in this process: to close any descriptor of
    a file drops all locks that the process has on it (POSIX, fcntl), and these are SQLite's. The
    next program that reads would then remove the log under the services. Raises OSError.
    """
    status = os.stat(path)
    inode = status.st_dev, status.st_ino
    if inode not in _open_indexes:
        if len(_open_indexes) >= _INDEXES_MAX:
            _close_unused()
        _open_indexes[inode] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return _open_indexes[inode]


def _close_unused() -> None:
    """Close the descriptors of files that SQLite does not have open in this process: there is no
    lock to lose.
    """
    users: Counter[Inode] = Counter()
    for name in os.listdir("/proc/self/fd"):
        with suppress(OSError):  # that of the directory is closed again
            status = os.fstat(int(name))
            users[status.st_dev, status.st_ino] += 1
    for inode, descriptor in list(_open_indexes.items()):
        if users[inode] == 1:
            del _open_indexes[inode]
            os.close(descriptor)


def watch(engine: Engine) -> None:
    """From now on no transaction of `engine` begins on a file that is not at its path any more.

    The file that is there is opened instead. The transaction fails (OperationalError) where there
    is none, or where SQLite would apply the old file's log to it.
    """
    path = str(engine.url.database)
    _engines.add(engine)

    @event.listens_for(engine, "connect")
    def opened(dbapi: Any, record: Any) -> None:
        record.info["files"] = files(path)
        record.info["index"] = _inode(f"{path}-shm")
        if _index_is_gone(path):
            record.info["index"] = None  # SQLite shares the old one between our connections

    @event.listens_for(engine, "checkout")
    def check(dbapi: Any, record: Any, proxy: Any) -> None:
        was: Files = record.info["files"]
        now = files(path)
        what = was.changed(now)
        if was.log_lost(now):
            if dbapi.execute("PRAGMA query_only").fetchone()[0]:
                pass  # a connection that only reads cannot; one that writes will do it
            elif _saved(dbapi, path):
                if was.log is not None:
                    _rescued.setdefault(engine, set()).add(was.log)
            else:
                raise OperationalError("BEGIN", {}, sqlite3.OperationalError(LOG_GONE))
            raise DisconnectionError("the log was removed")
        if what is None and is_cut(path):
            raise OperationalError("BEGIN", {}, sqlite3.OperationalError(LOG_CUT))
        if what is None and _index_changed(path, record.info):
            _leave_index(path, dbapi)
            if _index_is_gone(path):  # a connection that is in use holds it
                raise OperationalError("BEGIN", {}, sqlite3.OperationalError(INDEX_GONE))
            raise DisconnectionError("the index of the log was removed")
        if what is None:
            record.info["files"] = now
        elif what == "replaced":
            raise DisconnectionError("the file was replaced")
        else:
            raise OperationalError("BEGIN", {}, sqlite3.OperationalError(what))

    @event.listens_for(engine, "commit")
    def still_there(connection: Connection) -> None:
        # The file may have been replaced while we waited for its lock.
        was: Files = connection.connection.info["files"]
        if connection.get_execution_options().get("gatepost_writing"):
            now = files(path)
            what = LOG_GONE if was.log_lost(now) else was.changed(now)
            if what is None and is_cut(path):
                what = LOG_CUT
            if what is None and _index_changed(path, connection.connection.info):
                what = INDEX_GONE
            if what is not None:
                text = what if what != "replaced" else "unable to open: the file was replaced"
                raise OperationalError("COMMIT", {}, sqlite3.OperationalError(text))


def _index_changed(path: str, info: Any) -> bool:
    """True where this process uses an index (-shm) of the log that has no name any more.

    Who opens the database then gets another one. Both would append to the same log without seeing
    each other's transactions, and one would overwrite the other's.
    """
    now = _inode(f"{path}-shm")
    if now is not None and now == info["index"]:
        return False
    if _index_is_gone(path):
        return True
    info["index"] = now
    return False


def _index_is_gone(path: str) -> bool:
    """True where this process has a removed index of `path` in its memory."""
    name = f"{os.path.realpath(path)}-shm (deleted)\n"
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            return any(line.endswith(name) for line in maps)
    except OSError:
        return False


def _leave_index(path: str, dbapi: Any) -> None:
    """Close `dbapi` and all idle connections of this process to `path`, so that the next one reads
    the log anew. What we have committed is in the log.

    The last one to close would write the log into the file and remove it; by the old index, that is
    without what others have appended meanwhile. So it must not take itself for the last one: it
    finds SQLite's lock of a reader. That belongs to an open file, not to the process (Linux,
    F_OFD_SETLK), and its descriptor stays open, because to close it would drop the locks of
    connections that are in use (see `_held`).
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    _kept_open.append(handle)
    lock = _FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
    with suppress(OSError):  # a file system without locks has none of SQLite's either
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, lock)
    try:
        for engine in list(_engines):
            if str(engine.url.database) == path:
                engine.pool.dispose()
        dbapi.close()
    finally:
        free = _FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, _SHARED_FIRST, _SHARED_SIZE, 0)
        with suppress(OSError):
            fcntl.fcntl(handle, fcntl.F_OFD_SETLK, free)
    _renewed.add(path)


def renewed(path: Path) -> bool:
    """True once after the index of the log at `path` was removed and this process has left it."""
    found = str(path) in _renewed
    _renewed.discard(str(path))
    return found


def _saved(dbapi: Any, path: str) -> bool:
    """Write the content of the removed log into the file. False where that would damage the file.

    Another process that only reads may have made a new log meanwhile; it is empty then. If it is
    not, it holds transactions that were made without seeing ours.
    """
    try:
        if os.stat(f"{path}-wal").st_size:
            return False
    except FileNotFoundError:
        pass
    busy, pages, written = dbapi.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
    return not busy and pages == written


def rescue(engine: Engine, log: Inode) -> bool:
    """True where a connection of `engine` has written all of the removed `log` into the file.

    Idle connections are checked now. One that is in use is checked when it is used the next time;
    False until then, and where no connection had the log open. Raises SQLAlchemyError where the
    log cannot be written into the file.
    """
    for _ in range(engine.pool.checkedin() if isinstance(engine.pool, QueuePool) else 1):
        if was_rescued(engine, log):
            break
        engine.connect().close()  # the pool gives each idle connection in turn; `check` looks at it
    done = was_rescued(engine, log)
    if done:  # forgotten: the next log may be given the same inode
        _rescued[engine].discard(log)
    return done


def was_rescued(engine: Engine, log: Inode) -> bool:
    """True where a connection found that `log` was removed and wrote it into the file, and `rescue`
    has not told so yet. The log that it made then may have the same inode."""
    return log in _rescued.get(engine, ())
