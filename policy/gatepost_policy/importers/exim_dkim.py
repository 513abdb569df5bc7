"""DKIM lines of Exim's log, of every release, as signatures. Pure.

`DKIM: d=x s=y c=relaxed/simple a=rsa-sha256 b=2048 i=@x t=1 x=2 l=3 [verification succeeded]`
The words in brackets are the outcome; tags may be missing, and of an invalid signature only some
are known. With log_selector +dkim the arrival line names the signers that passed: `DKIM=x`.
"""

import re

from gatepost_policy.dkim.reasons import RESULT, Why
from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.facts import Signature

_TAG = re.compile(r"(?:^| )([a-z])=(\S+)")
_OUTCOME = re.compile(r"\[([^\[\]]*)\]\s*\Z")

# What Exim's words mean (exim: src/dkim.c). The first that fits is taken.
_WORDS: tuple[tuple[str, Why | None], ...] = (
    ("body hash mismatch", Why.BODY_HASH),
    ("syntax error in public key", Why.KEY_SYNTAX),
    ("failed key import", Why.KEY_INVALID),
    ("public key record import", Why.KEY_INVALID),
    ("key too short", Why.WEAK_KEY),
    ("overlong public key", Why.KEY_TOO_LONG),
    ("overlong", Why.KEY_TOO_LONG),
    ("tag missing or invalid", Why.SYNTAX),
    ("unsupported dkim version", Why.VERSION),
    ("version", Why.VERSION),
    ("hash too weak", Why.WEAK_HASH),
    ("signature did not verify", Why.BAD_SIGNATURE),
    ("unspecified", Why.BAD_SIGNATURE),
)


def read_dkim(text: str) -> Signature | None:
    """The signature of a `DKIM:` line, None for one that is about something else (signing)."""
    outcome = _OUTCOME.search(text)
    tags = dict(_TAG.findall(text[5 : outcome.start()] if outcome else text[5:]))
    if outcome is None or not ("d" in tags or "s" in tags):
        return None
    crypto, result, reason = _outcome(outcome.group(1).lower())
    domain = tags.get("d")
    return Signature(
        domain=None if domain is None else canonical_domain(domain),
        selector=tags.get("s"),
        algorithm=tags.get("a"),
        canonicalization=tags.get("c"),
        key_bits=_number(tags.get("b")),
        body_limit=_number(tags.get("l")),
        crypto=crypto,
        result=result,
        reason=reason,
    )


def passed(domains: str, known: list[Signature]) -> list[Signature]:
    """The signers an arrival line names and no DKIM line told of yet."""
    told = {s.domain for s in known}
    return [
        Signature(domain=domain, crypto="pass", result="pass")
        for name in domains.split(",")
        if (domain := canonical_domain(name)) and domain not in told
    ]


def _outcome(words: str) -> tuple[str | None, str, str | None]:
    """(crypto, result, reason) for the words in brackets."""
    if "succeeded" in words or words in ("verified", "pass", "passed"):
        return "pass", "pass", None
    why = next((why for text, why in _WORDS if text in words), None)
    if words.startswith(("verification failed", "failed -")) or words == "failed":
        if why in (Why.BODY_HASH, None) or why is Why.BAD_SIGNATURE:
            return "fail", "fail", str(why or Why.BAD_SIGNATURE)
    if "unavailable" in words:
        # "public key record (currently?) unavailable": Exim itself calls it a temporary error.
        return None, "temperror", "key-unavailable"
    if why is not None:
        return None, RESULT[why], str(why)
    if words.startswith(("invalid", "failed")):
        return None, "permerror", str(Why.SYNTAX)
    return None, "neutral", None


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= 18 else None
