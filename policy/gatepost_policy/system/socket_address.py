"""Socket addresses in libmilter's notation: `inet:8894@127.0.0.1`, `inet6:8894@::1`, `unix:/path`.

Pure text handling; `sockets` connects and listens.
"""

import re
from dataclasses import dataclass
from ipaddress import ip_address

WANTED = "inet:PORT@ADDRESS, inet6:PORT@ADDRESS or unix:/PATH"


@dataclass(frozen=True, slots=True)
class SocketAddress:
    """One listening or target socket. `kind` is inet, inet6 or unix."""

    kind: str
    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> "SocketAddress":
        """Read `text`; `localhost` is taken too. Raises ValueError saying what was wanted."""
        if text.startswith(("unix:/", "local:/")):
            path = text.partition(":")[2]
            # sun_path holds 108 octets with the closing NUL (unix(7)).
            if len(path.encode("utf-8", "surrogateescape")) > 107:
                raise ValueError(f"want a socket path of at most 107 octets, got {len(path)}")
            return cls("unix", path=path)
        match = re.fullmatch(r"(inet6?):(\d{1,5})@(.+)", text)
        if match and 0 < int(match.group(2)) < 65536:
            kind, port, host = match.group(1), int(match.group(2)), match.group(3).strip("[]")
            if host == "localhost":
                host = "127.0.0.1" if kind == "inet" else "::1"
            try:
                version: int | None = ip_address(host).version
            except ValueError:
                version = None
            if version == (4 if kind == "inet" else 6):
                return cls(kind, host=host, port=port)
        raise ValueError(f"want {WANTED}")

    def __str__(self) -> str:
        if self.kind == "unix":
            return f"unix:{self.path}"
        return f"{self.kind}:{self.port}@{self.host}"

    def postfix(self) -> str:
        """How this host's Postfix reaches it, in its notation: `inet:127.0.0.1:8894`.

        Every address of the host is one to listen on, none to connect to.
        """
        if self.kind == "unix":
            return f"unix:{self.path}"
        address = ip_address(self.host)
        if address.is_unspecified:
            address = ip_address("127.0.0.1" if address.version == 4 else "::1")
        host = f"[{address}]" if address.version == 6 else f"{address}"
        return f"inet:{host}:{self.port}"
