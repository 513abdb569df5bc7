"""Take out of a message, and of any text, what names a trap or a real recipient. Pure.

Who reports spam must not tell the spammer which address is the trap. How it works:

* of a header only fields that an abuse desk needs are kept; every other one has its value masked;
* an address is looked for in the forms in which mailers write it down: as it is, in a bounce
  address (`user=example.org`), percent-encoded, in base64 and in hexadecimal, as a digest in a
  link; and its local part as a word of its own;
* text parts are decoded before they are searched; other parts (pictures, documents) are left out,
  with their type and size in their place;
* at the end the whole is searched once more, and where anything is found it is no report
  (`StillThere`).

Limits: `remaining` says what nobody can take out: an opaque token may stand for a recipient.
"""

import base64
import hashlib
import re
import textwrap
from collections.abc import Iterable, Iterator
from email import message_from_bytes, policy
from email.errors import MessageError
from email.header import decode_header, make_header
from email.message import Message

from gatepost_policy.mail.address import parse

MASK = "masked"
SHORTEST_WORD = 3  # a shorter local part is masked in whole addresses only
# What tells where a message came from and what it is. Received loses its `for`.
KEPT = (
    "received", "from", "sender", "reply-to", "return-path", "date", "subject", "message-id",
    "dkim-signature", "mime-version", "content-type", "x-mailer", "user-agent",
    "x-originating-ip", "x-php-originating-script",
)  # fmt: skip
_FOR = re.compile(r"\bfor\s+<?[^\s;>]+>?", re.I)
_TOKEN = re.compile(r"https?://[^\s\"'<>]*?[A-Za-z0-9_-]{16,}[^\s\"'<>]*", re.I)
_OPAQUE = re.compile(r"[A-Za-z0-9]{12,}|[0-9]{6,}")


class StillThere(Exception):
    """An address is in the result after all masking. The text names the form, not the address."""


class Masks:
    """Finds and masks a set of addresses. `words` are masked as they are, too (a trap domain)."""

    def __init__(self, addresses: Iterable[str], words: Iterable[str] = ()) -> None:
        forms: set[str] = set(filter(None, words))
        locals_: set[str] = set()
        for text in addresses:
            one = parse(text)
            if not one.local:
                continue
            for local in {one.local, one.trap_key.rpartition("@")[0] or one.trap_key}:
                forms.update(_forms(local, one.domain))
                if len(local) >= SHORTEST_WORD:
                    locals_.add(local)
            forms.update(filter(None, (text.strip("<> "),)))
        # The longest first: a short form may be a part of a longer one.
        ordered = sorted(forms, key=lambda form: (-len(form), form))
        sure = [re.escape(form) for form in ordered]
        words_ = [rf"(?<!\w){re.escape(x)}(?!\w)" for x in sorted(locals_, key=len)[::-1]]
        self._sure = re.compile("|".join(sure), re.I) if sure else None
        self._find = re.compile("|".join([*sure, *words_]), re.I) if sure else None

    def text(self, text: str) -> str:
        """`text` with every form masked."""
        return text if self._find is None else self._find.sub(MASK, text)

    def check(self, data: str) -> None:
        """Raises StillThere where `data` has a whole address in any form after all."""
        if self._sure is not None and self._sure.search(data) is not None:
            raise StillThere("a recipient is still named in it")


def _forms(local: str, domain: str) -> Iterator[str]:
    """How mailers write down one address."""
    if not domain:
        return
    whole = f"{local}@{domain}"
    for between in ("@", "=", "%40", "=40", "%3D", "%3d", "#", "_at_", "-at-", " at ", "(at)",
                    "[at]", "&#64;", "&#x40;", "\\u0040"):  # fmt: skip
        yield f"{local}{between}{domain}"
    yield f"{domain}={local}"
    yield f"{domain}/{local}"
    for text in {whole, whole.lower()}:
        octets = text.encode("utf-8", "surrogateescape")
        yield octets.hex()
        yield from _base64(octets)
        for digest in ("md5", "sha1", "sha256"):
            yield hashlib.new(digest, octets, usedforsecurity=False).hexdigest()


def _base64(octets: bytes) -> Iterator[str]:
    """The part of `octets` in base64 that is the same whatever stands around it."""
    for shift in range(3):
        coded = base64.b64encode(b"\0" * shift + octets).decode("ascii").rstrip("=")
        # The first and last characters hold bits of the neighbours.
        start = (shift * 8 + 5) // 6
        end = (shift + len(octets)) * 8 // 6
        core = coded[start:end]
        if len(core) >= 8:
            yield core
            yield core.replace("+", "-").replace("/", "_")


def message(data: bytes, masks: Masks) -> bytes:
    """A saved message, masked: header fields as lines, text parts one after the other.

    Raises StillThere.
    """
    found = message_from_bytes(data, policy=policy.compat32)
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
        text = " ".join(str(raw).split())
        try:
            value = str(make_header(decode_header(text)))  # RFC 2047
        except (MessageError, ValueError, LookupError):
            value = text
        yield name, " ".join(value.split())


def _line(name: str, value: str) -> list[str]:
    """A field as it was, however little it follows its syntax; folded where it is long."""
    value = "".join(c if c.isascii() and c.isprintable() else "?" for c in value)
    text = f"{re.sub(r'[^A-Za-z0-9-]', '', name) or 'X-Field'}: {value}"
    # RFC 5322 2.1.1: at most 998 characters, better 78.
    return textwrap.wrap(text, 900, subsequent_indent="\t", break_on_hyphens=False) or [text]


def _bodies(found: Message, masks: Masks) -> Iterator[str]:
    """The text parts, masked, one after the other; what is left out is told."""
    for part in found.walk():
        if part.is_multipart():
            continue
        kind = part.get_content_type()
        octets = part.get_payload(decode=True)
        octets = octets if isinstance(octets, bytes) else b""
        if part.get_content_maintype() != "text":
            # No digest: a picture may be another one for each recipient.
            yield masks.text(f"[{kind}, {len(octets)} octets: left out]")
            continue
        charset = part.get_content_charset() or "utf-8"
        try:
            text = octets.decode(charset, "replace")
        except LookupError:
            text = octets.decode("latin-1")
        yield f"[{kind}]"
        yield masks.text(text.replace("\r\n", "\n"))


def remaining(data: bytes | None, sender: str | None) -> list[str]:
    """What could still name the trap in a masked report, in words."""
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
