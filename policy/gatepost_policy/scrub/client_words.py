"""The words that name a submission's client: its address, EHLO name, PTR name and login. Pure.

They are there to be searched for in fields that nobody knows and in message ids, and are never
written anywhere. What tells nothing is no word: `localhost`, the mail server's own name, and a
host name that is the author's domain, which From tells.
"""

import binascii
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from gatepost_policy.mail import received
from gatepost_policy.mail.client_address import Ip, parse

# Anything that may be an address: found ones are compared as addresses, since IPv6 has many
# spellings of one. An IPv4 address may stand between a colon and a port.
_V6 = re.compile(
    rb"(?<![\w.:])(?:IPv6:)?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:\.\d{1,3}){0,3}(?![\w:])", re.I
)
_V4 = re.compile(rb"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?!\w|\.\d)")
ADDRESS = re.compile(_V6.pattern + b"|" + _V4.pattern, re.I)
# RFC 5322 2.2.3; RFC 2047 2.
_FOLD = re.compile(rb"\r?\n[ \t]+")
_ENCODED = re.compile(rb"=\?[^?\s]{1,80}\?([BQ])\?([^?\s]*)\?=(?:\s+(?==\?))?", re.I)
# What is no word of everybody's language: of a host name's first label and a login's local part.
_DISTINCT = re.compile(r"(?=.*[\d.-])[^\s@]{4,}\Z")
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

    def told_by(self, value: bytes) -> bool:
        """True where `value`, a field's, names the client in any way that a reader undoes: a fold,
        an encoded word (RFC 2047), a percent sign (RFC 3986 2.1). A machine's name counts without
        its domain and a login without its own, where they are no everyday words."""
        if self == NOBODY:
            return False
        readings = {value}
        if b"\n" in value:
            readings.add(_FOLD.sub(b"", value))
        if b"=?" in value:
            readings.add(_ENCODED.sub(_decoded, value))
        if b"%" in value:
            readings.add(unquote_to_bytes(value))
        parts = [h.partition(".")[0] for h in self.hosts]
        parts += [(self.login or "").rpartition("@")[0]]
        short = [part for part in parts if _DISTINCT.match(part)]
        return any(
            self.within(reading) or any(next(_alone(part, reading), None) for part in short)
            for reading in readings
        )

    def within(self, value: bytes) -> bool:
        """True where one of the words stands in `value`, as a whole word and in any case."""
        return next(self._found(value), None) is not None

    def without(self, value: bytes) -> bytes:
        """`value` with each word replaced by `x`, an address also between the dots of an id."""
        reached = len(value)
        # An IPv4 address at the end of an IPv6 one is found as well: the last to start goes first.
        for start, end in sorted(self._found(value), key=lambda span: (span[1], -span[0]))[::-1]:
            if end <= reached:
                value = value[:start] + b"x" + value[end:]
                reached = start
        for address in self.addresses:
            raw = re.escape(str(address).encode())
            value = re.sub(rb"(?<![0-9a-f])" + raw + rb"(?![0-9a-f])", b"x", value, flags=re.I)
        return value

    def _found(self, value: bytes) -> Iterator[tuple[int, int]]:
        if self.addresses:
            for pattern in (_V6, _V4):
                for match in pattern.finditer(value):
                    if parse(match.group().decode("ascii")) in self.addresses:
                        yield match.span()
        for word in (*self.hosts, *((self.login,) if self.login else ())):
            yield from _whole(word, value)


def _whole(word: str, value: bytes) -> Iterator[tuple[int, int]]:
    raw = re.escape(word.encode("utf-8", "surrogateescape"))
    # A name may stand behind a dot or before one (laptop in laptop.lan), and between underscores.
    for match in re.finditer(rb"(?<![a-z0-9-])" + raw + rb"(?![a-z0-9-])", value, re.I):
        yield match.span()


def _alone(word: str, value: bytes) -> Iterator[tuple[int, int]]:
    """Without what is another machine: laptop in laptop.example."""
    for start, end in _whole(word, value):
        if not re.match(rb"\.[a-z0-9]", value[end : end + 2], re.I):
            yield start, end


def _decoded(match: re.Match[bytes]) -> bytes:
    """An encoded word as octets, whatever its charset."""
    coding, text = match.groups()
    try:
        if coding in b"Qq":
            return binascii.a2b_qp(text, header=True)
        return binascii.a2b_base64(text + b"==")
    except binascii.Error:
        return b""


NOBODY = ClientWords()
