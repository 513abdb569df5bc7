"""Mail with a signature of stranger.example, and a DNS that has its key."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import dkim
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from dns_server import DnsServer


def new_key() -> rsa.RSAPrivateKey:
    """A key to sign with."""
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def pem(key: rsa.RSAPrivateKey) -> bytes:
    """The key as OpenDKIM and dkimpy read it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )  # fmt: skip


def record(key: rsa.RSAPrivateKey) -> str:
    """What stands in DNS (RFC 6376 3.6.1)."""
    der = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"v=DKIM1; k=rsa; p={base64.b64encode(der).decode()}"


def signed(message: bytes, key: rsa.RSAPrivateKey) -> bytes:
    """`message` with a signature of stranger.example."""
    name = b"stranger.example"
    relaxed = (b"relaxed", b"relaxed")
    return bytes(dkim.sign(message, b"s", name, pem(key), canonicalize=relaxed)) + message


@contextmanager
def nameserver(key: rsa.RSAPrivateKey) -> Iterator[str]:
    """A DNS with the key of stranger.example; its address."""
    server = DnsServer({"s._domainkey.stranger.example": record(key)})
    try:
        yield server.address
    finally:
        server.stop()
