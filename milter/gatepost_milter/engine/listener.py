"""The milter's listening socket: opened once, by the engine, before anybody is forked.

Raises SocketError with one clear line where that is impossible. Workers of a parent that was
killed may hold the address for a moment, until they notice and leave; so it is tried for
PATIENCE_S seconds.
"""

import errno
import grp
import os
import socket
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gatepost_policy.config.settings import Settings
from gatepost_policy.system import sockets
from gatepost_policy.system.readable import readable
from gatepost_policy.system.socket_address import SocketAddress

PATIENCE_S = 1.5
BACKLOG = 512


class SocketError(Exception):
    """The socket cannot be opened; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Listener:
    """The listening socket's descriptor, and that of a second socket that nobody can connect to,
    which takes its place when this process must stop accepting."""

    address: SocketAddress
    descriptor: int
    deaf: int
    inode: tuple[int, int] | None = None  # of the unix socket
    kept: int = -1  # the same socket as `descriptor`, which `pause` takes away

    def go_deaf(self) -> None:
        """Stop accepting in this process alone: libmilter polls the same descriptor, which is
        now a socket that nobody can reach. Closing the real socket would make libmilter end its
        open sessions, and shutdown(2) would stop all other processes from listening too."""
        self.pause()
        if self.kept >= 0:
            os.dup2(self.deaf, self.kept)

    def pause(self) -> None:
        """Accept nothing in this process until `resume`. Needs no free descriptor."""
        os.dup2(self.deaf, self.descriptor)

    def resume(self) -> None:
        """Accept again."""
        if self.kept >= 0:
            os.dup2(self.kept, self.descriptor)

    def let_go(self) -> None:
        """`go_deaf`, and free the address at once: a successor is waiting to bind it.

        libmilter sleeps in poll(2) for up to 5 s, and the kernel keeps the old socket for as
        long. A connection to that socket wakes the poll, which then looks at the new one; so the
        new one has a connection waiting, or it would go back to sleep. Both are ours and empty.
        """
        try:
            with _nameless() as deaf, socket.socket(socket.AF_UNIX) as caller:
                deaf.setblocking(False)
                caller.connect(deaf.getsockname())
                if self.kept >= 0:
                    os.dup2(self.deaf, self.kept)
                os.dup2(deaf.fileno(), self.descriptor)
            sockets.connect(self.address, timeout=0.2).close()
        except OSError:
            self.go_deaf()

    def queue_is_empty(self) -> bool:
        """True where every connection that was made has been accepted by somebody."""
        return not readable(self.descriptor, 0)

    def sessions(self) -> tuple[int, int]:
        """(connections from MTAs in this process, how many of them have said something unread).

        Counts those as well that libmilter has accepted and not yet told anybody about.
        """
        count = unread = 0
        for number in open_sockets():
            if number in (self.descriptor, self.deaf, self.kept):
                continue
            try:
                with socket.socket(fileno=os.dup(number)) as duplicate:
                    if self._is_ours(duplicate.getsockname()):
                        count += 1
                        unread += readable(duplicate, 0)
            except (OSError, ValueError):
                continue  # closed meanwhile
        return count, unread

    def _is_ours(self, name: object) -> bool:
        if self.address.kind == "unix":
            return name == self.address.path
        return isinstance(name, tuple) and name[1] == self.address.port

    def remove(self) -> None:
        """Take the unix socket's name away. Call where nobody listens any more."""
        if self.address.kind == "unix":
            sockets.remove(self.address.path, self.inode)

    def lost(self) -> bool:
        """True where the unix socket's name is gone or is another file: no MTA can reach us."""
        return self.address.kind == "unix" and sockets.inode(self.address.path) != self.inode


def open_listener(settings: Settings, open_socket: Callable[[SocketAddress], int]) -> Listener:
    """Listen at `milter.socket`, by the engine's `open_socket`. Raises SocketError."""
    address = SocketAddress.parse(settings.milter.socket)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        problem = _problem(address)
        if problem is None:
            break
        text, passing = problem
        if not passing or time.monotonic() > deadline:
            raise SocketError(f"milter.socket {address}: {text}")
        time.sleep(0.05)
    mode = int(settings.milter.socket_mode, 8)
    old_mask = os.umask(0o777 & ~mode)
    try:
        descriptor = open_socket(address)
    except OSError as error:
        raise SocketError(f"milter.socket {address}: {error.strerror}") from None
    finally:
        os.umask(old_mask)
    # Workers race for each connection; the losers must not sleep in accept(2).
    os.set_blocking(descriptor, False)
    if address.kind == "unix":
        _own(Path(address.path), mode, settings.milter.socket_group)
    else:
        # Inherited by accepted sockets on Linux. An answer may be several writes, and
        # Nagle's algorithm against the MTA's delayed ACK would make that 40 ms a message.
        with socket.socket(fileno=os.dup(descriptor)) as duplicate:
            duplicate.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    inode = sockets.inode(address.path) if address.kind == "unix" else None
    return Listener(address, descriptor, _deaf_socket(), inode, os.dup(descriptor))


def _problem(address: SocketAddress) -> tuple[str, bool] | None:
    """(why it cannot be bound, whether that may pass) or None."""
    if address.kind == "unix":
        return _unix_problem(Path(address.path))
    error = sockets.obstacle(address)
    if error is None:
        return None
    if error.errno == errno.EADDRINUSE:
        return "the port is in use; stop the other service or choose another port", True
    return f"{error.strerror}", False


def _unix_problem(path: Path) -> tuple[str, bool] | None:
    if not path.parent.is_dir():
        return f"no directory {path.parent}: create it, writable for gatepost", False
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return f"no permission to create a socket in {path.parent}", False
    try:
        kind = path.lstat().st_mode
    except OSError:
        return None
    if not stat.S_ISSOCK(kind):
        return "a file of this name is in the way, and it is no socket", False
    if sockets.answers(SocketAddress("unix", path=str(path)), timeout=0.5):
        return "another process answers on it; stop that or choose another path", True
    return None  # stale: left behind by a process that is gone


def _own(path: Path, mode: int, group: str) -> None:
    try:
        if group:
            os.chown(path, -1, grp.getgrnam(group).gr_gid)
        path.chmod(mode)
    except KeyError:
        path.unlink(missing_ok=True)
        raise SocketError(f"milter.socket_group: no group {group!r} on this machine") from None
    except OSError as error:
        path.unlink(missing_ok=True)
        raise SocketError(f"milter.socket {path}: {error.strerror} (mode or group)") from None


def open_sockets() -> dict[int, str]:
    """The sockets of this process: {descriptor: "socket:[inode]"}."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            link = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor that listed the directory
        if link.startswith("socket:"):
            found[int(name)] = link
    return found


def _deaf_socket() -> int:
    """A listening socket without a name: accept(2) says "try again", for ever."""
    with _nameless() as deaf:
        deaf.setblocking(False)
        return os.dup(deaf.fileno())


@contextmanager
def _nameless() -> Iterator[socket.socket]:
    """A listening unix socket whose name is gone afterwards: nobody else can ever connect."""
    with tempfile.TemporaryDirectory(prefix="gatepost-") as directory:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(f"{directory}/s")
            listening.listen(1)
            yield listening
