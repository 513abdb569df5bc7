"""Words that must never come out: one client's address, name, EHLO, login and port.

`Canaries.fresh()` makes a set that occurs nowhere else; `found(data)` says which of them stand in
`data`, in any case and, as text may travel in other clothes, in base64 and hexadecimal too.
"""

import base64
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import cycle


def _hosts() -> Iterator[int]:
    """100 to 249, each once before one comes again: what was written of an earlier client must not
    be taken for this one's."""
    return cycle(secrets.SystemRandom().sample(range(100, 250), 150))


_HOSTS = _hosts()


@dataclass(frozen=True, slots=True)
class Canaries:
    """One client's traces. `login` is the whole login name."""

    address: str
    name: str
    helo: str
    login: str
    port: int

    @classmethod
    def fresh(cls, family: str, login: str) -> "Canaries":
        """A client on IPv4 (203.0.113.0/24, RFC 5737) or IPv6 (2001:db8::/32, RFC 3849)."""
        word = secrets.token_hex(5)
        if family == "ipv6":
            parts = ":".join(f"{secrets.randbelow(0xEFFF) + 0x1000:x}" for _ in range(6))
            address = f"2001:db8:{parts}"
        else:
            address = f"203.0.113.{next(_HOSTS)}"
        return cls(address, f"ptr-{word}.canary.example", f"ehlo-{word}.example", login,
                   secrets.randbelow(20_000) + 40_000)  # fmt: skip

    @property
    def xclient(self) -> str:
        """The XCLIENT attributes that make a session this client's (Postfix XCLIENT_README)."""
        address = f"IPV6:{self.address}" if ":" in self.address else self.address
        return f"NAME={self.name} ADDR={address} PORT={self.port}"

    def words(self) -> dict[str, str]:
        return {"address": self.address, "host name": self.name, "EHLO": self.helo,
                "login": self.login, "port": str(self.port)}  # fmt: skip

    def found(self, data: bytes) -> tuple[str, ...]:
        """Which kinds of trace stand in `data`."""
        return tuple(what for what, word in self.words().items() if _stands(word, data))


def _stands(word: str, data: bytes) -> bool:
    plain = word.lower().encode()
    if plain.isdigit():
        # Ports: five digits stand in many a number.
        return re.search(rb"(?<![0-9a-z.])" + plain + rb"(?![0-9a-z])", data.lower()) is not None
    # No look at what stands beside it: a database file holds values without anything between.
    coded = base64.b64encode(plain)[: len(plain) // 3 * 4].lower()
    low = data.lower()
    if plain in low or plain.hex().encode() in low or coded in low:
        return True
    return ":" in word and ip_address(word).packed in data
