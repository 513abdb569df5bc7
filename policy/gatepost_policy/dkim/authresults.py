"""Write our Authentication-Results field, and find the forged ones that carry our name (RFC 8601).

Pure. authres makes each result clause; the clauses of the same key are alike but for `header.b`,
so they are kept (a build costs 20 us, a thirtieth of a small message).

Limits: one field has at most `MAX_RESULTS` results; signatures beyond are in the store.
"""

import re
from collections.abc import Sequence
from functools import lru_cache

from authres.arc import ARCAuthenticationResult
from authres.core import AuthenticationResultProperty, DKIMAuthenticationResult

from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.facts import Arc, Signature

MAX_RESULTS = 50
MAX_CFWS = 4096  # a longer comment before the name counts as one that never ends
# RFC 2045 5.1: what may stand in a value without quotes.
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_ID = re.compile(rb"[^\x00-\x20()<>@,;:\\\"/\[\]?=\x7f]+")
_COMMENT_MARK = re.compile(rb"[()]|\\.", re.S)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*+)("?)', re.S)
_BLANKS = re.compile(rb"[\x00-\x20\x7f]*")


def value(authserv_id: str, signatures: Sequence[Signature], arc: Arc | None) -> str:
    """The field's value with its leading space, folded with LF and a tab, a result a line."""
    lines = [_clause(s) for s in signatures[:MAX_RESULTS]] or ["dkim=none"]
    if arc is not None and arc.cv != "none":
        lines.append(_arc(arc.cv, arc.reason))
    return f" {_quoted(authserv_id)};\n\t" + ";\n\t".join(lines)


def _clause(signature: Signature) -> str:
    text = _dkim(
        signature.result,
        signature.reason,
        signature.domain,
        signature.selector,
        signature.algorithm,
    )
    # RFC 6008: tells two signatures of one domain apart.
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

    RFC 8601 5: they came from outside, so nobody may read them as ours.
    """
    ours = canonical_domain(authserv_id)
    return tuple(i for i, text in enumerate(values, 1) if _claims(text, ours))


def _claims(text: bytes, ours: str) -> bool:
    at = _skip_cfws(text[:MAX_CFWS])
    quoted = None if at is None else _QUOTED.match(text, at)
    if at is None or (quoted and not quoted[2]):
        # A comment or a string that never ends: a reader may see anything in there.
        return ours.encode() in text.lower()
    if quoted:
        name = re.sub(rb"\\(.)", rb"\1", quoted[1], flags=re.S)
        # A fold inside the quotes is white space of the string, and means nothing.
        name = name.replace(b"\r", b"").replace(b"\n", b"")
    else:
        plain = _ID.match(text, at)
        name = plain[0] if plain else b""
    return canonical_domain(name.decode("utf-8", "surrogateescape")) == ours


def _skip_cfws(text: bytes) -> int | None:
    """Where the first thing that is neither white space nor comment begins (RFC 5322 3.2.2)."""
    at = 0
    while True:
        blanks = _BLANKS.match(text, at)
        at = blanks.end() if blanks else at
        if text[at : at + 1] != b"(":
            return at
        depth = 0
        for mark in _COMMENT_MARK.finditer(text, at):
            depth += (mark[0] == b"(") - (mark[0] == b")")
            if depth == 0:
                at = mark.end()
                break
        else:
            return None
