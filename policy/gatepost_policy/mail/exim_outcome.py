"""What Exim says became of a DKIM signature, in our words. Pure.

Exim says it in two places: in an ACL (`$dkim_verify_status`, `$dkim_verify_reason`), which passes
it to the policy service, and in its log, which the importer reads. Both go through this one table,
so that a cause has the same word from either source.

Limits: the ACL variables give no reason for an overlong key record, a broken field or another
version (exim: src/dkim.c), while the log does: from the policy service those are `unspecified`.
"""

from dataclasses import dataclass

from gatepost_policy.mail.dkim_reason import FAIL, RESULT, Why


@dataclass(frozen=True, slots=True)
class EximOutcome:
    """`crypto`, `result` and `reason` as in `mail.facts.Signature`."""

    crypto: str | None
    result: str
    reason: Why | None


PASS = EximOutcome("pass", "pass", None)
# Either $dkim_verify_reason or what stands in the log, in lower case. The first that fits is taken.
_WORDS: tuple[tuple[str, Why], ...] = (
    ("bodyhash_mismatch", Why.BODY_HASH),
    ("body hash mismatch", Why.BODY_HASH),
    ("signature_incorrect", Why.BAD_SIGNATURE),
    ("signature did not verify", Why.BAD_SIGNATURE),
    # Exim does not tell "no such key" from "no answer".
    ("pubkey_unavailable", Why.KEY_UNAVAILABLE),
    ("unavailable", Why.KEY_UNAVAILABLE),
    # Its log has one phrase for a record that is no tag list and for a p= that is no key, so the
    # two words of the ACL are one reason here.
    ("pubkey_dns_syntax", Why.KEY_SYNTAX),
    ("pubkey_der_syntax", Why.KEY_SYNTAX),
    ("syntax error in public key", Why.KEY_SYNTAX),
    ("failed key import", Why.KEY_INVALID),
    ("public key record import", Why.KEY_INVALID),
    ("pubkey_too_short", Why.WEAK_KEY),
    ("key too short", Why.WEAK_KEY),
    ("pubkey_too_long", Why.KEY_TOO_LONG),
    ("overlong", Why.KEY_TOO_LONG),
    ("signature_parse_error", Why.SYNTAX),
    ("tag missing or invalid", Why.SYNTAX),
    ("version", Why.VERSION),
    ("hash too weak", Why.WEAK_HASH),
)


def reason(words: str) -> Why | None:
    """The reason that Exim's `words` stand for; None where they are not known."""
    low = words.lower()
    return next((why for text, why in _WORDS if text in low), None)


def refused(status: str, words: str) -> EximOutcome:
    """The outcome of a signature that is `fail` or `invalid` to Exim, because of `words`."""
    why = reason(words) or (Why.BAD_SIGNATURE if status == "fail" else Why.UNSPECIFIED)
    return EximOutcome("fail" if status == "fail" and why in FAIL else None, RESULT[why], why)
