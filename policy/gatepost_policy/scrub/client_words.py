"""The words that name a submission's client: its address, EHLO name, PTR name and login. Pure.

They are there to be searched for in fields that nobody knows and in message ids, and are never
written anywhere. What tells nothing is no word: `localhost`, the mail server's own name, and a
host name that is the author's domain, which From tells.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gatepost_policy.mail import received
from gatepost_policy.mail.client_address import Ip, parse

# Anything that may be an address: found ones are compared as addresses, since IPv6 has many
# spellings of one.
ADDRESS = re.compile(
    rb"(?<![\w.:])(?:(?:IPv6:)?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}"
    rb"|\d{1,3}(?:\.\d{1,3}){3})"
    rb"(?![\w:])",
    re.I,
)
_SILENT = frozenset(("localhost", "localhost.localdomain", "unknown"))


@dataclass(frozen=True, slots=True)
class ClientWords:
    """`hosts`: EHLO and PTR name, lower-case, without a dot at the end."""

    addresses: frozenset[Ip] = frozenset()
    hosts: tuple[str, ...] = ()
    login: str | None = None

    @classmethod
    def of(
        cls,
        address: Ip | None,
        names: Iterable[str | None],
        login: str | None,
        silent: Iterable[str] = (),
    ) -> "ClientWords":
        """The words of a client at `address` that is called `names` (EHLO, PTR) and logged in as
        `login`. `silent`: host names that tell nothing about it."""
        addresses = set() if address is None else {address}
        hosts: list[str] = []
        quiet = _SILENT.union(name.lower().rstrip(".") for name in silent)
        for name in names:
            host = (name or "").strip().lower().rstrip(".")
            literal = parse(host)
            if literal is not None:
                addresses.add(literal)
            elif len(re.findall(r"\w", host)) > 1 and host not in quiet and host not in hosts:
                hosts.append(host)
        return cls(frozenset(addresses), tuple(hosts), login or None)

    @classmethod
    def first_hop(
        cls, value: bytes, login: str | None, silent: Iterable[str] = ()
    ) -> "ClientWords":
        """The words of the client that a Received field names (submission.own_received proxy)."""
        tells = received.read(value).tells
        names = [text.strip("[]()") for what, text in tells if "name" in what]
        addresses = [text for what, text in tells if what == "client address"]
        return cls.of(None, [*names, *addresses], login, silent)

    def joined(self, other: "ClientWords") -> "ClientWords":
        """The words of both."""
        hosts = tuple(dict.fromkeys((*self.hosts, *other.hosts)))
        return ClientWords(self.addresses | other.addresses, hosts, self.login or other.login)

    def within(self, value: bytes) -> bool:
        """True where one of the words stands in `value`, as a whole word and in any case."""
        return next(self._found(value), None) is not None

    def without(self, value: bytes) -> bytes:
        """`value` with each word replaced by `x`, an address also between the dots of an id."""
        for start, end in sorted(self._found(value), reverse=True):
            value = value[:start] + b"x" + value[end:]
        for address in self.addresses:
            raw = re.escape(str(address).encode())
            value = re.sub(rb"(?<![0-9a-f])" + raw + rb"(?![0-9a-f])", b"x", value, flags=re.I)
        return value

    def _found(self, value: bytes) -> Iterator[tuple[int, int]]:
        if self.addresses:
            for match in ADDRESS.finditer(value):
                if parse(match.group().decode("ascii")) in self.addresses:
                    yield match.span()
        for word in (*self.hosts, *((self.login,) if self.login else ())):
            raw = re.escape(word.encode("utf-8", "surrogateescape"))
            # A name may stand behind a dot or before one: laptop in laptop.lan.
            for match in re.finditer(rb"(?<![\w-])" + raw + rb"(?![\w-])", value, re.I):
                yield match.span()


NOBODY = ClientWords()
