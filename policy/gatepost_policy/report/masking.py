"""Remove from a message, or any text, whatever names a trap or a real recipient. Pure.

An abuse report must not tell the spammer which address is the trap. How it works:

* of a header only fields that an abuse desk needs are kept; every other one has its value masked;
* an address is looked for as it is, in a bounce address (`user=example.org`), and in what does not
  show it (`disguises`: percent-encoded, base64, digests in links ...); a long local part wherever
  it stands, a short one as a word of its own;
* text parts are decoded before they are searched; other parts (pictures, documents) are left out,
  with their type and size in their place;
* at the end the result is searched once more; where an address is still found, there is no report
  (`StillThere`).

Limits: an opaque token may stand for a recipient and cannot be recognised; `remaining` warns of it.
"""

import base64
import re
import textwrap
from collections.abc import Iterable, Iterator
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from gatepost_policy.mail.address import parse
from gatepost_policy.mail.parsed import parsed
from gatepost_policy.report.disguises import Disguises, squeezed
from gatepost_policy.system.dataclass import dataclass

MASK = "masked"
SHORTEST_WORD = 3  # a shorter local part is masked in whole addresses only
LONG_WORD = 8  # letters and digits of a local part that is masked inside of words, too
# Header fields whose values are kept: they tell origin and content. `for` in Received is masked.
KEPT = (
    "received", "from", "sender", "reply-to", "return-path", "date", "subject", "message-id",
    "dkim-signature", "mime-version", "content-type", "x-mailer", "user-agent",
    "x-originating-ip", "x-php-originating-script",
)  # fmt: skip
_ONE = r"(?:<[^>;]*>|\"(?:[^\"\\]|\\.)*\"@[^\s;,]+|[^\s;,>]+>?)"
_FOR = re.compile(rf"\bfor\s+{_ONE}(?:\s*,\s*{_ONE})*", re.I)
# Several lines of base64 in a text; octets written in hexadecimal; one word of a text.
_LINES = re.compile(
    r"(?<![A-Za-z0-9+/_-])[A-Za-z0-9+/_-]{40,1000}"
    r"(?:[ \t]{0,8}\r?\n[ \t]{0,8}[A-Za-z0-9+/_-]{2,1000}={0,2}){1,100}"
)
_OCTETS = re.compile(r"(?:[0-9A-Fa-f]{2}[ :,]){7,}[0-9A-Fa-f]{2}")
# Characters of all text parts together; an abuse desk does not need more.
TEXT_MAX = 200_000
_PLACE = re.compile(r"[^\s\"'()]{6,4000}")
_TOKEN = re.compile(r"https?://[^\s\"'<>]*?[A-Za-z0-9_-]{16,}[^\s\"'<>]*", re.I)
_OPAQUE = re.compile(r"[A-Za-z0-9]{12,}|[0-9]{6,}")


class StillThere(Exception):
    """The masked result still contains an address. The exception's text does not name it."""


@dataclass(frozen=True, slots=True)
class _Name:
    """What is looked for: where all `parts` stand in a text, `patterns` say how they do."""

    parts: tuple[str, ...]
    patterns: tuple[str, ...]
    sure: bool  # a whole address, or a word that is masked wherever it stands


class Masks:
    """Finds and masks a set of addresses. `words` are masked literally, too (a trap domain)."""

    def __init__(self, addresses: Iterable[str], words: Iterable[str] = ()) -> None:
        names = [_Name(_parts(word), (re.escape(word),), True) for word in words if _parts(word)]
        hidden: set[str] = set()
        for text in addresses:
            one = parse(text)
            if not one.local:
                continue
            bare = text.strip("<> ")
            names.append(_Name(_parts(bare), (re.escape(bare),), True))
            for local in {one.local, one.trap_key.rpartition("@")[0] or one.trap_key}:
                local = local.strip('"').replace("\\", "")
                if one.domain:
                    whole = f"{local}@{one.domain}"
                    hidden.add(whole)
                    patterns = tuple(_together(local, one.domain))
                    names.append(_Name(_parts(whole), patterns, True))
                if len(local) >= SHORTEST_WORD:
                    names.append(_Name(_parts(local), (_word(local),), False))
                # In coded text a short local part may be chance.
                if _is_long(local):
                    hidden.add(local)
        # The longest first: a short form may be a part of a longer one.
        self._names = sorted(set(names), key=lambda n: (not n.sure, -len(n.patterns[0]), n.parts))
        self._disguises = Disguises(hidden)

    def _pattern(self, text: str, only_sure: bool = False) -> re.Pattern[str] | None:
        """A pattern of the names that may be in `text`; None where none may be. A pattern of all
        names would take seconds for each megabyte."""
        bare = squeezed(text)
        there = tuple(
            pattern
            for name in self._names
            if (name.sure or not only_sure) and all(part in bare for part in name.parts)
            for pattern in name.patterns
        )
        return re.compile("|".join(there), re.I) if there else None

    def text(self, text: str) -> str:
        """`text` with every form masked."""
        found = self._pattern(text)
        if found is not None:
            text = found.sub(MASK, text)
        for place in (_LINES, _OCTETS, _PLACE):
            text = place.sub(self._unless_plain, text)
        return text

    def _unless_plain(self, match: re.Match[str]) -> str:
        word = match.group()
        return MASK if self._disguises.within(re.sub(r"\s", "", word)) else word

    def check(self, data: str) -> None:
        """Raises StillThere where `data` contains a whole address in any form."""
        found = self._pattern(data, only_sure=True)
        if found is not None and found.search(data) is not None:
            raise StillThere("a recipient is still named in it")


def _parts(text: str) -> tuple[str, ...]:
    """The letters and digits of `text`, in pieces."""
    return tuple(filter(None, re.split(r"[\W_]+", text.lower())))


def _is_long(local: str) -> bool:
    """True where a local part is so long that it does not stand in other words by chance."""
    return len(re.sub(r"[\W_]", "", local)) >= LONG_WORD


def _word(local: str) -> str:
    """A local part alone; its words may be joined otherwise (First Last, first_last)."""
    parts = [re.escape(part) for part in re.split(r"[\W_]+", local) if part]
    joined = r"(?:[\W_]{0,3}(?:dot[\W_]{1,3})?)".join(parts) or re.escape(local)
    return joined if _is_long(local) else rf"(?<![^\W_]){joined}(?![^\W_])"


def _together(local: str, domain: str) -> Iterator[str]:
    """A local part and its domain, in either order, however they are joined."""
    name = re.escape(local)
    dotted = r"[\W_]{1,3}(?:dot[\W_]{1,3})?".join(re.escape(part) for part in domain.split("."))
    at = r"(?:%(?:25)*40|=40|%3d|&#0*64;|&#x0*40;|&commat;|\\u0040|[\W_]{1,3}(?:at[\W_]{1,3})?)"
    yield name + at + dotted
    yield rf"{dotted}[=/!_:]{name}"


def message(data: bytes, masks: Masks) -> bytes:
    """The saved message `data` (RFC 5322), masked: kept header fields and one base64 text part.

    Lines end with CRLF. Raises StillThere where an address is still in it.
    """
    found = parsed(data)
    lines = []
    for name, value in _fields(found):
        low = name.lower()
        if low not in ("content-type", "mime-version", "content-transfer-encoding"):
            text = masks.text(_FOR.sub(f"for {MASK}", value) if low == "received" else value)
            lines += _line(name, text if low in KEPT else MASK)
    lines += [
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: base64",
        "",
    ]
    body = "\n".join(_bodies(found, masks))
    masks.check("\n".join(lines) + body)
    coded = base64.encodebytes(body.encode("utf-8", "backslashreplace")).decode("ascii")
    return "\r\n".join([*lines, *coded.split("\n")]).encode("ascii")


def _fields(found: Message) -> Iterator[tuple[str, str]]:
    """Name and decoded, unfolded value of each field."""
    for name, raw in found.raw_items():
        # Octets that are no ASCII come as surrogates: most are UTF-8 (RFC 6532).
        octets = str(raw).encode("utf-8", "surrogateescape")
        text = " ".join(octets.decode("utf-8", "replace").split())
        try:
            value = str(make_header(decode_header(text)))  # RFC 2047
        except (MessageError, ValueError, LookupError):
            value = text
        yield name, " ".join(value.split())


def _line(name: str, value: str) -> list[str]:
    """A header field as lines, even if its syntax is broken; long ones are folded."""
    value = "".join(c if c.isascii() and c.isprintable() else "?" for c in value)
    text = f"{re.sub(r'[^A-Za-z0-9-]', '', name) or 'X-Field'}: {value}"
    # RFC 5322 2.1.1: at most 998 characters, better 78.
    return textwrap.wrap(text, 900, subsequent_indent="\t", break_on_hyphens=False) or [text]


def _bodies(found: Message, masks: Masks) -> Iterator[str]:
    """The text parts, masked; for any other part a line with its type and size."""
    left = TEXT_MAX
    for part in found.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        octets = part.get_payload(decode=True)
        octets = octets if isinstance(octets, bytes) else b""
        if part.get_content_maintype() != "text":
            # No digest of the part: a sender may make another picture for each recipient.
            yield masks.text(f"[{kind}, {len(octets)} octets: left out]")
            continue
        charset = part.get_content_charset() or "utf-8"
        try:
            text = octets.decode(charset, "replace")
        except LookupError:
            text = octets.decode("latin-1")
        yield f"[{kind}]"
        # Cut between words: half an address would not be found, and so not be masked.
        first = text if len(text) <= left else re.sub(r"\S*\Z", "", text[:left])
        yield masks.text(first.replace("\r\n", "\n"))
        if len(text) > left:
            yield f"[{len(text) - left} more characters: left out]"
        left -= min(left, len(text))


def remaining(data: bytes | None, sender: str | None) -> list[str]:
    """What could still identify the trap in a masked report, in sentences for the reporter.

    `data`: the masked message, None where there is none; `sender`: the envelope sender.
    """
    found = [
        "the time of the message: whoever sent it can look up to whom he wrote then",
    ]
    if sender and _OPAQUE.search(sender):
        found.append("the envelope sender has a number or token that may stand for the recipient")
    if data is None:
        return found
    text = data.decode("utf-8", "replace")
    links = len(set(_TOKEN.findall(text)))
    if links:
        many = "a link" if links == 1 else f"{links} links"
        found.append(f"{many} with a token that may stand for the recipient")
    if re.search(r"^message-id:", text, re.I | re.M):
        found.append("the Message-ID, which may be another one for each recipient")
    if re.search(r"^dkim-signature:", text, re.I | re.M):
        found.append("the DKIM signature, whose b= is another one for each message")
    if re.search(r"^received:.*\bby\b", text, re.I | re.M):
        found.append("the Received fields name the receiving server")
    return found
