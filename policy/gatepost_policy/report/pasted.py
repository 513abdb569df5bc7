"""Remove what surrounds a pasted name: quotes, a display name, a log's `client=`, a URL. Pure.

People copy names from log lines, mail programs and chats. Callers use this only for a text that is
no valid name or that the store does not know.

A text around a name is searched too: where it holds one address, else one network, else one domain,
that is meant.

Limits: of a log line with several names only the queue id is taken, else the client in brackets.
"""

import html
import re
import unicodedata
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
    summarize_address_range,
)
from itertools import islice
from urllib.parse import unquote

# Invisible characters that programs copy along: zero-width and bidi marks.
_INVISIBLE = "\u200b\u200c\u200d\u200e\u200f\u2060\ufeff\u202a\u202b\u202c\u202d\u202e"
_BLANKS = " \t\r\n\xa0" + _INVISIBLE
_PAIRS = (
    "''", '""', "``", "()", "[]", "<>", "\u201c\u201d", "\u2018\u2019", "\u00ab\u00bb",
    "\u201e\u201c", "\u201e\u201d", "\u201a\u2018", "\u2039\u203a", "**", "__", "||",
)  # fmt: skip
# `from=<a@b>` of Postfix, `F=<a@b>` and `H=host` of Exim, the fields of a message, `d=` of DKIM.
_NAMED = re.compile(
    r"(?:(?:orig_)?to|from|sender|recipient|rcpt|client|relay|helo|host|message-id|id|d|f|h|mailto"
    r"|return-path|reply-to|x-originating-ip|envelope-from|smtp\.mailfrom|header\.(?:from|d|i)"
    r"|queue[ -]?id|ip)\s*[:=]\s*(?=\S)",
    re.IGNORECASE,
)
# Any other word before `=` or `:`, as in a log: src=, client_address=, ip4:, msgid=.
_KEY = re.compile(r"[A-Za-z][A-Za-z_.-]{0,29}\d?\s*[:=]\s*(?=[^\s=/])")
_URL = re.compile(r"[a-z][a-z0-9+.-]{1,9}://(?:[^/@\s]*@)?(\[[^\]\s]*\]|[^/:?#\s]+)", re.IGNORECASE)
# example[.]org, user[at]example[dot]org: "defanged", so that it is no link.
_DOT = re.compile(r"\s*[\[({]\s*(?:\.|dot)\s*[\])}]\s*", re.IGNORECASE)
_AT = re.compile(r"\s*[\[({]\s*(?:@|at)\s*[\])}]\s*", re.IGNORECASE)
_ANGLE = re.compile(r"<([^<>\s]*@[^<>\s]*)>")
# A client as a log has it: name[192.0.2.1], name (helo) [2001:db8::1]:25.
_CLIENT = re.compile(r"\[(?:IPv6:)?([0-9a-f.:]{2,45})\](?::\d{1,5})?", re.IGNORECASE)
_PORT = re.compile(r"(\d{1,3}(?:\.\d{1,3}){3}|\[[0-9a-f:.]+\]):\d{1,5}\Z", re.IGNORECASE)
_TAGGED = re.compile(r"\[?IPv6:([0-9a-f:.]+)\]?\Z", re.IGNORECASE)
_POSTFIX_LINE = re.compile(r"\w\[\d+\]: ([0-9A-Za-z]{5,24}): ")
_EXIM_LINE = re.compile(
    r"(?<![\w-])([0-9A-Za-z]{6}-[0-9A-Za-z]{6}(?:[0-9A-Za-z]{5})?-[0-9A-Za-z]{2,4})(?![\w-])"
)
_ID = r"(?=[0-9A-Za-z]*\d)[0-9A-Za-z]{5,24}(?:-[0-9A-Za-z]{4,11}-[0-9A-Za-z]{2,4})?"
# What an MTA and its tools say before a queue id.
_QUEUED = re.compile(
    rf"(?:queued as|queue[ _-]?id|\bq?id|\s-q|\s-Mv?[a-z]?)[\s:=#]+({_ID})(?![\w@-]|\.\w)",
    re.IGNORECASE,
)
# A line of Postfix without its start.
_CUT_LINE = re.compile(rf"({_ID}): (?=[a-z-]+[=:]|removed\b)")
_ADDRESS = re.compile(r"[^\s@<>()\[\]\"',;:=|\\]+@[\w-]+(?:\.[\w-]+)+")
_NUMBERS = re.compile(
    r"(?<![\w.:])(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]{0,4}:[0-9a-f:.]*)(?:/\d+)?", re.I
)
_NAME = re.compile(r"(?<![\w@.-])(?<!\w/)[^\W_][\w-]*(?:\.[\w-]+)*\.[^\W\d][\w-]*[^\W_](?![\w@-])")
# A queue id of Postfix's long form, or another word that nothing but a program writes.
_LONG_ID = re.compile(
    r"(?<![\w.@/-])(?=[a-zA-Z]*\d)(?=[0-9a-z]*[A-Z])[0-9A-Za-z]{10,24}(?![\w.@/-])"
)
_REVERSE = re.compile(r"((?:[0-9a-f]+\.)+)(in-addr|ip6)\.arpa\.?\Z", re.IGNORECASE)
_OCTETS = re.compile(r"(\d{1,3}(?:\.\d{1,3}){1,2})(?:\.\*?|)(?:\.\*)*\Z")
_RANGE = re.compile(r"([0-9a-f.:]+)\s*[-\u2013]\s*([0-9a-f.:]+)\Z", re.IGNORECASE)
_EDGES = ".,;:!?*#|<>()[]{}\"'`/=~$+-" + _BLANKS
IPAddress = IPv4Address | IPv6Address
STEPS = 6  # layers that are taken off, at most


def readings(text: str) -> list[str]:
    """What `text` may mean: itself first, then with one layer after the other removed, then the one
    name inside of it."""
    found: list[str] = []
    text = text.strip(_BLANKS)
    plain = _decoded(text)
    edged = plain.strip(_EDGES)
    for start in (text, plain, _single(plain), "" if " " in edged else edged):
        for reading in _layers(start or ""):
            if reading and reading not in found:
                found.append(reading)
    return found


def _layers(text: str) -> list[str]:
    """`text`, and what is left with one layer after the other removed."""
    found = [text]
    while len(found) < STEPS and (inner := _inner(found[-1])) and inner not in found:
        found.append(inner)
    return found


def _decoded(text: str) -> str:
    """`text` without the escapes of HTML and URLs, and with wide characters as ASCII has them."""
    plain = unquote(html.unescape(text), errors="strict") if text.isascii() else text
    plain = unicodedata.normalize("NFKC", plain).replace("\u3002", ".").replace("\\@", "@")
    words = plain.split()
    if "at" in words and "dot" in words:
        plain = plain.replace(" at ", "@").replace(" dot ", ".")
    return plain if plain.isprintable() else text


def _single(text: str) -> str | None:
    """The queue id that `text` names, or its only address, else network, long queue id or domain;
    None where there is none, or more than one."""
    if queued := _QUEUED.search(text):
        return queued.group(1)
    if addresses := {one.rstrip(".*_").lstrip("*_") for one in _ADDRESS.findall(text)}:
        return addresses.pop() if len(addresses) == 1 else None
    networks = set()
    for one in _NUMBERS.findall(text):
        with suppress(ValueError):
            networks.add(str(ip_network(one.rstrip(".:"), strict=False)))
    if networks:
        return networks.pop() if len(networks) == 1 else None
    if ids := set(_LONG_ID.findall(text)):
        return ids.pop() if len(ids) == 1 else None
    names = {one.lower() for one in _NAME.findall(text)}
    return names.pop() if len(names) == 1 else None


def _numbers(text: str) -> str | None:
    """The network that `text` writes in another way: as a reverse name, its first octets, a range,
    with a zone or leading zeros. None for any other text."""
    with suppress(ValueError):
        if reverse := _REVERSE.match(text):
            parts = reverse.group(1).rstrip(".").split(".")[::-1]
            if reverse.group(2).lower() == "in-addr":
                return _first_octets(parts)
            digits = "".join(parts).ljust(32, "0")
            groups = ":".join(digits[at : at + 4] for at in range(0, 32, 4))
            return str(ip_network(f"{groups}/{4 * len(parts)}"))
        if octets := _OCTETS.match(text):
            return _first_octets(octets.group(1).split("."))
        if given := _RANGE.match(text):
            return _range(*map(ip_address, given.groups()))
        if re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", text):
            return ".".join(str(int(part)) for part in text.split("."))
    address, zone, _ = text.partition("%")
    return address if zone and ":" in address else None


def _range(first: IPAddress, last: IPAddress) -> str | None:
    """The network from `first` to `last`; None where it takes several."""
    networks: Iterator[IPv4Network | IPv6Network] = iter(())
    if isinstance(first, IPv4Address) and isinstance(last, IPv4Address):
        networks = summarize_address_range(first, last)
    elif isinstance(first, IPv6Address) and isinstance(last, IPv6Address):
        networks = summarize_address_range(first, last)
    found = list(islice(networks, 2))
    return str(found[0]) if len(found) == 1 else None


def _first_octets(parts: list[str]) -> str:
    """The IPv4 network of these octets. Raises ValueError."""
    numbers = [str(int(part)) for part in parts] + ["0"] * (4 - len(parts))
    return str(ip_network(f"{'.'.join(numbers)}/{8 * len(parts)}")).removesuffix("/32")


def _inner(text: str) -> str | None:
    """`text` without its outermost layer; None where nothing surrounds it."""
    if (numbers := _numbers(text)) is not None:
        return numbers
    line = _POSTFIX_LINE.search(text) or _CUT_LINE.match(text)
    if line or (" " in text and (line := _EXIM_LINE.search(text))):
        return line.group(1)
    if url := _URL.match(text):
        return url.group(1)
    plain = _AT.sub("@", _DOT.sub(".", text)).replace("[:]", ":")
    if plain != text:
        return re.sub(r"\Ahxxp", "http", plain, flags=re.IGNORECASE)
    bare = text.rstrip(",;:" + _BLANKS)
    if bare != text and not bare.endswith(":"):
        return bare
    if named := _NAMED.match(text):
        rest = text[named.end() :].strip(_BLANKS)
        return rest.partition("?")[0] if text[:7].lower() == "mailto:" else rest
    for pair in _PAIRS:
        if len(text) > 2 and text[0] == pair[0] and text[-1] == pair[1]:
            if pair == "<>" and "@" in text:
                break  # an address or a Message-ID as it is written
            if pair == "[]" and _TAGGED.match(text):
                break
            return text[1:-1].strip(_BLANKS)
    if tagged := _TAGGED.match(text):
        return tagged.group(1)
    if port := _PORT.match(text):
        return port.group(1)
    if not _is_literal(text) and (client := _CLIENT.search(text)):
        return client.group(1)
    angles = _ANGLE.findall(text)
    if len(angles) == 1 and text != f"<{angles[0]}>":
        return str(angles[0])
    key = _KEY.match(text)
    return None if key is None or _is_network(text) else text[key.end() :].strip(_BLANKS)


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True


def _is_literal(text: str) -> bool:
    """True for user@[192.0.2.1]: a mail address with an address literal (RFC 5321 4.1.3)."""
    return re.fullmatch(r"<?[^\s<>]+@\[[^\]\s]+\]>?", text) is not None
