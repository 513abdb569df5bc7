"""The reasons in words, for people: of a decision about a message, and of a signature's result.

Pure. A reason itself is a stable word (`mail.decision`, `mail.dkim_reason`); the sentence for it
may change with a release.
"""

from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.dkim_reason import Why

REASONS: dict[Reason, str] = {
    Reason.NO_BAD_SIGNAL: "nothing known against this message",
    Reason.TRAP: "every recipient is a trap",
    Reason.TRAP_MIXED: "traps and real recipients in one message",
    Reason.SHARED_CLIENT: "a trap hit by a client that also delivers good mail",
    Reason.BACKSCATTER: "a null sender hit a trap: somebody forged the trap's address",
    Reason.FORWARDER: "a rewritten sender (SRS and its kin) hit a trap: not listed",
    Reason.LIST: "a list post hit a trap: the poster does not know who is subscribed",
    Reason.AUTO_REPLY: "a program answered mail that forged the trap as its sender",
    Reason.ANSWER: "somebody answered mail that forged the trap as its sender",
    Reason.OWN_HOST: "a trap hit from an address that is nobody's, or our own: not listed",
    Reason.NOT_VERIFIED: "a trap hit of which nothing could be verified: not listed",
    Reason.REPLAYED: "signed mail that somebody else sent to the trap: the client is to blame",
    Reason.ONE_WITNESS: "signed mail in a trap, and nothing else says who sent it: not yet",
    Reason.GOOD_SENDER: "a trap hit by a domain whose other mail here is good: not listed",
    Reason.NEVER_LIST: "a trap hit by one of never_list or an own domain: not listed",
    Reason.LISTED: "the client prefix or a proven d= is being punished",
    Reason.OPEN_RECIPIENT: "listed, but postmaster@ and abuse@ are always open",
    Reason.REPEAT_SENDER: "came back over months and hit a trap on the way",
    Reason.TRUSTED_RELAY: "from a backup MX or a content filter",
    Reason.UNSCANNED: "over a header limit: accepted without a look",
    Reason.TOO_LARGE: "over a limit and configured to refuse",
    Reason.SCRUBBED: "a submission, scrubbed",
    Reason.RELAYED: "a submission that carries foreign mail: only our own hop was scrubbed",
    Reason.LOCAL: "sendmail(1) mail left as it is",
    Reason.OWN_USER_TRAP: "one of ours mailed a trap: the account may be stolen",
    Reason.UNVERIFIED_MTA: "own Received cannot be replaced safely: 451",
    Reason.SCRUB_IMPOSSIBLE: "a submission that cannot be scrubbed: 554",
    Reason.SECOND_PASS: "handed back by a content filter or list manager of ours",
    Reason.MTA_REFUSED: "the MTA itself had refused it; no rule of ours was asked",
    Reason.INTERNAL_ERROR: "a bug or a broken environment; the stance decided",
}

WHY: dict[Why, str] = {
    Why.BODY_HASH: "the body was changed after signing",
    Why.BAD_SIGNATURE: "a signed header field was changed, or the key is another's",
    Why.SYNTAX: "no tag list: empty, no `=`, a tag twice, a tag missing",
    Why.TOO_LONG: "over dkim.max_signature_bytes",
    Why.VERSION: "v= missing or not 1",
    Why.ALGORITHM: "a= is none of rsa-sha256, ed25519-sha256, rsa-sha1",
    Why.CANONICALIZATION: "c= is nonsense",
    Why.QUERY: "q= does not offer dns/txt",
    Why.DOMAIN: "d= is no domain name",
    Why.SELECTOR: "s= is no selector",
    Why.PUBLIC_SUFFIX: "d=co.uk names nobody",
    Why.IDENTITY: "i= is not under d=",
    Why.FROM_UNSIGNED: "h= leaves From out",
    Why.FIELDS: "h= names more than dkim.max_signed_fields",
    Why.BASE64: "b= or bh= is no base64",
    Why.LENGTH: "l= is no number of at most 76 digits",
    Why.BODY_SHORT: "l= is more than the body has",
    Why.TIMESTAMP: "t= or x= is no number of at most 12 digits, or x= is before t=",
    Why.FUTURE: "t= is later than now and dkim.clock_ahead",
    Why.EXPIRED: "x= and dkim.clock_skew are over",
    Why.NO_KEY: "the name does not exist",
    Why.NO_TXT: "the name exists, without a TXT record",
    Why.KEY_SYNTAX: "the record is no tag list, or has no p=",
    Why.KEY_TOO_LONG: "over dkim.max_record_bytes",
    Why.KEY_VERSION: "the record is of another version than DKIM1",
    Why.KEY_REVOKED: "p= is empty",
    Why.KEY_TYPE: "k= does not fit a=",
    Why.KEY_HASH: "h= of the key forbids this hash",
    Why.KEY_SERVICE: "s= of the key is not for mail",
    Why.KEY_STRICT: "t=s, and i= is a subdomain of d=",
    Why.KEY_INVALID: "p= holds no usable public key",
    Why.KEY_TOO_LARGE: "modulus or exponent over dkim.max_key_bits, max_exponent_bits",
    Why.SEVERAL_KEYS: "several records, none of which fits a=",
    Why.DNS_TIMEOUT: "nobody answered within the budget",
    Why.DNS_SERVFAIL: "the resolver answered with an error",
    Why.DNS_TRUNCATED: "the answer did not fit and could not be had whole",
    Why.DNS_BUSY: "too many look-ups at once",
    Why.DNS_LOOP: "the name points at itself",
    Why.DNS_UNUSABLE: "an answer that cannot be read",
    Why.KEY_UNAVAILABLE: "Exim got no key: missing or no answer, it does not say",
    Why.WEAK_HASH: "rsa-sha1",
    Why.WEAK_KEY: "RSA under dkim.min_key_bits",
    Why.PARTIAL: "pass, but l= leaves part of the body unsigned",
    Why.TESTING: "pass, but the key says t=y: the same as no signature",
    Why.SKIPPED: "over dkim.max_signatures: not verified",
    Why.INTERNAL: "a bug: this signature was left unverified",
    Why.NOT_BELIEVED: "said over an inet socket, where anybody may say so",
    Why.UNSPECIFIED: "the MTA refused the signature without a reason that we know",
}


def reason(word: str) -> str:
    """What a reason of the store means; '' for one of another release."""
    return next((text for key, text in REASONS.items() if key.value == word), "")


def signature(word: str | None) -> str:
    """Why a signature is no plain pass; '' where there is nothing to say."""
    return next((text for key, text in WHY.items() if key.value == word), "")
