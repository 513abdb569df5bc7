"""Sign messages for tests in every right and wrong way, and put them through the verifier.

The signer is independent of what it tests: dkimpy canonicalises, Python's own integers make the
RSA signatures. Keys may be absurd (16384 bits of many small primes, e=1): signing stays cheap.
"""

import base64
import hashlib
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

import dkim
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dkim.canonicalization import CanonicalizationPolicy
from dkim.crypto import HASH_ID_MAP

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.outcome import Outcome
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Lookups

AT = 1_790_000_000.0  # 2026-09-21
DOMAIN, SELECTOR = "example.org", "s1"
NAME = f"{SELECTOR}._domainkey.{DOMAIN}"
Header = list[tuple[bytes, bytes]]
HEADER: Header = [
    (b"From", b" Joe <joe@example.org>"),
    (b"To", b" Suzie <suzie@example.net>"),
    (b"Subject", b" Is dinner\r\n\t ready?"),
    (b"Date", b" Fri, 11 Jul 2003 21:00:37 -0700"),
    (b"Message-ID", b" <20030712040037.46341.5F8J@example.org>"),
]
BODY = b"Hi.\r\n\r\nWe lost the game.  Are you hungry yet?\r\n\r\nJoe.\r\n\r\n"


@dataclass(frozen=True)
class Rsa:
    """An RSA key of any shape: the modulus is the product of `primes`."""

    primes: tuple[int, ...]
    e: int = 65537

    @property
    def n(self) -> int:
        return prod(self.primes)

    @property
    def record(self) -> str:
        return f"v=DKIM1; k=rsa; p={public(self.n, self.e)}"

    def sign(self, name: str, data: bytes) -> bytes:
        """PKCS #1 v1.5 over the hash `name` of `data`; by the remainders, so size costs little."""
        digest = hashlib.new(name, data).digest()
        oid = HASH_ID_MAP[name]
        info = b"\x30" + bytes([len(oid) + 2 + 2]) + b"\x06" + bytes([len(oid)]) + oid + b"\x05\x00"
        info = der(0x30, info + der(4, digest))
        size = (self.n.bit_length() + 7) // 8
        padded = b"\x00\x01" + b"\xff" * (size - len(info) - 3) + b"\x00" + info
        message, n = int.from_bytes(padded, "big"), self.n
        total = 0
        for p in self.primes:
            rest = n // p
            total += pow(message % p, pow(self.e, -1, p - 1), p) * rest * pow(rest, -1, p)
        return (total % n).to_bytes(size, "big")


@dataclass(frozen=True)
class Ed:
    """An Ed25519 key."""

    seed: bytes = bytes(range(32))

    @property
    def record(self) -> str:
        raw = Ed25519PrivateKey.from_private_bytes(self.seed).public_key().public_bytes_raw()
        return f"v=DKIM1; k=ed25519; p={base64.b64encode(raw).decode()}"

    def sign(self, name: str, data: bytes) -> bytes:
        digest = hashlib.new(name, data).digest()
        return Ed25519PrivateKey.from_private_bytes(self.seed).sign(digest)


def der(tag: int, content: bytes) -> bytes:
    """One DER element."""
    size = len(content)
    if size < 128:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def integer(value: int) -> bytes:
    """A DER INTEGER, negative ones included."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return der(2, value.to_bytes(size, "big", signed=True))


def public(n: int, e: int) -> str:
    """SubjectPublicKeyInfo in base64, for any two integers."""
    rsa_encryption = bytes.fromhex("300d06092a864886f70d0101010500")
    key = der(0x30, integer(n) + integer(e))
    return base64.b64encode(der(0x30, rsa_encryption + der(3, b"\x00" + key))).decode()


@lru_cache(maxsize=256)
def prime(bits: int, which: int, e: int = 65537) -> int:
    """A prime that suits RSA with exponent `e`; the same one every time."""
    rng = random.Random(f"{bits}-{which}")
    while True:
        candidate = rng.getrandbits(bits) | (3 << bits - 2) | 1
        if any(candidate % small == 0 for small in range(3, 2000, 2)):
            continue
        if all(pow(base, candidate - 1, candidate) == 1 for base in (2, 3, 5)):
            try:
                pow(e, -1, candidate - 1)
            except ValueError:
                continue
            return candidate


def rsa(bits: int, e: int = 65537, size: int | None = None) -> Rsa:
    """A key of `bits`, of two primes or of many with `size` bits each."""
    each = size or bits // 2
    return Rsa(tuple(prime(each, i, e) for i in range(bits // each)), e)


RSA = rsa(1024)
ED = Ed()


def signature(
    header: Header,
    body: bytes,
    key: Rsa | Ed = RSA,
    *,
    tags: Mapping[str, str | None] | None = None,
    h: str = "from:to:subject:date",
    c: str = "relaxed/relaxed",
    name: bytes = b"DKIM-Signature",
    hash_name: str | None = None,
    tail: bytes = b"",
    first: str = "",
) -> tuple[bytes, bytes]:
    """A DKIM-Signature that is right, but for what `tags` replaces, adds or (None) leaves out.

    What `tags` says is signed as it stands: the guard, not the arithmetic, has to stop it. `first`
    comes before all tags.
    """
    algorithm = "ed25519-sha256" if isinstance(key, Ed) else "rsa-sha256"
    said: dict[str, str | None] = {
        "v": "1", "a": algorithm, "c": c, "d": DOMAIN, "s": SELECTOR, "h": h,
    }  # fmt: skip
    said.update(tags or {})
    digest = hash_name or ("sha1" if said["a"] == "rsa-sha1" else "sha256")
    policy = CanonicalizationPolicy.from_c_value(c.encode())
    limit = said.get("l")
    covered = policy.canonicalize_body(body)
    if limit is not None and limit.isascii() and limit.isdigit() and len(limit) < 10:
        covered = covered[: int(limit)]
    hashed = base64.b64encode(hashlib.new(digest, covered).digest()).decode()
    said.setdefault("bh", hashed)
    parts = [f"{tag}={value}" for tag, value in said.items() if value is not None]
    if first:
        parts.insert(0, first)
    own = b" " + "; ".join(parts).encode("utf-8", "surrogateescape") + b"; b="
    lines = [[field, text + b"\r\n"] for field, text in header]
    wanted = [word.strip().lower().encode() for word in h.split(":")]
    chosen = dkim.select_headers(policy.canonicalize_headers(lines), wanted)
    last = policy.canonicalize_headers([[name, own + tail + b"\r\n"]])[0]
    chosen.append((last[0], last[1].removesuffix(b"\r\n")))
    data = b"".join(a + b":" + b for a, b in chosen)
    b = base64.b64encode(key.sign(digest, data))
    folded = b"\r\n\t".join(b[i : i + 70] for i in range(0, len(b), 70))
    return name, own + folded + tail


def verify(
    header: Sequence[tuple[bytes, bytes]],
    body: bytes = BODY,
    dns: Mapping[str, Any] | None = None,
    *,
    at: float = AT,
    settings: Dkim | None = None,
    lookups: Lookups | None = None,
    chunk: int = 65535,
) -> Outcome:
    """What the verifier says. Values may fold with CRLF; the MTA's LF is made of it."""
    settings = settings or Dkim()
    lookups = lookups or Lookups(settings, {NAME: RSA.record} if dns is None else dns)
    message = Verifier(settings, lookups).begin(at)
    for name, value in header:
        message.header(name, value.replace(b"\r\n", b"\n"))
    message.end_of_headers()
    for start in range(0, len(body), chunk):
        message.body(body[start : start + chunk])
    return message.finish()


def split(raw: bytes) -> tuple[Header, bytes]:
    """A saved message as the MTA would hand it over: bare LF made CRLF, header and body."""
    raw = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if raw.startswith(b"From "):
        raw = raw.partition(b"\r\n")[2]
    head, _, body = (b"", b"", raw[2:]) if raw[:2] == b"\r\n" else raw.partition(b"\r\n\r\n")
    fields = [field.partition(b":") for field in re.split(rb"\r\n(?![ \t])", head)]
    return [(name, value) for name, colon, value in fields if colon], body


def join(header: Sequence[tuple[bytes, bytes]], body: bytes) -> bytes:
    """A message as bytes on the wire."""
    return b"".join(n + b":" + v + b"\r\n" for n, v in header) + b"\r\n" + body
