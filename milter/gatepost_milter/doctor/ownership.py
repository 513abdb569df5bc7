"""What root makes in the services' state directory belongs to the services.

`milterctl` is often run by root, and the services are not. A lock, a segment or a database that
root left behind would lock them out, so it is handed over to the directory's owner when the
command ends. Only plain files, pipes and directories that are root's are given away, through a
descriptor, and never one with a second name: whoever owns the directory could have linked any
file of root's into it.
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

# What gatepost makes in a state directory. With a database in somebody's home, that is the home.
OURS = ("journal", "quarantine", "known.", "slots", "privacy-test")


def give_back(state: Path, database: str = "") -> int:
    """Hand root's files in `state` to its owner; how many. Does nothing for other users.

    `database` is the SQLite file's name: it and what lies beside it under that name are ours.
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
    """What of ours in `state` does not belong to its owner."""
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
