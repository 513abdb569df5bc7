"""Can a user connect to a socket? Each function returns None, or the problem in words."""

import grp
import os
import pwd
import stat
from pathlib import Path

from gatepost_policy.system import sockets
from gatepost_policy.system.socket_address import SocketAddress

TIMEOUT = 5


def reachable(address: SocketAddress) -> str | None:
    """None where something listens on the socket."""
    try:
        sockets.connect(address, TIMEOUT).close()
    except OSError as error:
        return f"nothing answers on {address}: {error.strerror or error}"
    return None


def may_connect(path: Path, user: str) -> str | None:
    """None where `user` may connect to the unix socket `path` (unix(7): write permission)."""
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return f"there is no user {user} on this host"
    groups = {account.pw_gid} | {g.gr_gid for g in grp.getgrall() if user in g.gr_mem}
    for folder in reversed(path.parents):
        try:
            info = folder.stat()
        except OSError as error:
            return f"{folder}: {error.strerror}"
        if not _allowed(info, account.pw_uid, groups, 1):
            return f"user {user} cannot enter {folder} (mode {stat.S_IMODE(info.st_mode):04o})"
    try:
        info = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if not stat.S_ISSOCK(info.st_mode):
        return f"{path} is not a socket"
    if not _allowed(info, account.pw_uid, groups, 2):
        return f"user {user} may not connect to {path} (mode {stat.S_IMODE(info.st_mode):04o})"
    return None


def _allowed(info: os.stat_result, uid: int, groups: set[int], bit: int) -> bool:
    """One of rwx (4, 2, 1) for a user, as the kernel decides: owner, else group, else others."""
    if uid == info.st_uid:
        return bool(info.st_mode >> 6 & bit)
    if info.st_gid in groups:
        return bool(info.st_mode >> 3 & bit)
    return bool(info.st_mode & bit)
