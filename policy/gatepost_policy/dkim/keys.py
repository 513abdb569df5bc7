"""Read a DKIM key record into a key that OpenSSL can use, or into the reason why not.

Pure: TXT text in, `Key` or `Why` out. The limits of `[dkim]` are checked before any arithmetic:
anyone can publish a key with a 32768-bit modulus, and dkimpy takes a minute over one while the MTA
waits.
"""

import binascii
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from dkim.util import InvalidTagValueList, parse_tag_value

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.reasons import Why

_BLANKS = b" \t\r\n"


@dataclass(frozen=True, slots=True)
class Key:
    """One usable key record. `hashes` None: the record allows all of them (RFC 6376 3.6.1)."""

    public: RSAPublicKey | Ed25519PublicKey
    kind: str  # rsa or ed25519
    bits: int
    hashes: frozenset[str] | None
    strict: bool  # t=s: i= must be at d= itself
    testing: bool  # t=y
    service: bool  # the record may be used for mail


def decode(text: bytes) -> bytes:
    """Base64 with folding white space, and nothing else. Raises ValueError.

    The padding at the end may be missing, because the length already says how much there must be.
    """
    return decode_joined(text.translate(None, _BLANKS))


def decode_joined(text: bytes) -> bytes:
    """`decode` of a text without white space."""
    return binascii.a2b_base64(text + b"=" * (-len(text) % 4), strict_mode=True)


def _words(value: bytes) -> list[str]:
    return [word.strip().decode("ascii", "replace") for word in value.split(b":")]


def _folded(value: bytes) -> list[str]:
    # RFC 5234 2.3: literals in the grammar are case-insensitive, and every reader treats them so.
    return _words(value.lower())


def parse(record: str | bytes, settings: Dkim) -> Key | Why:
    """The key in one TXT record (its strings joined), or why it cannot be used (RFC 6376 3.6.1)."""
    raw = record if isinstance(record, bytes) else record.encode("utf-8", "surrogateescape")
    if len(raw) > settings.max_record_bytes:
        return Why.KEY_TOO_LONG
    try:
        tags = parse_tag_value(raw)
    except (InvalidTagValueList, IndexError, ValueError):
        return Why.KEY_SYNTAX
    # RFC 6376 3.6.1: a record of another version must be discarded.
    if tags.get(b"v", b"DKIM1") != b"DKIM1":
        return Why.KEY_VERSION
    # The same section: where v= is there at all, it must be the first tag.
    if b"p" not in tags or (b"v" in tags and next(iter(tags)) != b"v"):
        return Why.KEY_SYNTAX
    if not tags[b"p"].translate(None, _BLANKS):
        return Why.KEY_REVOKED
    kind = tags.get(b"k", b"rsa").lower()
    if kind not in (b"rsa", b"ed25519"):
        return Why.KEY_TYPE
    try:
        der = decode(tags[b"p"])
    except ValueError:
        return Why.KEY_INVALID
    found = _ed25519(der) if kind == b"ed25519" else _rsa(der, settings)
    if isinstance(found, Why):
        return found
    public, bits = found
    flags = _words(tags.get(b"t", b""))
    services = _folded(tags.get(b"s", b"*"))
    return Key(
        public=public,
        kind=kind.decode(),
        bits=bits,
        hashes=frozenset(_folded(tags[b"h"])) if b"h" in tags else None,
        strict="s" in flags,
        testing="y" in flags,
        service="*" in services or "email" in services,
    )


def _ed25519(raw: bytes) -> tuple[Ed25519PublicKey, int] | Why:
    # RFC 8463 4: the 32 octets of the key themselves, not wrapped in ASN.1.
    try:
        return Ed25519PublicKey.from_public_bytes(raw), 256
    except (ValueError, UnsupportedAlgorithm):
        return Why.KEY_INVALID


def _rsa(der: bytes, settings: Dkim) -> tuple[RSAPublicKey, int] | Why:
    # RFC 6376 3.6.1 says RSAPublicKey, practice (and its example) SubjectPublicKeyInfo: both load.
    try:
        key = load_der_public_key(der)
        if not isinstance(key, RSAPublicKey):
            return Why.KEY_INVALID
        numbers = key.public_numbers()
    except (ValueError, UnsupportedAlgorithm, OverflowError):
        return Why.KEY_INVALID
    if key.key_size > settings.max_key_bits or numbers.e.bit_length() > settings.max_exponent_bits:
        return Why.KEY_TOO_LARGE
    # e=1 verifies anything; an even modulus or exponent is no RSA.
    if numbers.e < 3 or numbers.e % 2 == 0 or numbers.n <= 0 or numbers.n % 2 == 0:
        return Why.KEY_INVALID
    return key, key.key_size
