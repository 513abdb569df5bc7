"""The words that name a submission's client: its address, EHLO name, PTR name and login. Pure.

They are searched for in fields on no list and in message ids, and are never written anywhere. Names
that reveal nothing are left out: `localhost`, the mail server's own name, and a host name that is
the author's domain, which From has anyway.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network

import idna

from gatepost_policy.mail import received
from gatepost_policy.mail.client_address import Ip, parse
from gatepost_policy.scrub.private_names import PRIVATE
from gatepost_policy.scrub.readings import readings

# Anything that may be an address: matches are compared as addresses, because IPv6 has many
# spellings of one. A port may follow a colon, also after IPv6, where five digits can only be a
# port.
_V6 = re.compile(
    rb"(?<![a-z0-9.:])(?:IPv6:)?[0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}"
    rb"(?:(?:\.\d{1,3}){1,3}|:\d{5})?(?![a-z0-9:])",
    re.I,
)
_V4 = re.compile(rb"(?<![a-z0-9.])\d{1,3}(?:\.\d{1,3}){3}(?![a-z0-9]|\.\d)", re.I)
# As host names have it: ip-192-168-1-20.lan.
_JOINED = re.compile(
    rb"(?<![0-9])(?<![0-9][-_])\d{1,3}([-_])\d{1,3}\1\d{1,3}\1\d{1,3}(?![0-9]|[-_.][0-9])"
)
_DOTS = bytes.maketrans(b"-_", b"..")
ADDRESS = re.compile(_V6.pattern + b"|" + _V4.pattern, re.I)
_PORT = re.compile(rb"(?<=.):\d{5}\Z")
# RFC 1918 3, RFC 3927, RFC 4193, RFC 4291 2.5.6: addresses inside somebody's network; RFC 6598 7:
# those between a router and its provider.
_INSIDE = tuple(
    map(
        ip_network,
        (
            "10.0.0.0/8",
            "172.16.0.0/12",
            "192.168.0.0/16",
            "169.254.0.0/16",
            "100.64.0.0/10",
            "fc00::/7",
            "fe80::/10",
        ),
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052 2.1
# A host name's first label or a login's local part that is no everyday word.
_DISTINCT = re.compile(r"(?=.*[\d.-])[^\s@]{4,}\Z")
MAX_DOMAIN = 255  # RFC 1035 2.3.4
_NUMBER = re.compile(rb"\.\d+\Z")
_DOMAIN = re.compile(rb"(?:\.[a-z0-9-]+)+", re.I)
_SIGN = rb"[^0-9a-z\s;,]{1,4}"  # also the octets of a hyphen outside ASCII
_BEHIND = b"|".join(
    rb"(?<=" + word + rb"-)"
    for word in (
        b"bounce",
        b"bounces",
        b"return",
        b"returns",
        b"owner",
        b"errors",
        b"verp",
        b"prvs",
    )
)
_SILENT = frozenset(("localhost", "localhost.localdomain", "unknown"))


@dataclass(frozen=True, slots=True)
class ClientWords:
    """The words that name one client. `hosts`: EHLO and PTR name, lower-case, without a dot at the
    end.
    """

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
        `login`. `silent`: host names that reveal nothing about it.
        """
        addresses = set() if address is None else {address}
        hosts: list[str] = []
        quiet = _SILENT.union(name.lower().rstrip(".") for name in silent)
        for name in names:
            host = (name or "").strip().lower().rstrip(".")
            literal = parse(host)
            if literal is not None:
                addresses.add(literal)
            elif len(re.findall(r"\w", host)) > 1 and host not in quiet:
                hosts += (form for form in _forms(host) if form not in hosts)
        return cls(frozenset(addresses), tuple(hosts), login.lower() if login else None)

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

    def beside(self, authors: Iterable[bytes]) -> "ClientWords":
        """These words without a login that stands in a From field (`authors`), where it is public
        anyway (RFC 5322 3.6.2).
        """
        if self.login and any(next(_whole(self.login, value), None) for value in authors):
            return replace(self, login=None)
        return self

    def told_by(self, value: bytes) -> bool:
        """True where `value`, a field's, names the client in any of its `readings`."""
        if self == NOBODY:
            return False
        short = self._short()
        return any(
            self.within(reading) or any(next(_alone(part, reading), None) for part in short)
            for reading in readings(value)
        )

    def _short(self) -> list[str]:
        """The host names and the login without their domains, where they are no everyday words."""
        parts = [h.partition(".")[0] for h in self.hosts]
        parts += [(self.login or "").rpartition("@")[0]]
        return [part for part in parts if _DISTINCT.match(part)]

    def within(self, value: bytes) -> bool:
        """True where one of the words stands in `value`, as a whole word and in any case."""
        return next(self._found(value), None) is not None

    def without(self, value: bytes) -> bytes:
        """`value` with each word replaced by `x`.

        An address is also replaced between the dots of an id, and a host name or login also without
        its domain, where it is no everyday word.
        """
        reached = len(value)
        # From the end backwards. An IPv4 address at the end of an IPv6 one is found twice: of two
        # spans that end together the longer one is replaced.
        for start, end in sorted(self._found(value), key=lambda span: (span[1], -span[0]))[::-1]:
            if end <= reached:
                value = value[:start] + b"x" + value[end:]
                reached = start
        for address in self.addresses:
            raw = re.escape(str(address).encode())
            value = re.sub(rb"(?<![0-9a-f])" + raw + rb"(?![0-9a-f])", b"x", value, flags=re.I)
        for part in self._short():
            for start, end in [*_alone(part, value)][::-1]:
                value = value[:start] + b"x" + value[end:]
        return value

    def _found(self, value: bytes) -> Iterator[tuple[int, int]]:
        if self.addresses:
            homes = _homes(self.addresses)
            for pattern in (_V6, _V4):
                for match in pattern.finditer(value):
                    found = _address(match.group())
                    if found in self.addresses or (homes and _home(found) in homes):
                        yield match.span()
            for address in self.addresses:
                for match in _spellings(address).finditer(value):
                    yield match.span()
        for host in self.hosts:
            yield from _whole(host, value)
        if self.login:
            yield from _whole(self.login, value)


@lru_cache(maxsize=64)
def _homes(addresses: frozenset[Ip]) -> frozenset[bytes]:
    """The networks of the client's IPv6 addresses."""
    return frozenset(filter(None, map(_home, addresses)))


def _home(address: Ip | None) -> bytes | None:
    """The first 64 bits of a global IPv6 address: one household's or one host's network (RFC 4291
    2.5.1, RFC 6177 2), in which a host has several addresses (RFC 8981)."""
    if isinstance(address, IPv6Address) and address.packed[0] >> 5 == 1:
        return address.packed[:8]
    return None


def _forms(host: str) -> Iterator[str]:
    """A host name, and its other form where it has letters outside ASCII (RFC 5890 2.3.2.1)."""
    yield host
    try:
        if "xn--" in host:
            yield idna.decode(host)
        elif not host.isascii():
            yield idna.encode(host).decode()
    except (idna.IDNAError, UnicodeError):
        return


def has_inside_address(value: bytes) -> bool:
    """True where `value` has an address of a private network, such as the client's own behind its
    router, which the mail server never sees; also encoded, and as a part of a host name."""
    return any(_inside(text) for reading in readings(value) for text in _told(reading))


def _told(value: bytes) -> Iterator[bytes]:
    """Whatever in `value` may be an address."""
    for pattern in (_V6, _V4):
        for match in pattern.finditer(value):
            yield match.group()
    for match in _JOINED.finditer(value):
        yield match.group().translate(_DOTS)


def _inside(text: bytes) -> bool:
    address = _address(text)
    return address is not None and any(address in network for network in _INSIDE)


def _whole(word: str, value: bytes) -> Iterator[tuple[int, int]]:
    for match in _word(word).finditer(value):
        yield match.span()


@lru_cache(maxsize=256)
def _word(word: str) -> re.Pattern[bytes]:
    """A pattern for a name: after or before a dot (laptop in laptop.lan), between underscores, and
    after what mail programs put before a user's name (`bounce-`).

    Instead of a sign in it another one may stand (`alice_laptop`, `laptop[.]lan`).
    """
    parts = re.split(r"([a-z0-9]+)", word, flags=re.I)
    raw = b"".join(
        re.escape(part.encode("utf-8", "surrogateescape"))
        if n % 2 or not part.isascii() or len(part) > 1 or n in (0, len(parts) - 1)
        else _SIGN
        for n, part in enumerate(parts) if part
    )  # fmt: skip
    return re.compile(rb"(?:(?<![a-z0-9-])|" + _BEHIND + rb")" + raw + rb"(?![a-z0-9-])", re.I)


def _alone(word: str, value: bytes) -> Iterator[tuple[int, int]]:
    """Where `word` stands alone or before a private domain (laptop.local), not as another machine
    (laptop.example).
    """
    for start, end in _whole(word, value):
        # Bounded: with a value that is one long name the time would be quadratic.
        domain = _DOMAIN.match(value, end, end + MAX_DOMAIN)
        # A number is no top-level domain: it is another part of an id.
        if (
            domain is None
            or domain.group().lower().endswith(PRIVATE)
            or _NUMBER.search(domain.group())
        ):
            yield start, end


def _address(text: bytes) -> Ip | None:
    """The address in `text`, also with leading zeros, with a port after it, or in NAT64 or 6to4;
    None where it is not an address.
    """
    plain = _PORT.sub(b"", text).decode("ascii")
    if ":" not in plain:
        plain = ".".join(part.lstrip("0") or "0" for part in plain.split("."))
    found = parse(plain)
    if isinstance(found, IPv6Address):
        if found in _NAT64:
            return IPv4Address(found.packed[12:])
        return found.sixtofour or found
    return found


@lru_cache(maxsize=64)
def _spellings(address: Ip) -> re.Pattern[bytes]:
    """A pattern for `address` as it is written in host names, as a number and by programs:
    203-0-113-77.dsl.example, cb00714d, 77.113.0.203.in-addr.arpa, 3405803853, 203.0.113[.]77,
    "203","0","113","77", cb:00:71:4d.
    """
    plain, full = str(address), address.exploded
    texts = {address.packed.hex(), address.reverse_pointer}
    more: list[bytes] = []
    if isinstance(address, IPv6Address):
        short = ":".join(part.lstrip("0") or "0" for part in full.split(":"))
        texts |= {text.replace(":", sign) for text in (plain, short, full) for sign in "-_."}
        texts |= {str(int(address)), address.reverse_pointer.removesuffix(".ip6.arpa")}
        # Next to letters that are no hexadecimal digits, or with blanks beside the colons.
        more += (
            rb"(?<![0-9a-f])(?<![0-9a-f]:)"
            + rb"\s?:\s?".join(re.escape(part.encode()) for part in text.split(":"))
            + rb"(?![0-9a-f]|:[0-9a-f])"
            for text in sorted({plain, short, full})
        )
    else:
        octets = [*address.packed]
        last = octets[2] * 256 + octets[3]
        texts |= {
            str(int(address)), "".join(f"{n:03}" for n in octets),
            # inet_aton(3) takes these as well.
            f"{octets[0]}.{octets[1]}.{last}", f"{octets[0]}.{octets[1] * 65536 + last}",
        }  # fmt: skip
        numbers = [rb"(?:0{0,2}%d|0x0?%x|0+%o)" % (n, n, n) for n in octets]
        # Next to letters (ip203.0.113.77) it is the same address; next to digits it is another one.
        more.append(rb"(?<![0-9])(?<![0-9]\.)" + rb"[^0-9a-z]{1,4}".join(numbers)
                    + rb"(?![0-9]|\.[0-9])")  # fmt: skip
        # dsl-77-113-0-203.isp.example: in reverse order, as part of a host name.
        turned = [b"%d" % n for n in octets[::-1]]
        more += (
            rb"(?<![0-9])(?<![0-9]\.)" + sign.join(turned) + rb"(?=[.-][a-z])"
            for sign in (rb"\.", b"-", b"_")
        )
        more.append(
            rb"(?<![0-9a-f])" + rb"[:. -]".join(b"%02x" % n for n in octets) + rb"(?![0-9a-f])"
        )
    more += (
        rb"(?<![0-9a-f])" + re.escape(text.encode()) + rb"(?![0-9a-f])" for text in sorted(texts)
    )
    return re.compile(b"|".join(more), re.I)


NOBODY = ClientWords()
