"""An SMTP client with a limit of time for a whole dialogue: smtplib's timeout begins anew with each
octet that comes.

`with Deadline(seconds) as deadline, connect(...)`: when the time is up the connection is cut and
`deadline.over` is true. An answer of more than MAX_LINES lines is not accepted.
"""

import contextlib
import smtplib
import socket
import ssl
import threading
from typing import Any, BinaryIO

MAX_LINES = 1000  # EHLO, the longest of them, has some twenty


class Deadline:
    """Cuts a connection when its time is up."""

    def __init__(self, seconds: float) -> None:
        self.over = False
        self._sock: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def watch(self, sock: socket.socket) -> None:
        """Watch this connection, whatever is put around it later (TLS takes the socket away)."""
        self._sock = sock.dup()
        if self.over:
            self._cut()

    def _cut(self) -> None:
        self.over = True
        if self._sock is not None:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> "Deadline":
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()
        if self._sock is not None:
            self._sock.close()


class _Lines:
    """A connection read by lines, so many at most."""

    def __init__(self, file: BinaryIO) -> None:
        self.left = MAX_LINES
        self._file = file

    def readline(self, size: int) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise smtplib.SMTPServerDisconnected(f"an answer of more than {MAX_LINES} lines")
        return self._file.readline(size)

    def close(self) -> None:
        self._file.close()


class _Watched(smtplib.SMTP):
    deadline: Deadline

    # What both of smtplib's classes open their connection with; the one of TLS wraps it after.
    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        sock: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
        self.deadline.watch(sock)
        return sock

    def getreply(self) -> tuple[int, bytes]:
        if self.file is None and self.sock is not None:
            self.file = _Lines(self.sock.makefile("rb"))
        if self.file is not None:
            self.file.left = MAX_LINES
        return super().getreply()


class _Plain(_Watched):
    def __init__(self, deadline: Deadline, *given: Any, **more: Any) -> None:
        self.deadline = deadline
        super().__init__(*given, **more)


class _Tls(smtplib.SMTP_SSL, _Watched):
    """TLS from the first octet."""

    def __init__(self, deadline: Deadline, *given: Any, **more: Any) -> None:
        self.deadline = deadline
        super().__init__(*given, **more)


def connect(
    host: str, port: int, *, helo: str, timeout: float, tls: ssl.SSLContext | None,
    deadline: Deadline,
) -> smtplib.SMTP:  # fmt: skip
    """Connect and read the greeting; with `tls` from the first octet. Raises as smtplib does."""
    if tls is None:
        return _Plain(deadline, host, port, local_hostname=helo, timeout=timeout)
    return _Tls(deadline, host, port, local_hostname=helo, timeout=timeout, context=tls)
