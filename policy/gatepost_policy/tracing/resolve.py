"""From a message, a report about one, a bounce, or a bare token back to the account that wrote it.

The account is named only where the MAC is ours and, where there is a message, its From, Date and
Message-ID are those that were sealed: a token that was copied into another message names nobody.
"""

import binascii
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from email import policy
from email.message import Message
from enum import StrEnum

from gatepost_policy.mail.parsed import parsed
from gatepost_policy.tracing import token
from gatepost_policy.tracing.keys import Keyring
from gatepost_policy.tracing.token import FIELD, Content

MAX_DEPTH = 10
_POLICY = policy.compat32.clone(max_line_length=None)


class Outcome(StrEnum):
    """What was found. The account is known for the first three."""

    RESOLVED = "resolved"
    BODY_CHANGED = "body changed since"
    NOT_TIED = "not tied to a message"
    OTHER_MESSAGE = "taken from another message"
    FORGED = "forged"
    NO_KEY = "no key"
    NO_TOKEN = "no token"


@dataclass(frozen=True, slots=True)
class Answer:
    """`content` is None where nobody is named. `key`: the name of the key. `body_known`: the body
    was there to be compared (a bounce may bring the header alone). `attached`: the token is in a
    message that is attached."""

    outcome: Outcome
    key: str | None = None
    content: Content | None = None
    body_known: bool = False
    attached: bool = False


def resolve(data: bytes, keyring: Keyring) -> Answer:
    """The first of `resolve_each`."""
    return resolve_each(data, keyring)[0]


def resolve_each(data: bytes, keyring: Keyring) -> tuple[Answer, ...]:
    """The accounts behind `data`, which is a whole message or a bare token: one answer for each
    token that names one, else one that says why none does. Raises TraceKeyError for a damaged key.

    There may be several: one of our users complains of a message that another one wrote, or sends
    somebody else's along. Who is meant cannot be told from the file.
    """
    bare = token.parse(data.decode("ascii", "replace")) if len(data) < 4096 else None
    if bare is not None:
        return (_opened(bare, keyring, None, None),)
    answer = Answer(Outcome.NO_TOKEN)
    named: dict[Content, Answer] = {}
    for number, (fields, body) in enumerate(_messages(data)):
        values = [v for name, v in fields if name.lower() == FIELD.lower()]
        for value in values:
            sealed = token.parse(value.decode("ascii", "replace"))
            if sealed is None:
                answer = Answer(Outcome.FORGED)
                continue
            answer = _opened(sealed, keyring, fields, body)
            if answer.content is not None:
                named.setdefault(answer.content, replace(answer, attached=number > 0))
    return tuple(named.values()) or (answer,)


def _opened(
    sealed: token.Sealed,
    keyring: Keyring,
    fields: list[tuple[str, bytes]] | None,
    body: bytes | None,
) -> Answer:
    private = keyring.private(sealed.key)
    if private is None:
        return Answer(Outcome.NO_KEY, sealed.key)
    content = token.unseal(sealed, private, keyring.mac_key)
    if content is None:
        return Answer(Outcome.FORGED, sealed.key)
    if fields is None:
        return Answer(Outcome.NOT_TIED, sealed.key, content)
    if token.header_hash(fields) != content.header:
        return Answer(Outcome.OTHER_MESSAGE, sealed.key)
    if body is None:
        return Answer(Outcome.RESOLVED, sealed.key, content)
    hashed = token.new_body()
    hashed.update(re.sub(rb"\r?\n", b"\r\n", body))
    same = token.body_hash(hashed) == content.body
    return Answer(
        Outcome.RESOLVED if same else Outcome.BODY_CHANGED, sealed.key, content, body_known=True
    )


def _messages(data: bytes) -> Iterator[tuple[list[tuple[str, bytes]], bytes | None]]:
    """(fields, body) of the message, then of each that is attached to it (ARF: RFC 5965; bounces:
    RFC 6522), the body None where only the header is there.
    """
    if data.startswith(b"From "):
        data = data.partition(b"\n")[2]
    yield _split(data)
    for part in _attached(parsed(data, _POLICY), 0):
        kind = part.get_content_type()
        if kind == "text/rfc822-headers":
            text = part.get_payload(decode=True)
            if isinstance(text, bytes):
                yield _split(text)[0], None
        elif kind in ("message/rfc822", "message/global") and part.is_multipart():
            inner = part.get_payload(0)
            if isinstance(inner, Message):
                whole = inner.as_bytes(policy=_POLICY)
                yield _split(whole)
                # RFC 2046 5.2.1 forbids an encoding here, but some programs use one.
                yield from _coded(whole, part.get("Content-Transfer-Encoding", ""))
        elif not part.is_multipart() and kind not in ("text/plain", "text/html"):
            payload = part.get_payload(decode=True)  # a message saved as a file: x.eml
            if isinstance(payload, bytes) and FIELD.lower().encode() in payload.lower():
                yield _split(payload)


def _coded(text: bytes, coding: str) -> Iterator[tuple[list[tuple[str, bytes]], bytes]]:
    """The message in `text`, which is in base64 although its type does not allow it."""
    if coding.strip().lower() != "base64":
        return
    try:
        yield _split(binascii.a2b_base64(text))
    except binascii.Error:
        return


def _attached(message: Message, depth: int) -> Iterator[Message]:
    yield message
    payload = message.get_payload()
    if depth < MAX_DEPTH and isinstance(payload, list):
        for part in payload:
            if isinstance(part, Message):
                yield from _attached(part, depth + 1)


def _split(data: bytes) -> tuple[list[tuple[str, bytes]], bytes]:
    """The fields of a message in any line ending, and its body as it is."""
    match = re.search(rb"(?:\A|\n)\r?\n", data)
    head, body = (data, b"") if match is None else (data[: match.start()], data[match.end() :])
    fields: list[tuple[str, bytes]] = []
    for line in head.split(b"\n"):
        line = line.rstrip(b"\r")
        if line[:1] in (b" ", b"\t") and fields:
            name, value = fields[-1]
            fields[-1] = (name, value + b"\n" + line)
        elif b":" in line:
            raw, _, value = line.partition(b":")
            fields.append((raw.decode("latin-1").strip(), value))
    return fields, body
