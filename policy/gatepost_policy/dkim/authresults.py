"""Write our Authentication-Results field, and find the forged ones that carry our name (RFC 8601).

Pure. authres makes each result clause; the clauses of the same key are alike but for `header.b`, so
they are cached (to build one takes 20 us, a thirtieth of a small message's time).

Limits: one field has at most `MAX_RESULTS` results and is no longer than OpenDMARC reads: it
ignores a longer one whole, for example one with ten full results. So a pass of the author's domain
stands first, signatures that were not checked are left out, and what does not fit is only in the
store.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from authres.arc import ARCAuthenticationResult
from authres.core import AuthenticationResultProperty, DKIMAuthenticationResult

from gatepost_policy.dkim.claimed_name import claims
from gatepost_policy.dkim.reasons import Why
from gatepost_policy.mail.address import is_within
from gatepost_policy.mail.facts import Arc, Dmarc, Signature, Spf

MAX_RESULTS = 15  # OpenDMARC 1.4 has room for 16, and writes beyond it
MAX_OCTETS = 960  # of a field, counted as OpenDMARC stores its tokens in a buffer of 1026 octets
UNVERIFIED = "none"  # RFC 8601 2.2: nothing was looked at
# RFC 2045 5.1: what may stand in a value without quotes.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
# A name that the client gave (HELO, MAIL FROM) is written only where it is a plain domain: in a
# quoted string the client could hide a result of its own, and a reader that knows no escapes
# (Mail::AuthenticationResults) would believe it.
_DOMAIN = re.compile(r"[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*")
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_SKIPPED = Why.SKIPPED


def value(
    authserv_id: str,
    signatures: Sequence[Signature],
    arc: Arc | None,
    author: str = "",
    spf: Spf | None = None,
    dmarc: Dmarc | None = None,
    bounce: bool = False,
) -> str:
    """The field's value with its leading space, folded with LF and a tab, one result on each line.

    `author` is the domain of From: a DKIM pass that is aligned with it comes first. Where DMARC
    passed by SPF alone, the results of SPF come first. `bounce`: MAIL FROM was empty, so only the
    HELO name was checked (RFC 7208 2.4).
    """
    seen = [s for s in signatures if s.reason is not _SKIPPED] or signatures
    if len(seen) > 1:
        seen = sorted(seen, key=lambda s: _rank(s, author))  # stable: else as in the header
    senders = [] if spf is None else _senders(spf, bounce)
    others: list[str] = []
    if dmarc is not None:
        others.append(_dmarc(dmarc.result, dmarc.domain, dmarc.policy, dmarc.reason))
    if arc is not None and arc.cv != "none":
        others.append(_arc(arc.cv, arc.reason))
    room = MAX_OCTETS - _octets(_quoted(authserv_id)) - sum(map(_octets, senders + others))
    shown: list[str] = []
    for signature in seen[: MAX_RESULTS - len(senders) - len(others)]:
        clause = _clause(signature)
        room -= _octets(clause)
        if room < 0 and shown:
            break
        shown.append(clause)
    shown = shown or ["dkim=none"]
    if dmarc is not None and dmarc.aligned == ("spf",):
        return _joined(authserv_id, [*senders, *shown, *others])
    return _joined(authserv_id, [*shown, *senders, *others])


def _senders(spf: Spf, bounce: bool) -> list[str]:
    """The results of SPF. That of HELO is left out where its result is `none`, and where MAIL FROM
    passed: a reader may use the last SPF result it finds for the whole message.
    """
    helo = _spf("helo", spf.helo.result, spf.helo.domain, spf.helo.reason)
    if bounce:
        return [helo]
    found = spf.mail_from
    sender = _spf("mailfrom", found.result, found.domain, found.reason)
    return [sender] if found.result == "pass" or spf.helo.result == "none" else [helo, sender]


@lru_cache(maxsize=4096)
def _spf(name: str, result: str, domain: str | None, reason: str | None) -> str:
    # RFC 8601 2.7.2
    why = "" if reason is None else f" reason={_quoted(reason)}"
    of = f" smtp.{name}={domain}" if domain and _DOMAIN.fullmatch(domain) else ""
    return f"spf={result}{why}{of}"


@lru_cache(maxsize=4096)
def _dmarc(result: str, domain: str, policy: str | None, reason: str | None) -> str:
    # RFC 9989 9.1 registers both properties.
    why = "" if reason is None else f" reason={_quoted(reason)}"
    asked = "" if policy is None else f" policy.dmarc={policy}"
    of = f" header.from={domain}" if _DOMAIN.fullmatch(domain or "") else ""
    return f"dmarc={result}{why}{asked}{of}"


def unverified(authserv_id: str) -> str:
    """The value of a field that says that we verified nothing (RFC 8601 2.2, `none`)."""
    return _joined(authserv_id, [UNVERIFIED])


def _joined(authserv_id: str, lines: Sequence[str]) -> str:
    return f" {_quoted(authserv_id)};\n\t" + ";\n\t".join(lines)


def _rank(signature: Signature, author: str) -> int:
    if signature.result != "pass":
        return 2
    domain = signature.domain or ""
    return 0 if author and (is_within(author, domain) or is_within(domain, author)) else 1


@lru_cache(maxsize=8192)
def _octets(text: str) -> int:
    """The most octets that `text` takes in OpenDMARC's buffer: it ends every token with one
    more.
    """
    return len(text) + 2 * sum(map(text.count, ".=;")) + 2


def _clause(signature: Signature) -> str:
    text = _dkim(
        signature.result,
        signature.reason,
        signature.domain,
        signature.selector,
        signature.algorithm,
    )
    # RFC 6008: header.b tells two signatures of one domain apart.
    return f"{text} header.b={_quoted(signature.b_prefix)}" if signature.b_prefix else text


@lru_cache(maxsize=4096)
def _dkim(
    result: str, reason: str | None, domain: str | None, selector: str | None, algorithm: str | None
) -> str:
    properties = [
        AuthenticationResultProperty("header", name, text)
        for name, text in (("d", domain), ("s", selector), ("a", algorithm))
        if text is not None
    ]
    return str(
        DKIMAuthenticationResult(
            result=result, reason=None if reason is None else str(reason), properties=properties
        )
    )


@lru_cache(maxsize=64)
def _arc(cv: str, reason: str | None) -> str:
    # RFC 8617 7.1
    return str(ARCAuthenticationResult(result=cv, reason=None if reason is None else str(reason)))


def _quoted(text: str) -> str:
    if _TOKEN.fullmatch(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def forged(values: Sequence[bytes], authserv_id: str) -> tuple[int, ...]:
    """Which of these Authentication-Results values claim our name: 1-based, top to bottom.

    RFC 8601 5: they came from outside, so they must not be read as ours.
    """
    return tuple(i for i, text in enumerate(values, 1) if claims(text, authserv_id))
