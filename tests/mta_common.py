"""What the throw-away Postfix and Exim share: names, waiting, a certificate."""

import datetime
import socket

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "mx.local.test"
LOGIN, PASSWORD = "alice.login@local.test", "secret"
START_TIMEOUT = 60
DELIVERY_TIMEOUT = 60


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True where a server greets on the port."""
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.settimeout(10)
            return sock.recv(3) == b"220"
    except OSError:
        return False


def certificate() -> bytes:
    """A fresh self-signed certificate with its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + signed.public_bytes(serialization.Encoding.PEM)
