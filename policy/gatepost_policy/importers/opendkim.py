"""Read signatures from OpenDKIM's log lines about one message. Pure.

`s=sel d=example.com SSL error` and then `DKIM verification successful` or `bad signature data`;
`key retrieval failed (s=sel, d=example.com): ...`; with LogResults
`signature=b domain=example.com selector=sel result="no signature error"`.
"""

import re
from dataclasses import dataclass, field, replace

from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.dkim_reason import RESULT, Why
from gatepost_policy.mail.facts import Signature

_NAMED = re.compile(r"s=(\S+) d=(\S+)(?: a=(\S+))? SSL ?(.*)", re.S)
_KEY = re.compile(r"key retrieval failed \(s=(\S+), d=(\S+?)\)(?:: (.*))?", re.S)
_RESULT = re.compile(r'signature=\S* domain=(\S+) selector=(\S+) result="([^"]*)"')


@dataclass(slots=True)
class Signatures:
    """The signatures of one message, in the order in which the log names them."""

    found: list[Signature] = field(default_factory=list)

    def read(self, text: str) -> bool:
        """Read one line of the message; False where it is not about a signature."""
        if match := _NAMED.match(text):
            selector, domain, algorithm, error = match.groups()
            self._set(domain, selector, algorithm, None if error.strip() == "" else False, None)
        elif match := _RESULT.match(text):
            domain, selector, words = match.groups()
            good = words == "no signature error"
            self._set(domain, selector, None, good, None if good else _why(words))
        elif match := _KEY.match(text):
            selector, domain, words = match.groups()
            self._set(domain, selector, None, False, _key(words or ""))
        elif text.startswith("DKIM verification successful"):
            self._last(True)
        elif text.startswith("bad signature data"):
            self._last(False)
        else:
            return False
        return True

    def _set(
        self, domain: str, selector: str, algorithm: str | None, good: bool | None, why: Why | None
    ) -> None:
        name = canonical_domain(domain)
        for place, known in enumerate(self.found):
            if (known.domain, known.selector) == (name, selector):
                if good is not None:
                    self.found[place] = _judged(known, good, why)
                return
        fresh = Signature(domain=name, selector=selector, algorithm=algorithm, result="neutral")
        self.found.append(fresh if good is None else _judged(fresh, good, why))

    def _last(self, good: bool) -> None:
        if not self.found:
            self.found.append(Signature())
        # A line about this signature itself counts more than the result for the whole message.
        if self.found[-1].result in ("neutral", "none"):
            self.found[-1] = _judged(self.found[-1], good, None)


def _judged(signature: Signature, good: bool, why: Why | None) -> Signature:
    if good:
        return replace(signature, crypto="pass", result="pass", reason=None)
    word = why or Why.BAD_SIGNATURE
    result = RESULT[word]
    return replace(
        signature, crypto="fail" if result == "fail" else None, result=result, reason=word
    )


def _why(words: str) -> Why:
    low = words.lower()
    for text, why in (
        ("body hash", Why.BODY_HASH),
        ("key revoked", Why.KEY_REVOKED),
        ("no key", Why.NO_KEY),
        ("key not found", Why.NO_KEY),
        ("key retrieval", Why.DNS_SERVFAIL),
        ("key lookup", Why.DNS_SERVFAIL),
        ("key fail", Why.DNS_SERVFAIL),
        ("expired", Why.EXPIRED),
        ("future", Why.FUTURE),
        ("key too small", Why.WEAK_KEY),
        ("key size", Why.WEAK_KEY),
        ("version", Why.VERSION),
        ("algorithm", Why.ALGORITHM),
        ("canonicalization", Why.CANONICALIZATION),
        ("syntax", Why.SYNTAX),
        ("missing", Why.SYNTAX),
    ):
        if text in low:
            return why
    return Why.BAD_SIGNATURE


def _key(words: str) -> Why:
    low = words.lower()
    if "not found" in low or "nxdomain" in low or "no key" in low:
        return Why.NO_KEY
    return Why.DNS_TIMEOUT if "time" in low else Why.DNS_SERVFAIL
