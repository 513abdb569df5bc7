"""Read mail addresses and domains once, at the edge, into one canonical form.

Pure: text in, `Address` out. Two spellings of one mailbox share a `key`: source routes, angle
brackets, trailing dots, needless quotes and U-labels are gone, the domain is lower-case. The local
part keeps its case (RFC 5321 2.4: it must be treated as case sensitive); only a trap is matched
without regard to case and tag, by `trap_key`.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from typing import TypeVar

OPEN = ("postmaster", "abuse")  # must always accept mail: RFC 5321 4.5.1, RFC 2142

T = TypeVar("T")
# RFC 5321 4.1.2: a dot-string needs no quotes. UTF-8 per RFC 6531 3.3.
_DOT_STRING = re.compile(r"[^\s\x00-\x1f\"(),:;<>@\[\\\]]+\Z")
# The usual From: one addr-spec, with or without a display name that has no specials. No blank can
# belong to two parts of the expression, so a long run of blanks is read only once.
_ADDR_SPEC = r"[^\s\"(),:;<>@\[\\\]]+@[A-Za-z0-9.-]+"
_PLAIN_FROM = re.compile(
    rf"(?:\"[^\"\\\r\n]*\"[ \t\r\n]*|[^\"(),:;<>@\[\\\]=]*)<({_ADDR_SPEC})>\Z|({_ADDR_SPEC})\Z"
)
# An address as the display name, without the quotes that RFC 5322 3.2.3 demands: many programs
# write this.
_NAMED_BY_ADDRESS = re.compile(rf"([^\"(),:;<>\[\\\]=]*)<({_ADDR_SPEC})>\Z")
_BLANKS = " \t\r\n"
MAX_FROM_BYTES = 8192


@dataclass(frozen=True, slots=True)
class Address:
    """One mailbox. `raw` is the text as it came, `local` and `domain` are canonical."""

    raw: str
    local: str
    domain: str

    @property
    def key(self) -> str:
        """The canonical text, equal for every spelling of this mailbox; '' for the null sender."""
        return f"{self.local}@{self.domain}" if self.domain else self.local

    @property
    def null(self) -> bool:
        """True for `<>`, the sender of bounces (RFC 5321 4.5.5)."""
        return not self.local and not self.domain

    @property
    def trap_key(self) -> str:
        """How a trap is matched: without regard to case, after cutting a `+tag`."""
        local = self.local.partition("+")[0] or self.local
        return f"{local.lower()}@{self.domain}" if self.domain else local.lower()

    def __str__(self) -> str:
        return self.raw


NULL = Address("", "", "")
# characters; longer texts are not cached, so that nobody can fill the memory with them
LONGEST_KEPT = 512


def _kept(size: int) -> Callable[[Callable[[str], T]], Callable[[str], T]]:
    """Cache `size` results, of short texts only: a sender may use thousands of long ones."""

    def decorate(function: Callable[[str], T]) -> Callable[[str], T]:
        kept = lru_cache(maxsize=size)(function)

        @wraps(function)
        def call(text: str) -> T:
            return kept(text) if len(text) <= LONGEST_KEPT else function(text)

        return call

    return decorate


@_kept(4096)
def canonical_domain(text: str) -> str:
    """`text` as a lower-case A-label domain without its trailing dot.

    A domain that IDNA refuses (RFC 5891) keeps its lower-case text: it is still what the sender
    claimed.
    """
    text = text.strip().rstrip(".").lower()
    if text.isascii():
        return text
    import idna  # its tables take time to load, and few names need it

    try:
        return idna.encode(text, uts46=True).decode("ascii")
    except (idna.IDNAError, UnicodeError):
        return text


# RFC 1034 3.1 and 3.5; underscores are in use. A label of digits alone at the end is an address.
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_CAN_BE_DOMAIN = re.compile(rf"(?=.{{1,253}}\Z)(?:{_LABEL}\.)*(?!\d+\Z){_LABEL}\Z")


def can_be_domain(domain: str) -> bool:
    """True where `domain` (canonical) can exist in DNS: a name with a typing error often cannot."""
    return _CAN_BE_DOMAIN.match(domain) is not None


def reversed_domain(domain: str) -> str:
    """`mail.example.org` as `org.example.mail.`: subdomains become a prefix range.

    The closing dot keeps `example.org` from matching `example.orgy`.
    """
    if not domain:
        return ""
    labels = domain.split(".")
    labels.reverse()
    return ".".join(labels) + "."


def is_within(domain: str, parent: str) -> bool:
    """True where `domain` is `parent` or one of its subdomains; both canonical, not empty."""
    return bool(parent) and (domain == parent or domain.endswith("." + parent))


def within_any(parents: Sequence[str]) -> Callable[[str], bool]:
    """`is_within` one of `parents`, made once for many domains: one comparison in C each."""
    ends = _ends(tuple(parents))
    return lambda domain: f".{domain}".endswith(ends)


@lru_cache(maxsize=16)
def _ends(parents: tuple[str, ...]) -> tuple[str, ...]:
    """Kept, because the same few lists are asked for again and again; never_list has hundreds."""
    return tuple(f".{parent}" for parent in parents if parent)


def _unquote(local: str) -> str:
    """A quoted local part without the quotes where it reads the same without them."""
    if len(local) >= 2 and local[0] == '"' and local[-1] == '"':
        plain = re.sub(r"\\(.)", r"\1", local[1:-1], flags=re.S)
        if _DOT_STRING.match(plain) and ".." not in plain and plain.strip(".") == plain:
            return plain
        return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return local


def _split(text: str) -> tuple[str, str]:
    """(local, domain) at the last `@` outside quotes: `"a@b"@c` is at c."""
    if text.startswith('"'):
        match = re.match(r'"(?:[^"\\]|\\.)*"', text, re.S)
        if match:
            rest = text[match.end() :]
            return match.group(), rest[1:] if rest.startswith("@") else ""
    local, at, domain = text.rpartition("@")
    return (local, domain) if at else (text, "")


@_kept(8192)
def parse(text: str) -> Address:
    """Read an envelope path as the MTA hands it over: `<a@b>`, `a@b`, `<@x:a@b>`, `<>`.

    Never raises: an address that the MTA accepted is recorded, whatever it looks like.
    """
    raw = text.strip()
    if raw.startswith("<") and raw.endswith(">"):
        raw = raw[1:-1]
    # RFC 5321 C: a source route is accepted and ignored.
    path = raw
    if path.startswith("@") and ":" in path:
        path = path.partition(":")[2]
    local, domain = _split(path)
    return Address(raw, _unquote(local), canonical_domain(domain))


def header_from(values: Sequence[bytes]) -> Address | None:
    """The author of a message from its From fields' values, or None for "unparsed".

    One field with one address is an answer; two fields, two addresses, an empty group or broken
    syntax are not: RFC 5322 3.6.2 wants exactly one From, and with a guess here a sender could put
    his mail into another's history.
    """
    if len(values) != 1 or len(values[0]) > MAX_FROM_BYTES:
        return None
    text = values[0].decode("utf-8", "surrogateescape").strip(_BLANKS)
    plain = _PLAIN_FROM.match(text)
    if plain:
        return parse(plain.group(1) or plain.group(2))
    named = _NAMED_BY_ADDRESS.match(text)
    if named:
        author = parse(named.group(2))
        # Some readers take the first address, some the last: only where all have one domain it is
        # clear.
        claimed = [word.rpartition("@")[2] for word in named.group(1).split() if "@" in word]
        same = all(canonical_domain(domain) == author.domain for domain in claimed)
        return author if same else None
    return _read_by_library(text.replace("\r", "").replace("\n", "").strip())


def _read_by_library(value: str) -> Address | None:
    """The one address of a From field that is written in an unusual way, or None."""
    # Imported here: few messages need it, and it is a tenth of what `report` takes to start.
    from email import policy
    from email.errors import MessageError
    from email.headerregistry import AddressHeader

    try:
        header = policy.SMTP.header_factory("From", value)
    except (MessageError, ValueError, IndexError, AttributeError, TypeError, RecursionError):
        # The parser of the standard library fails in these ways on hostile input.
        return None
    if not isinstance(header, AddressHeader) or getattr(header, "defects", None):
        return None
    if len(header.addresses) != 1 or len(header.groups) != 1 or header.groups[0].display_name:
        return None
    found = header.addresses[0]
    if not found.username or not found.domain or "=?" in found.addr_spec:
        return None
    return parse(found.addr_spec)
