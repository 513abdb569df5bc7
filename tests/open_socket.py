"""A socket that accepts connections, as the daemon would."""

import socket
import threading


class Listener:
    """Something that accepts connections, as the daemon would."""

    def __init__(self, address: str | tuple[str, int] = ("127.0.0.1", 0)) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.bind(address)
        self.sock.listen(50)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def port(self) -> int:
        """The port of an inet listener."""
        return int(self.sock.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                self.sock.accept()[0].close()
            except OSError:
                return

    def close(self) -> None:
        self.sock.shutdown(socket.SHUT_RDWR)
        self.sock.close()
