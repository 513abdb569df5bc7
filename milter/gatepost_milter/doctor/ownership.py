"""Give files that root made in the services' state directory to the directory's owner.

`milterctl` is often run by root, and the services are not. They could not open a lock, a segment
or a database that root made, so its owner is changed when the command ends. Only regular files,
pipes and directories of root are changed, through a descriptor (so no symbolic link is followed),
and no file with a second hard link: the directory's owner could have linked any file of root
into it, and would become its owner.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

# Names that gatepost makes in a state directory. Only these are touched: with a database in a
# user's home directory, the home is the state directory.
OURS = ("journal", "quarantine", "known.", "slots", "losses.", "privacy-test")


def give_back(state: Path, database: str = "") -> int:
    """Give root's files in `state` to its owner; returns how many. Only root can do this.

    `database` is the SQLite file's name: files whose names start with it are ours (-wal, -shm).
    """
    if os.geteuid() != 0:
        return 0
    try:
        owner = state.stat()
    except OSError:
        return 0  # nothing was made
    if owner.st_uid == 0:
        return 0
    return sum(_give(path, owner.st_uid, owner.st_gid) for path in _ours(state, database))


def foreign(state: Path, database: str = "") -> Iterator[Path]:
    """The files of ours in `state` that do not belong to the owner of `state`. Raises OSError."""
    uid = state.stat().st_uid
    for path in _ours(state, database):
        try:
            if path.lstat().st_uid != uid:
                yield path
        except FileNotFoundError:
            continue


def _ours(state: Path, database: str) -> Iterator[Path]:
    """What gatepost made in `state`, and what is in its directories."""
    for path in _in(state):
        if path.name.startswith((*OURS, database) if database else OURS):
            yield path
            if path.is_dir() and not path.is_symlink():
                yield from _in(path)


def _in(directory: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in os.scandir(directory)]
    except OSError:
        return []


def _give(path: Path, uid: int, gid: int) -> bool:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        handle = os.open(path, flags)
    except OSError:
        return False  # a symbolic link, a socket, or gone meanwhile
    try:
        info = os.fstat(handle)
        plain = stat.S_ISREG(info.st_mode) or stat.S_ISFIFO(info.st_mode)
        if info.st_uid != 0 or not (stat.S_ISDIR(info.st_mode) or (plain and info.st_nlink == 1)):
            return False
        os.fchown(handle, uid, gid)
    finally:
        os.close(handle)
    return True
