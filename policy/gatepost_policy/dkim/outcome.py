"""What is said about a message in the end: one `Signature` for each field, in RFC 8601's words.

Pure. `recorded` turns a claim, a reason and what the arithmetic said into the record that the
store keeps; `refusal` says why a key may not be used for a claim.
"""

from dataclasses import field
from hashlib import blake2b
from typing import Any

from gatepost_policy.dkim.keys import Key
from gatepost_policy.dkim.reasons import RESULT, Why
from gatepost_policy.dkim.signature import MAX_STORED, Claim
from gatepost_policy.mail.facts import Arc, Signature
from gatepost_policy.mail.message_dataclass import dataclass

# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_SKIPPED = Why.SKIPPED


@dataclass(frozen=True, slots=True)
class Outcome:
    """All signatures in header order, the ARC chain (None: there is none, or `dkim.arc` is off),
    and the DNS answers that were used, by name.
    """

    signatures: tuple[Signature, ...] = ()
    arc: Arc | None = None
    dns: dict[str, Any] = field(default_factory=dict)


def refusal(claim: Claim, key: Key) -> Why | None:
    """Why this key may not be used for this signature (RFC 6376 3.6.1, 6.1.2)."""
    if not key.service:
        return Why.KEY_SERVICE
    if key.hashes is not None and claim.hash not in key.hashes:
        return Why.KEY_HASH
    if key.strict and not claim.identity_at_domain:
        return Why.KEY_STRICT
    return None


def recorded(
    claim: Claim,
    why: Why | None,
    *,
    key: Key | None = None,
    crypto: str | None = None,
    size: int | None = None,
    signed_to: tuple[str, ...] | None = None,
) -> Signature:
    """The record of one signature; `why` is None where it passed. `crypto` is pass or fail, or None
    where the arithmetic was not done.

    `size` is how many octets the canonical body has, `signed_to` whom its To and Cc name.
    """
    flags: list[str] = []
    unsigned = None
    if claim.expired and why is not _SKIPPED and claim.fault is None:
        # RFC 6376 6.1.1: what the field itself says comes before what its key or the body says.
        why = Why.EXPIRED
    if claim.limit is not None and size is not None:
        unsigned = max(size - claim.limit, 0)
    if key is not None and key.testing:
        flags.append("testing-key")
    if claim.algorithm == "rsa-sha1":
        flags.append("weak-hash")
    if key is not None and key.kind == "rsa" and key.bits < 1024:
        flags.append("weak-key")
    if claim.expired:
        flags.append("expired")
    if unsigned:
        flags.append("partial")
    if why is _SKIPPED:
        flags.append("skipped")
    if why is None:
        # RFC 6376 3.6.1: t=y is to be treated like no signature; 8.2: octets after the l= limit are
        # not signed.
        why = Why.TESTING if "testing-key" in flags else Why.PARTIAL if unsigned else None
        result = "pass"
    else:
        result = RESULT[why]
    return Signature(
        domain=claim.domain,
        selector=claim.selector,
        algorithm=claim.algorithm,
        canonicalization=claim.canonicalization,
        key_bits=None if key is None else key.bits,
        body_limit=None if claim.limit is None else min(claim.limit, MAX_STORED),
        crypto=crypto,
        result=result,
        reason=why,
        unsigned_bytes=unsigned,
        flags=tuple(flags),
        b_prefix=claim.b_prefix,
        b_hash=blake2b(claim.b, digest_size=8).hexdigest() if claim.b else None,
        signed_to=signed_to,
    )
