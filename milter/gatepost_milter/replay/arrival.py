"""Read from a saved message how it arrived: client, HELO, envelope and time.

Pure. The newest Received field names the client that handed the message to the last server; the
forms of Postfix, Exim, Sendmail, qmail and Exchange are read (RFC 5321 4.4 and what is really
sent). Return-Path and Delivered-To, or the `for` clause, name the envelope. What cannot be read
is None: the caller decides what to assume.
"""

import re
from dataclasses import dataclass

from gatepost_milter.mta.queue_file import Field
from gatepost_policy.mail import client_address
from gatepost_policy.mail.dates import parse_date

# A field is cut to this before a regular expression reads it: a hostile one could cost seconds.
MAX_FIELD_BYTES = 8192
MAX_HOPS = 5
_COMMENT = re.compile(r"\([^()]*(?:\([^()]*\)[^()]*)*\)")
_FROM = re.compile(r"\s*from\s+(\S+)", re.I)
_ADDRESS = re.compile(
    r"(?<![\w.:])(?:IPv6:)?([0-9a-f]{0,4}(?::[0-9a-f]{0,4}){2,7}(?:\.\d{1,3}){0,3})(?![\w:.])"
    r"|(?<![\w.-])(\d{1,3}(?:\.\d{1,3}){3})(?![\w.-]*\w)",
    re.I,
)
_HELO = re.compile(r"\b(?:helo|ehlo)[= ]\[?([^\s)\]]+)", re.I)
_NAME = re.compile(r"\(([a-z0-9_][a-z0-9_.-]*\.[a-z0-9_.-]*[a-z0-9]) \[", re.I)
_FOR = re.compile(r"\sfor\s+<?([^\s<>;()]+@[^\s<>;()]+)>?", re.I)
_ENVELOPE_FROM = re.compile(r"\(envelope-from <?([^\s<>()]*)>?", re.I)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What the header says about how the message came; None where it says nothing."""

    client: str | None = None
    client_name: str | None = None
    helo: str | None = None
    sender: str | None = None  # "" is the null sender
    recipients: tuple[str, ...] = ()
    at: float | None = None  # Unix seconds


def arrival(fields: list[Field]) -> Arrival:
    """Read `fields`, the header of a message, top to bottom."""
    received = [f for f in fields if f.label == b"received"][:MAX_HOPS]
    hops = [read_received(f.value) for f in received]
    newest = hops[0] if hops else Arrival()
    # A hop inside the last server ("invoked by", "with local") has no client: use the next one.
    hop = next((h for h in hops if h.client is not None), newest)
    sender, delivered = hop.sender, list(hop.recipients or newest.recipients)
    for entry in fields:
        text = _text(entry.value)
        if entry.label == b"return-path" and not sender:
            sender = text.partition("<")[2].partition(">")[0] if "<" in text else text
        elif entry.label in (b"delivered-to", b"x-original-to") and not delivered and "@" in text:
            delivered.append(text.strip("<>"))
    return Arrival(
        client=hop.client,
        client_name=hop.client_name,
        helo=hop.helo,
        sender=sender,
        recipients=tuple(delivered),
        at=None if _signed_later(fields) else newest.at if newest.at is not None else hop.at,
    )


def _signed_later(fields: list[Field]) -> bool:
    """True where a DKIM-Signature stands above every Received: it was added after the newest hop
    was written, so that hop is not the one that received the message."""
    labels = (f.label for f in fields)
    first = next((x for x in labels if x in (b"received", b"dkim-signature")), None)
    return first == b"dkim-signature"


def read_received(value: bytes) -> Arrival:
    """Read one Received field. An empty envelope-from counts as unknown, not as the null sender:
    web pages that show mail often lose what stands in angle brackets."""
    text = _text(value)
    clauses, _, date = text.rpartition(";")
    clauses = clauses or text
    at = parse_date(date.encode("ascii", "replace"))
    hidden = _COMMENT.sub(lambda m: "x" * len(m.group()), clauses)
    by = re.search(r"(?:^|\s)by\s", hidden, re.I)
    handed = clauses[: by.start()] if by else clauses
    plain = _COMMENT.sub(" ", clauses)
    for_ = _FOR.search(plain) or _FOR.search(clauses)
    envelope = _ENVELOPE_FROM.search(clauses)
    client, name, helo = _client(handed)
    return Arrival(
        client=client,
        client_name=name,
        helo=helo,
        sender=envelope.group(1) or None if envelope else None,
        recipients=(for_.group(1),) if for_ else (),
        at=None if at is None else float(at),
    )


def _client(handed: str) -> tuple[str | None, str | None, str | None]:
    """(address, verified name, HELO) from the part before "by"."""
    from_ = _FROM.match(handed)
    if not from_:
        return None, None, None
    word = from_.group(1)
    # The address in a comment is the client's; one before it may be a HELO such as [127.0.0.1].
    comment = handed[from_.end() :]
    address = _first_address(comment) or _first_address(word)
    if address is None:
        return None, None, None
    said = _HELO.search(comment)
    named = _NAME.search(comment)
    if said:
        # Exim: from NAME ([ip] helo=HELO); qmail: from NAME (HELO x) (ip)
        name = word if _is_name(word) and word != "unknown" else None
        return address, name, said.group(1)
    if named:
        # Postfix, Sendmail: from HELO (NAME [ip])
        name = None if named.group(1).lower() == "unknown" else named.group(1)
        return address, name, word
    if re.search(r"\(\s*\[", comment):
        # Exim: from NAME ([ip]): HELO and verified name are the same.
        return address, word if _is_name(word) else None, word
    return address, None, word


def _is_name(word: str) -> bool:
    return "." in word and not word.startswith("[") and _first_address(word) is None


def _first_address(text: str) -> str | None:
    for v6, v4 in _ADDRESS.findall(text):
        address = client_address.parse(v6 or v4)
        if address is not None:
            return str(address)
    return None


def _text(value: bytes) -> str:
    text = value[:MAX_FIELD_BYTES].decode("utf-8", "surrogateescape")
    return re.sub(r"[\r\n\t ]+", " ", text).strip()
