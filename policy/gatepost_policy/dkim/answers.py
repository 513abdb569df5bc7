"""The keys that an answer holds: parsed on demand, once for each algorithm, kept with the answer.

Pure. A failure of DNS becomes a reason of DKIM (`Why`) here; the store keeps those, so they never
change.
"""

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim import keys
from gatepost_policy.dkim.reasons import Why
from gatepost_policy.dns import Answer
from gatepost_policy.dns import Why as DnsWhy

MAX_RECORDS = 16  # of one name that are read
_WORDS = {
    DnsWhy.NO_NAME: Why.NO_KEY,
    DnsWhy.NO_RECORD: Why.NO_TXT,
    DnsWhy.TIMEOUT: Why.DNS_TIMEOUT,
    DnsWhy.SERVFAIL: Why.DNS_SERVFAIL,
    DnsWhy.TRUNCATED: Why.DNS_TRUNCATED,
    DnsWhy.BUSY: Why.DNS_BUSY,
    DnsWhy.LOOP: Why.DNS_LOOP,
    DnsWhy.UNUSABLE: Why.DNS_UNUSABLE,
}


def keys_of(answer: Answer, kind: str, settings: Dkim) -> tuple[keys.Key, ...] | Why:
    """The keys at a name that fit `kind` (rsa, ed25519), or why there is none.

    RFC 6376 6.1.2 (4): each usable key is tried. DNS gives records in no fixed order; here they are
    in the order of their text, so that a message gets the same result every time.
    """
    found: tuple[keys.Key, ...] | Why | None = answer.parsed.get(kind)
    if found is None:
        found = answer.parsed[kind] = _find(answer, kind, settings)
    return found


def _find(answer: Answer, kind: str, settings: Dkim) -> tuple[keys.Key, ...] | Why:
    if answer.why is not None:
        return _WORDS[answer.why]
    records = sorted(answer.records)[:MAX_RECORDS]
    parsed = [keys.parse(record, settings) for record in records]
    fit = tuple(key for key in parsed if not isinstance(key, Why) and key.kind == kind)
    if fit:
        return fit
    if len(parsed) > 1:
        return Why.SEVERAL_KEYS
    return parsed[0] if isinstance(parsed[0], Why) else Why.KEY_TYPE
