"""A listening unix socket with the permissions that were asked for, from its first moment on."""

import os
import socket
import stat


def listen(path: str, mode: int, backlog: int) -> socket.socket:
    """A listening unix socket with these permissions; a stale one is replaced. Raises OSError."""
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
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o777 & ~mode)  # no moment with wider permissions
    try:
        bound.bind(path)
    except OSError:
        bound.close()
        raise
    finally:
        os.umask(before)
    os.chmod(path, mode)
    bound.listen(backlog)
    return bound
