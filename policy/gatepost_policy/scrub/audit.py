"""Find what a saved message tells about its sender, and which setting would have removed it.

Pure: `find(message)` reads the bytes of one message and answers with findings in header order.

How it works: the message entered its sender's server at one hop, the newest Received that says
the client had logged in (else the oldest one). That hop and everything below it came from the
sender's side. Above it stand servers talking to servers, and what the delivery adds; neither
tells about the sender's place or program.

A LEAK is something that gatepost removes with the setting named. A HINT stays by default or by
design, and the finding says so; a message with hints only counts as clean.

Limits: it reads what it knows. `known` names the texts that must appear nowhere (a probe's own
EHLO name, address, login); without it an unknown field with a secret in it goes unseen.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_tz
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from gatepost_policy.config.settings import DEFAULT_REMOVE
from gatepost_policy.mail import received
from gatepost_policy.scrub import audit_parts
from gatepost_policy.text.escape import shown

MAX_HEADER_BYTES = 4_194_304
EXCERPT = 120
ANONYMOUS = "anonymous.invalid"

# What the removable fields tell. The first match counts; globs in lower case.
TELLS = (
    ("x-originating-*", "client address"), ("x-client-ip", "client address"),
    ("x-forwarded-for", "client address"), ("x-remote-*", "client address or host name"),
    ("received-spf", "client address"), ("x-received", "client address"),
    ("x-php-*", "script and client address"), ("x-source*", "account and script"),
    ("x-antiabuse", "account and host"), ("x-get-message-sender-via", "login"),
    ("x-auth*", "login"), ("x-sender", "login"), ("sender", "login"),
    ("x-identity-key", "mail program's account"), ("x-account-key", "mail program's account"),
    ("accept-language", "language"), ("fcc", "folder names"), ("bcc", "hidden recipients"),
    ("resent-bcc", "hidden recipients"), ("x-uid", "mailbox"), ("x-keywords", "mailbox"),
    ("status", "mailbox"), ("x-status", "mailbox"), ("delivered-to", "earlier mailbox"),
    ("x-original-to", "earlier mailbox"), ("x-ms-exchange-*", "organisation and its servers"),
    ("x-originatororg", "organisation"), ("*", "mail program"),
)  # fmt: skip
# Written by whoever takes the message over, so they count only below the sender's own hop, or
# beside it.
TRACE = ("received-spf", "authentication-results", "x-received", "delivered-to", "x-original-to",
         "status", "x-status", "x-uid", "x-keywords", "x-ms-exchange-*")  # fmt: skip
DELIVERY = ("return-path", "delivered-to", "x-original-to", "envelope-to", "delivery-date",
            "status", "x-status", "x-uid", "x-keywords", "x-mozilla-status*", "lines",
            "x-mozilla-keys", "content-length")  # fmt: skip
BOUNDARIES = (("Apple-Mail", "Apple Mail"), ("_NextPart_", "Outlook"), ("----=_Part_", "Java Mail"),
              ("--------------", "Thunderbird"), ("=-=-=", "Gnus or Emacs"),
              ("nextPart", "KMail"))  # fmt: skip
_LITERAL = re.compile(r"\[?(?:IPv6:[0-9a-f:]+|\d{1,3}(?:\.\d{1,3}){3})\]?>?\Z", re.I)
_PRIVATE_HOST = re.compile(
    r"(?:^[^.]+|\.(?:local|lan|home|internal|intranet|localdomain|arpa|box))\Z", re.I
)
_AUTHENTICATED = re.compile(r"\b(?:smtp\.(?:auth|remote-ip|client-ip)|policy\.iprev)=([^\s;]+)")
IN_A_PART = "in a part or an attached message, which is never changed"


class Weight(StrEnum):
    """How much a finding counts."""

    LEAK = "leak"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """One field that tells something. `index` counts fields of this name from 1, top to bottom.

    `setting` is the configuration that removes it, None where nothing does.
    """

    name: str
    index: int
    value: str
    tells: str
    setting: str | None
    weight: Weight = Weight.LEAK


@dataclass(frozen=True, slots=True)
class Field:
    """One header field. `index` counts its name from 1."""

    name: str
    index: int
    value: bytes


def fields(message: bytes) -> tuple[Field, ...]:
    """The header fields of a message in any line ending, an mbox From_ line left out."""
    out: list[Field] = []
    counts: dict[str, int] = {}
    for name, value in _raw_fields(message[:MAX_HEADER_BYTES]):
        key = name.lower()
        counts[key] = counts.get(key, 0) + 1
        out.append(Field(name, counts[key], value))
    return tuple(out)


def _raw_fields(message: bytes) -> Iterator[tuple[str, bytes]]:
    name, value = "", b""
    for number, line in enumerate(message.split(b"\n")):
        line = line.rstrip(b"\r")
        if number == 0 and line.startswith((b"From ", b">From ")):
            continue
        if not line:
            break
        if line[:1] in b" \t" and name:
            value += b"\n" + line
            continue
        if name:
            yield name, value
        head, colon, rest = line.partition(b":")
        if not colon:
            return  # RFC 5322 2.2: this is no header field, so the header ends here
        name, value = head.decode("latin-1").rstrip(), rest
    if name:
        yield name, value


def find(
    message: bytes,
    known: Mapping[str, str] | None = None,
    remove: tuple[str, ...] = DEFAULT_REMOVE,
) -> tuple[Finding, ...]:
    """Every finding on `message`. `known`: what it is -> a text that must stand in no field."""
    header = fields(message)
    hops = [(n, received.read(f.value)) for n, f in enumerate(header) if _is(f, "received")]
    origin, newer = _origin(hops)
    by_position = dict(hops)
    receiver = by_position[newer].by if newer >= 0 else None
    found: list[Finding] = []
    for position, field in enumerate(header):
        # Fields that the next server put below its own Received name that server.
        ours = position > newer and not (
            receiver and position < origin and receiver.encode() in field.value
        )
        if _is(field, "received"):
            here = [*_received(field, by_position[position], position, origin)]
        else:
            here = [*_field(field, ours, position < origin, remove)]
        if known and not any(f.weight is Weight.LEAK for f in here):
            here += _known(field, known)
        found += here
    for name, value in audit_parts.telling(message[:MAX_HEADER_BYTES]):
        found.append(Finding(name, 1, _excerpt(value), IN_A_PART, None, Weight.HINT))
    return tuple(found)


def _is(field: Field, *names: str) -> bool:
    return field.name.lower() in names


@lru_cache(maxsize=4096)  # names are a stranger's: the memory is bounded
def _matches(name: str, globs: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name.lower(), glob.lower()) for glob in globs)


def _origin(hops: Sequence[tuple[int, received.Hop]]) -> tuple[int, int]:
    """Position of the hop where the sender handed the message over, and of the next newer hop.

    -1 where there is none; fields after the second position stand on the sender's side.
    """
    if not hops:
        return -1, -1
    chosen = next((n for n, (_, hop) in enumerate(hops) if hop.submitted), None)
    if chosen is None:
        chosen = len(hops) - 1
        # Below a hop without a from clause stand only fields that were made anonymous.
        while chosen > 0 and hops[chosen][1].by == ANONYMOUS:
            chosen -= 1
    return hops[chosen][0], hops[chosen - 1][0] if chosen else -1


def _received(field: Field, hop: received.Hop, position: int, origin: int) -> Iterator[Finding]:
    if position < origin or not hop.tells:
        return
    setting = "submission.own_received"
    if position > origin:
        setting = 'submission.client_received = "anonymise"'
    tells = "; ".join(f"{what} {text}" for what, text in hop.tells)
    yield Finding(field.name, field.index, _excerpt(field.value), tells, setting)


def _field(field: Field, ours: bool, above: bool, remove: tuple[str, ...]) -> Iterator[Finding]:
    name, text = field.name.lower(), _text(field.value)

    def finding(tells: str, setting: str | None, weight: Weight = Weight.LEAK) -> Finding:
        return Finding(field.name, field.index, _excerpt(field.value), tells, setting, weight)

    if _matches(name, TRACE) and not ours:
        return
    if above and _matches(name, DELIVERY):
        return
    if name == "authentication-results":
        if match := _AUTHENTICATED.search(text):
            yield finding(f"login or client address {match.group(1)}",
                          'submission.remove = [..., "Authentication-Results"]')  # fmt: skip
    elif name == "sender":
        yield finding("who really sent it, often the login", "submission", Weight.HINT)
    elif name == "mime-version" and "(" in text:
        yield finding("mail program", "submission (comments are cut)")
    elif name == "date":
        zone = parsedate_tz(text)
        if zone and zone[9]:
            yield finding("time zone", 'submission.date = "utc"', Weight.HINT)
    elif name in ("message-id", "resent-message-id"):
        host = text.rpartition("@")[2].rstrip("> ")
        if host and (_LITERAL.match(host) or _PRIVATE_HOST.search(host)):
            yield finding(f"client host {host}", 'submission.message_id = "mask-host"')
    elif name == "content-type":
        for mark, program in BOUNDARIES:
            if f'boundary="{mark}' in text or f"boundary={mark}" in text:
                yield finding(f"mail program, by the shape of its boundary ({program})", None,
                              Weight.HINT)  # fmt: skip
                break
    elif _matches(name, remove) or _matches(name, DEFAULT_REMOVE):
        tells = next(tells for glob, tells in TELLS if fnmatchcase(name, glob))
        listed = (
            "submission.remove"
            if _matches(name, remove)
            else (f'submission.remove = [..., "{field.name}"]')
        )
        yield finding(tells, listed)


def _known(field: Field, known: Mapping[str, str]) -> Iterator[Finding]:
    """Texts that must stand nowhere, in a field that nothing else was said about."""
    text = _text(field.value).lower()
    for what, secret in known.items():
        if secret and _stands(secret.lower(), text):
            setting = (
                "submission.own_received"
                if _is(field, "received")
                else (f'submission.remove = [..., "{field.name}"]')
            )
            yield Finding(field.name, field.index, _excerpt(field.value), f"{what} {secret}",
                          setting)  # fmt: skip


def _stands(word: str, text: str) -> bool:
    """A number (a port) only where it stands alone; an address not as the start of a longer one."""
    return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", text) is not None


def _text(value: bytes) -> str:
    return re.sub(r"[\r\n]+[ \t]*", " ", value.decode("utf-8", "replace")).strip()


def _excerpt(value: bytes) -> str:
    text = _text(value)
    text = shown(text)  # what a stranger wrote may not steer a terminal
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "\u2026"
