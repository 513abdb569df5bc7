"""Mask host names in message ids that reveal the sender (`message_id = "mask-host"`). Pure.

Masked in Message-ID, Resent-Message-ID, the message's own Content-ID, and the ids of an earlier
message that Supersedes and Obsoletes name (RFC 5536 3.2.12, RFC 2156): address literals, names
that exist only in private networks, and the client's EHLO and PTR names. In-Reply-To and References
hold other people's ids, which must not change: there only address literals and this client's own
names are masked, and in the left half its address and host names: programs put them into ids of
their own (`<1.192.0.2.77.webmail@example.org>`), and who got an earlier message has the masked id.
The same id always gets the same mask, so that threads stay together.

`localhost` reveals nothing, and some programs write it on purpose.
"""

import hashlib
import re
from dataclasses import replace

from gatepost_policy.mail.client_address import parse
from gatepost_policy.scrub.client_words import NOBODY, ClientWords, has_inside_address
from gatepost_policy.scrub.private_names import PRIVATE

OWN_IDS = ("message-id", "resent-message-id", "content-id", "supersedes", "obsoletes")
OTHER_IDS = ("in-reply-to", "references")

# Begins only at the start of a word: else a long word without an @ would be read once for each
# octet.
_ID = re.compile(
    rb"(?<![^<>@\s])([^<>@\s]*)@\s*(\[[^\[\]<>]{0,100}\]|[^<>@\s]{1,512})(?=\s*(?:>|\Z)|\s)"
)

# An address of a private network between the dots of an id; 10.1.2.3 may be any count there.
_BETWEEN = re.compile(
    rb"(?<![0-9])(?:192\.168|169\.254|172\.(?:1[6-9]|2\d|3[01]))(?:\.\d{1,3}){2}(?![0-9])"
)


def is_literal(host: bytes) -> bool:
    """True for an address literal (RFC 5321 4.1.3) and for a bare IP address."""
    return host.startswith(b"[") or parse(host.decode("ascii", "replace")) is not None


def is_private(host: bytes) -> bool:
    """True for an address literal, a name without a dot, and a name that no public DNS knows."""
    host = host.lower().rstrip(b".")
    if host == b"localhost":
        return False
    return is_literal(host) or b"." not in host or host.endswith(PRIVATE)


def tells(host: bytes, name: str, client: ClientWords = NOBODY) -> bool:
    """True where `host`, in an id of the field `name` (lower-case), reveals the client."""
    low = host.lower().rstrip(b".")
    text = low.decode("utf-8", "surrogateescape")
    machines = {own.partition(".")[0] for own in client.hosts}
    if is_literal(low) or text in client.hosts or text in machines:
        return True
    if name not in OWN_IDS:
        return False
    # The machine's name before another domain: laptop.lan in EHLO, laptop.example.org here.
    return text.partition(".")[0] in machines or is_private(low) or client.within(low)


def mask_hosts(value: bytes, mask: bytes, name: str, client: ClientWords = NOBODY) -> bytes:
    """`value` of the field `name` (lower-case) with revealing hosts replaced by `mask`.

    Outside of ids the client's words are replaced too.
    """

    words = _worth_a_look(value, client)
    own = name in OWN_IDS
    out: list[bytes] = []
    reached = 0
    for match in _ID.finditer(value):
        host = match.group(2)
        left = _left(match, name, words)
        if host != mask and tells(host, name, client):
            host = mask
        out += (_outside(value[reached : match.start()], words, own), left,
                value[match.end(1) : match.start(2)], host)  # fmt: skip
        reached = match.end()
    out.append(_outside(value[reached:], words, own))
    return b"".join(out)


def _worth_a_look(value: bytes, client: ClientWords) -> ClientWords:
    """`client`, or NOBODY where the whole value has none of its words: a field may hold thousands
    of ids, which then need not be searched.
    """
    found = client.told_by(value) or client.without(value) != value
    return client if found else NOBODY


def _left(match: "re.Match[bytes]", name: str, client: ClientWords) -> bytes:
    """The left part of an id of the field `name` without the client's words.

    Of an id that somebody else may have made the login stays: a list may have put its reader's name
    there, and the others of the thread have the same id.
    """
    left = match.group(1)
    bracketed = match.string[: match.start()].endswith(b"<")
    if name in OWN_IDS or not bracketed or tells(match.group(2), name, client):
        return _own_left(left, client)
    return replace(client, login=None).without(left)


def _own_left(left: bytes, client: ClientWords) -> bytes:
    """The left part of an id of this message without the client's words.

    Where a word cannot be taken out (base64), a hash replaces all of it, the same for the same id;
    so does it where the address is one of the client's own network, which its program has put in.
    """
    plain = client.without(left)
    inside = has_inside_address(plain) or _BETWEEN.search(plain)
    if inside or (plain == left and client.told_by(left)):
        return hashlib.sha256(left).hexdigest()[:32].encode()
    return plain


def _outside(text: bytes, client: ClientWords, own: bool) -> bytes:
    """Text outside of ids (a comment, or a phrase of an old program, RFC 5322 4.5.4) without the
    client's words.

    Text in angle brackets without an @ is an id too: where it is not this message's `own` it stays.
    """
    parts = re.split(rb"(<[^<>]*>)", text)
    return b"".join(p if p.startswith(b"<") and not own else client.without(p) for p in parts)


def telling(value: bytes, name: str, client: ClientWords = NOBODY) -> str | None:
    """The first host in `value` of the field `name` that `mask_hosts` would replace, or the text in
    which it would replace a word; None where it would leave `value` alone."""
    words = _worth_a_look(value, client)
    own = name in OWN_IDS
    reached = 0
    for match in _ID.finditer(value):
        left, host = match.group(1), match.group(2)
        outside = value[reached : match.start()]
        if _outside(outside, words, own) != outside:
            return outside.strip().decode("utf-8", "replace")
        if tells(host, name, client):
            return host.decode("utf-8", "replace")
        if _left(match, name, words) != left:
            return left.decode("utf-8", "replace")
        reached = match.end()
    outside = value[reached:]
    if _outside(outside, words, own) != outside:
        return outside.strip().decode("utf-8", "replace")
    return None
