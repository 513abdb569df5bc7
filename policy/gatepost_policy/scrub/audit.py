"""Find what a saved message reveals about its sender, and which setting would have removed it.

Pure: `find(message)` reads the bytes of one message and answers with findings in header order.

How it works: the message entered its sender's server at one hop, the newest Received that says the
client had logged in (else the oldest one). That hop and everything below it came from the sender's
side. The fields above it are of later servers and of the delivery, and reveal nothing about the
sender's place or program.

A LEAK is something that gatepost removes with these settings. A HINT stays by default or by design,
and the finding says so; a message with hints only counts as clean. The code of the scrub itself
says what would be masked (`mask_host`) and removed (`field_names`).

Limits: it finds only what it looks for. `known` names the texts that must appear nowhere (a probe's
own EHLO name, address, login). Without it a field on no list is a hint where it holds an address,
what the client's Received says of it, or the author's local part.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from email.utils import parsedate_tz
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache

from gatepost_policy.config.settings import Submission
from gatepost_policy.mail import received
from gatepost_policy.mail.address import header_from
from gatepost_policy.mail.dates import DATES
from gatepost_policy.scrub import audit_parts, mask_host
from gatepost_policy.scrub.client_words import ADDRESS, ClientWords
from gatepost_policy.scrub.field_names import Fate, FieldNames
from gatepost_policy.text.escape import shown

MAX_HEADER_BYTES = 4_194_304
EXCERPT = 120
ANONYMOUS = "anonymous.invalid"

# What the fields that can be removed reveal. The first match counts; globs in lower case.
TELLS = (
    ("x-originating*", "client address"), ("originating-*", "client address"),
    ("x-client*", "client address"),
    ("x-*-ip*", "client address"), ("x-orig*ip", "client address"),
    ("sender-ip", "client address"), ("cf-*", "client address"),
    ("true-client-ip", "client address"), ("forwarded", "client address"),
    ("x-forwarded", "client address"), ("via", "client address"), ("x-via", "client address"),
    ("x-proxy*", "client address"), ("x-peer*", "client address"),
    ("x-post*", "client address"), ("x-trace", "client address"),
    ("x-remote*", "client address or host name"), ("x-machine*", "host name"),
    ("x-computer*", "host name"), ("x-workstation*", "host name"), ("x-sending-*", "host name"),
    ("x-account*", "login"), ("x-unix-*", "login"), ("x-ident*", "login"),
    ("x-submit*", "login"), ("x-session*", "session"), ("x-request-*", "session"),
    ("*refer*er", "page it was written on"), ("x-script*", "script"),
    ("x-country*", "place"), ("x-city", "place"), ("x-geo*", "place"), ("geoip*", "place"),
    ("x-gps*", "place"), ("x-latitude", "place"), ("x-longitude", "place"),
    ("x-time-zone", "time zone"), ("x-tz", "time zone"), ("x-lang", "language"),
    ("x-locale", "language"), ("x-kernel", "operating system"),
    ("x-osversion", "operating system"),
    ("client-ip", "client address"), ("x-forwarded-*", "client address"),
    ("x-forward", "client address"), ("x-real-ip", "client address"),
    ("x-ip*", "client address"), ("x-user-ip", "client address"),
    ("x-sender*ip", "client address"), ("x-mdremoteip", "client address"),
    ("x-remote-*", "client address or host name"), ("remote-addr", "client address"),
    ("x-host*", "host name"), ("x-helo", "host name"), ("x-ehlo", "host name"),
    ("x-mdhelo", "host name"), ("nntp-posting-*", "client address"),
    ("injection-info", "client address"),
    ("received-spf", "client address"), ("x-received", "client address"),
    ("x-php-*", "script and client address"), ("x-source*", "account and script"),
    ("x-cron-env", "account and machine"), ("x-abuse*", "account and host"),
    ("x-antiabuse", "account and host"), ("x-get-message-sender-via", "login"),
    ("x-auth*", "login"), ("x-sasl-*", "login"), ("x-login*", "login"), ("x-webmail-*", "login"),
    ("x-sender", "login"), ("x-x-sender", "login"), ("sender", "login"),
    ("x-identity-key", "mail program's account"), ("x-account-key", "mail program's account"),
    ("*language", "language"), ("x-timezone", "time zone"), ("x-geo-*", "place"),
    ("x-location", "place"), ("fcc", "folder names"), ("x-fcc*", "folder names"),
    ("gcc", "folder names"), ("bcc", "hidden recipients"), ("x-bcc", "hidden recipients"),
    ("resent-bcc", "hidden recipients"), ("x-uid*", "mailbox"), ("x-imap*", "mailbox"),
    ("x-keywords", "mailbox"), ("x-label", "mailbox"), ("x-folder", "mailbox"),
    ("status", "mailbox"), ("x-status", "mailbox"), ("*delivered-to", "earlier mailbox"),
    ("x-original-to", "earlier mailbox"), ("envelope-to", "earlier mailbox"),
    ("x-envelope-*", "earlier mailbox"), ("delivery-date", "earlier mailbox"),
    ("x-operating-system", "operating system"), ("x-os", "operating system"),
    ("x-platform", "operating system"), ("x-device*", "machine"),
    ("x-antivirus*", "virus scanner"), ("x-virus-*", "virus scanner and its host"),
    ("x-spam-*", "spam filter and its host"), ("x-ms-exchange-*", "organisation and its servers"),
    ("msip_labels", "organisation"), ("x-originatororg", "organisation"), ("*", "mail program"),
)  # fmt: skip
# Fields that each receiving server writes, so they count only on the sender's side (`find`).
TRACE = ("received-spf", "authentication-results", "x-received", "delivered-to", "x-original-to",
         "status", "x-status", "x-uid*", "x-imap*", "x-keywords", "x-ms-*", "x-microsoft-*",
         "x-forefront-*", "x-eop*", "x-spam-*", "x-virus-*", "x-envelope-*", "envelope-to",
         "delivery-date", "x-delivered-to", "x-rcpt-to", "x-gm-*", "x-google-*", "x-gmail-*",
         "x-proofpoint-*", "x-barracuda-*", "x-ironport-*", "x-abuse*", "x-sender-*")  # fmt: skip
DELIVERY = ("return-path", "delivered-to", "x-original-to", "envelope-to", "delivery-date",
            "status", "x-status", "x-uid", "x-keywords", "x-mozilla-status*", "lines",
            "x-mozilla-keys", "content-length")  # fmt: skip
BOUNDARIES = (("Apple-Mail", "Apple Mail"), ("_NextPart_", "Outlook"), ("----=_Part_", "Java Mail"),
              ("--------------", "Thunderbird"), ("=-=-=", "Gnus or Emacs"),
              ("nextPart", "KMail"))  # fmt: skip
_MAILBOX = re.compile(r"[^\s<>\"(),:;@]+@[^\s<>\"(),:;@]+")
_AUTHENTICATED = re.compile(r"\b(?:smtp\.(?:auth|remote-ip|client-ip)|policy\.iprev)=([^\s;]+)")
MASK_HOST = 'submission.message_id = "mask-host"'
DEFAULTS = Submission()
_DEFAULT_NAMES = FieldNames(DEFAULTS)
IN_A_PART = "in a part or an attached message, which is never changed"


class Weight(StrEnum):
    """How much a finding counts."""

    LEAK = "leak"
    HINT = "hint"


@dataclass(frozen=True, slots=True)
class Finding:
    """One field that reveals something. `index` counts fields of this name from 1, top to bottom.

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
    submission: Submission = DEFAULTS,
) -> tuple[Finding, ...]:
    """Every finding in `message`, in header order.

    `known`: what it is -> a text that must stand in no field, but within the addresses of From and
    To. `submission`: the settings with which it was scrubbed. Never raises.
    """
    header = fields(message)
    hops = [(n, received.read(f.value)) for n, f in enumerate(header) if _is(f, "received")]
    origin, newer = _origin(hops)
    by_position = dict(hops)
    receiver = by_position[newer].by if newer >= 0 else None
    found: list[Finding] = []
    names = FieldNames(submission)
    client = _client(by_position.get(origin), header)
    told = _told(header) if known else None
    for position, field in enumerate(header):
        # A field between the two Received fields that contains the next server's name was added by
        # that server, so it is not from the sender's side.
        ours = position > newer and not (
            receiver and position < origin and receiver.encode() in field.value
        )
        if _is(field, "received"):
            here = [*_received(field, by_position[position], position, origin)]
        else:
            here = [*_field(field, ours, position < origin, submission, names, client)]
        if known and not any(f.weight is Weight.LEAK for f in here):
            here = [*_known(field, known, submission, told)] or here
        found += here
    for name, value in audit_parts.telling(message[:MAX_HEADER_BYTES]):
        found.append(Finding(name, 1, _excerpt(value), IN_A_PART, None, Weight.HINT))
    return tuple(found)


def _is(field: Field, *names: str) -> bool:
    return field.name.lower() in names


def _client(hop: received.Hop | None, header: Sequence[Field]) -> ClientWords:
    """The words that name the client, from the hop where it handed the mail in and from From."""
    tells = () if hop is None else hop.tells
    author = header_from([f.value for f in header if _is(f, "from")])
    local = "" if author is None or len(author.local) < 3 else author.local
    domain = () if author is None else (author.domain,)
    names = [text.strip("[]()") for what, text in tells if what != "TLS of the session"]
    return ClientWords.of(None, [*names, local], None, domain)


@lru_cache(maxsize=4096)  # bounded, because any name may come
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
        # Skip the fields that a scrub made anonymous: the hop above them is the submission.
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


def _field(
    field: Field,
    ours: bool,
    above: bool,
    submission: Submission,
    names: FieldNames,
    client: ClientWords,
) -> Iterator[Finding]:
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
    elif name in DATES:
        zone = parsedate_tz(text)
        if zone and zone[9]:
            weight = Weight.HINT if submission.date == "keep" else Weight.LEAK
            yield finding("time zone", 'submission.date = "utc"', weight)
    elif name in mask_host.OWN_IDS:
        if host := mask_host.telling(field.value, name, client):
            weight = Weight.HINT if submission.message_id == "keep" else Weight.LEAK
            yield finding(f"client host {host}", MASK_HOST, weight)
    elif name == "content-type":
        for mark, program in BOUNDARIES:
            if f'boundary="{mark}' in text or f"boundary={mark}" in text:
                yield finding(f"mail program, by the shape of its boundary ({program})", None,
                              Weight.HINT)  # fmt: skip
                break
    elif names.fate(name) is Fate.STAYS:
        return
    elif names.removes(name) or _DEFAULT_NAMES.removes(name):
        tells = next(tells for glob, tells in TELLS if fnmatchcase(name, glob))
        listed = "submission.remove"
        if not names.removes(name):
            listed = f'submission.remove = [..., "{field.name}"]'
        yield finding(tells, listed)
    elif ours and (client.told_by(field.value) or ADDRESS.search(field.value)):
        yield finding("an address, or the sender's own name, in a field on no list",
                      'submission.unknown_fields = "drop"', Weight.HINT)  # fmt: skip


def _told(header: Sequence[Field]) -> re.Pattern[str] | None:
    """The addresses in From and To: what the sender tells, whatever their local part is beside."""
    addresses = {
        address.lower()
        for field in header
        if _is(field, "from", "to")
        for address in _MAILBOX.findall(_text(field.value))
    }
    if not addresses:
        return None
    return re.compile(rf"(?<![\w.+-])(?:{'|'.join(map(re.escape, addresses))})(?!\.?[\w-])")


def _known(
    field: Field,
    known: Mapping[str, str],
    submission: Submission,
    told: re.Pattern[str] | None = None,
) -> Iterator[Finding]:
    """Findings of texts in `known`, for a field without another leak; but not within `told`."""
    text = _text(field.value).lower()
    if told is not None:
        text = told.sub(" ", text)
    for what, secret in known.items():
        if secret and _stands(secret.lower(), text):
            setting, weight = f'submission.remove = [..., "{field.name}"]', Weight.LEAK
            if _is(field, "received"):
                setting = "submission.own_received"
            elif _is(field, *mask_host.OWN_IDS, *mask_host.OTHER_IDS):
                setting = MASK_HOST
                weight = Weight.HINT if submission.message_id == "keep" else Weight.LEAK
            yield Finding(field.name, field.index, _excerpt(field.value), f"{what} {secret}",
                          setting, weight)  # fmt: skip


def _stands(word: str, text: str) -> bool:
    """True where `word` stands in `text` as a whole word: no port within a longer number, no
    address that begins a longer one.
    """
    return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w])", text) is not None


def _text(value: bytes) -> str:
    return re.sub(r"[\r\n]+[ \t]*", " ", value.decode("utf-8", "replace")).strip()


def _excerpt(value: bytes) -> str:
    text = _text(value)
    text = shown(text)  # control characters in mail must not reach the terminal
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "\u2026"
