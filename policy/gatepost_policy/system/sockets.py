"""Sockets at a `SocketAddress`: connect, listen, and whether a process listens there already."""

import errno
import os
import socket
import stat
from contextlib import suppress

from gatepost_policy.system.socket_address import SocketAddress

_FAMILIES = {"unix": socket.AF_UNIX, "inet": socket.AF_INET, "inet6": socket.AF_INET6}


def family(address: SocketAddress) -> socket.AddressFamily:
    """AF_UNIX, AF_INET or AF_INET6."""
    return _FAMILIES[address.kind]


def target(address: SocketAddress) -> str | tuple[str, int]:
    """`address` as bind(2) and connect(2) take it."""
    return address.path if address.kind == "unix" else (address.host, address.port)


def connect(address: SocketAddress, timeout: float) -> socket.socket:
    """A connection to `address`; `timeout` seconds for this and what follows. Raises OSError."""
    made = socket.socket(family(address), socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        if address.kind != "unix":
            # Small packets go at once: Nagle's algorithm would wait for the other side's ACK.
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        made.connect(target(address))
    except BaseException:
        made.close()
        raise
    return made


def answers(address: SocketAddress, timeout: float = 2.0) -> bool:
    """True where somebody accepts a connection at `address`."""
    try:
        connect(address, timeout).close()
    except OSError:
        return False
    return True


def obstacle(address: SocketAddress) -> OSError | None:
    """The error that listening at `address` would give (EADDRINUSE: in use), None if it would
    work."""
    if address.kind == "unix":
        # A socket on which nobody answers is stale: `listen` replaces it.
        return OSError(errno.EADDRINUSE, "another process answers") if answers(address) else None
    try:
        with socket.socket(family(address), socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(target(address))
            probe.listen(1)
    except OSError as error:
        return error
    return None


def remove_stale(path: str) -> None:
    """Unlink a unix socket that nobody listens on any more. Raises OSError."""
    try:
        if stat.S_ISSOCK(os.stat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                probe.settimeout(1.0)
                try:
                    probe.connect(path)
                except ConnectionRefusedError:
                    os.unlink(path)  # left behind by a process that was killed
    except FileNotFoundError:
        pass


def listen(address: SocketAddress, mode: int, backlog: int) -> socket.socket:
    """A listening socket; a unix one has the permissions `mode` from its first moment on, and
    replaces a stale one. Raises OSError."""
    if address.kind != "unix":
        return socket.create_server(target(address), family=family(address), backlog=backlog)
    remove_stale(address.path)
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)  # no moment with wider permissions
    try:
        bound.bind(address.path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    os.chmod(address.path, mode)
    bound.listen(backlog)
    return bound


def inode(path: str) -> tuple[int, int] | None:
    """Device and inode of a unix socket; None where no socket lies at `path`."""
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None


def remove(path: str, mine: tuple[int, int] | None) -> None:
    """Unlink our own unix socket. `mine`: its `inode`; another file at `path` is left alone."""
    if mine is not None and inode(path) == mine:
        with suppress(OSError):
            os.unlink(path)
