"""The token in X-Gatepost-Trace: what it holds, how it is sealed and opened.

How it works. `Content` is packed to a fixed length, so that the length of the account does not
show; a MAC with the mail host's key is put after it, and both are sealed to the week's public key
(libsodium's sealed box: X25519, XSalsa20-Poly1305). Each sealed box has a new key of its own, so
two tokens have only the version and the name of the key in common.

The MAC shows that this host sealed it, because anybody can seal to a public key. The hashes show
for which message, because anybody can copy a token.
"""

import base64
import hashlib
import hmac
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, PublicKey, SealedBox

from gatepost_policy.dkim.body import Body

FIELD = "X-Gatepost-Trace"
VERSION = "v1"
MAX_ACCOUNT = 255  # octets; RFC 5321 4.5.3.1.3: a path is at most 256 with its brackets
MAX_QUEUE_ID = 63
HASH_BYTES = MAC_BYTES = 32
HASHED = ("from", "date", "message-id")
LINE = 72  # of base64 in the folded field

# account and queue id each with a length before it, Unix seconds, header hash, body hash
_PACKED = struct.Struct(f">B{MAX_ACCOUNT}sB{MAX_QUEUE_ID}sQ{HASH_BYTES}s{HASH_BYTES}s")
_TOKEN = re.compile(r"v1\.([0-9a-f]{16})\.([A-Za-z0-9_-]+)\Z")
_BLANKS = re.compile(rb"[ \t\r\n]+")


@dataclass(frozen=True, slots=True)
class Content:
    """What is sealed. `at`: Unix seconds. The hashes are of the message as it leaves."""

    account: str
    at: int
    queue_id: str
    header: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Sealed:
    """A token in its parts: the name of the key, and the box."""

    key: str
    box: bytes


def header_hash(fields: Sequence[tuple[str, bytes]]) -> bytes:
    """The SHA-256 (32 octets) of the first From, Date and Message-ID; blanks and folds count as one
    blank.
    """
    digest = hashlib.sha256()
    for wanted in HASHED:
        value = next((v for name, v in fields if name.lower() == wanted), b"")
        digest.update(_BLANKS.sub(b" ", value).strip() + b"\n")
    return digest.digest()


def new_body(*, relaxed: bool = True) -> Body:
    """A body that is hashed as it arrives, with CRLF: call `update` for each piece, then
    `body_hash`. Empty lines at the end do not count, and if `relaxed` blanks at the ends of lines
    and how many stand together (RFC 6376 3.4.3, 3.4.4), which takes several times as long.
    """
    body = Body(relaxed=relaxed)
    body.sink("sha256", None)
    return body


def body_hash(body: Body) -> bytes:
    """The SHA-256 (32 octets) of a complete body. Call it once."""
    body.close()
    return bytes(body.sink("sha256", None).digest)


def seal(content: Content, key: str, public: PublicKey, mac_key: bytes) -> str:
    """The token for `content`. Raises ValueError where the account has more than MAX_ACCOUNT octets
    or the queue id more than MAX_QUEUE_ID.
    """
    account, queue_id = _raw(content.account), _raw(content.queue_id)
    for name, value, limit in (
        ("an account", account, MAX_ACCOUNT), ("a queue id", queue_id, MAX_QUEUE_ID)
    ):  # fmt: skip
        if len(value) > limit:
            raise ValueError(f"{name} of more than {limit} octets")
    packed = _PACKED.pack(
        len(account), account, len(queue_id), queue_id, content.at, content.header, content.body
    )
    box = SealedBox(public).encrypt(packed + _mac(packed, key, mac_key))
    return f"{VERSION}.{key}.{base64.urlsafe_b64encode(box).rstrip(b'=').decode()}"


def folded(token: str) -> str:
    """`token` as the value of its field, with its leading space."""
    head, _, box = token.rpartition(".")
    return f" {head}." + "".join(f"\n\t{box[n : n + LINE]}" for n in range(0, len(box), LINE))


def parse(text: str) -> Sealed | None:
    """The parts of a token, however it is folded; None where it is not a token."""
    match = _TOKEN.match(re.sub(r"\s+", "", text))
    if match is None:
        return None
    try:
        return Sealed(match.group(1), base64.urlsafe_b64decode(match.group(2) + "=="))
    except ValueError:
        return None


def unseal(sealed: Sealed, private: PrivateKey, mac_key: bytes) -> Content | None:
    """What is in the box; None where it does not open, or was not sealed by our host."""
    try:
        opened = SealedBox(private).decrypt(sealed.box)
    except CryptoError:
        return None
    packed, mac = opened[:-MAC_BYTES], opened[-MAC_BYTES:]
    if len(packed) != _PACKED.size or not hmac.compare_digest(
        mac, _mac(packed, sealed.key, mac_key)
    ):
        return None
    a_length, account, q_length, queue_id, at, header, body = _PACKED.unpack(packed)
    return Content(_text(account[:a_length]), at, _text(queue_id[:q_length]), header, body)


def _mac(packed: bytes, key: str, mac_key: bytes) -> bytes:
    return hmac.digest(mac_key, key.encode() + packed, "sha256")


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
