"""The arithmetic of a signature: OpenSSL checks it, not Python.

RSA with 2048 bits takes 19 us here, dkimpy's own `pow` 207 us (during which no other thread runs).
"""

from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA1, SHA256

from gatepost_policy.dkim.blanks import CRLF
from gatepost_policy.dkim.body import HASHES
from gatepost_policy.dkim.keys import Key

_PADDING = PKCS1v15()
_PREHASHED = {"sha256": Prehashed(SHA256()), "sha1": Prehashed(SHA1())}


def proves(key: Key, name: str, signature: bytes, parts: list[bytes]) -> bool:
    """True where `key` verifies `signature` over `parts` joined by CRLF, hashed with `name` (sha256
    or sha1). Never raises on a bad signature.
    """
    digest = HASHES[name](CRLF.join(parts)).digest()
    # Not asked for its class: that is an abstract one, and the question costs as much as the hash.
    public: Any = key.public
    try:
        if key.kind == "rsa":
            public.verify(signature, digest, _PADDING, _PREHASHED[name])
        else:
            public.verify(signature, digest)  # RFC 8463 3: over the hash, not over the text
    except (InvalidSignature, UnsupportedAlgorithm, ValueError):
        return False
    return True
