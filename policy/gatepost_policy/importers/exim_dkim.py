"""DKIM lines of Exim's log, of every release, as signatures. Pure.

`DKIM: d=x s=y c=relaxed/simple a=rsa-sha256 b=2048 i=@x t=1 x=2 l=3 [verification succeeded]`
The words in brackets are the outcome. Tags may be missing, above all of an invalid signature. With
log_selector +dkim the arrival line names the domains whose signatures passed: `DKIM=x`.
"""

import re

from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.exim_outcome import PASS, EximOutcome, reason, refused
from gatepost_policy.mail.facts import Signature

_TAG = re.compile(r"(?:^| )([a-z])=(\S+)")
_OUTCOME = re.compile(r"\[([^\[\]]*)\]\s*\Z")
_FAILED = ("failed", "fail")


def read_dkim(text: str) -> Signature | None:
    """The signature of a `DKIM:` line, None for one that is about something else (signing)."""
    outcome = _OUTCOME.search(text)
    # The signer chooses s= and i=, which may hold blanks (i= is quoted-printable), and so a false
    # tag. d= stands before both: the first of each tag counts. Only l= stands behind them.
    tags: dict[str, str] = {}
    for name, value in _TAG.findall(text[5 : outcome.start()] if outcome else text[5:]):
        if name == "l" or name not in tags:
            tags[name] = value
    if outcome is None or not ("d" in tags or "s" in tags):
        return None
    found = _outcome(outcome.group(1).lower())
    domain = tags.get("d")
    return Signature(
        domain=None if domain is None else canonical_domain(domain),
        selector=tags.get("s"),
        algorithm=tags.get("a"),
        canonicalization=tags.get("c"),
        key_bits=_number(tags.get("b")),
        body_limit=_number(tags.get("l")),
        crypto=found.crypto,
        result=found.result,
        reason=found.reason,
    )


def passed(domains: str, known: list[Signature]) -> list[Signature]:
    """Signatures that passed by an arrival line (`domains`, with commas) and are not in `known`."""
    told = {s.domain for s in known}
    return [
        Signature(domain=domain, crypto="pass", result="pass")
        for name in domains.split(",")
        if (domain := canonical_domain(name)) and domain not in told
    ]


def _outcome(words: str) -> EximOutcome:
    """The outcome that the words in brackets (in lower case) mean."""
    if "succeeded" in words or words in ("verified", "pass", "passed"):
        return PASS
    # "fail - ...": an ACL has set $dkim_verify_status and $dkim_verify_reason.
    if words.startswith(("verification failed", "failed -", "fail -")) or words in _FAILED:
        return refused("fail", words)
    if words.startswith(("invalid", "failed")) or reason(words) is not None:
        return refused("invalid", words)
    return EximOutcome(None, "neutral", None)


def _number(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and text.isascii() and len(text) <= 18 else None
