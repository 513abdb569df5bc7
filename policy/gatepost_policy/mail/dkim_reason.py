"""Why a signature got its result: one stable word each, for the store, the log and reason=. Pure.

The comment beside a word is its meaning to an operator. `RESULT` says which of RFC 8601 2.7.1's
results goes with it: fail (the mail or the signature is wrong), permerror (it can never be
verified), temperror (try again later), policy (verified, but RFC 8301 or we do not accept it),
neutral (not looked at). `read` takes the word of a record or a row that an older gatepost wrote.
"""

from enum import StrEnum


class Why(StrEnum):
    """The reason of a result that is not a plain pass."""

    # The mail is not what was signed
    BODY_HASH = "body-hash-mismatch"  # the body was changed after signing
    BAD_SIGNATURE = "bad-signature"  # a signed header field was changed, or the key is another's
    # The field itself (RFC 6376 6.1.1)
    SYNTAX = "syntax"  # no tag list: empty, no `=`, a tag twice, a tag missing
    TOO_LONG = "signature-too-long"  # over dkim.max_signature_bytes
    VERSION = "version"  # v= missing or not 1
    ALGORITHM = "unknown-algorithm"  # a= is none of rsa-sha256, ed25519-sha256, rsa-sha1
    CANONICALIZATION = "unknown-canonicalization"  # c= is nonsense
    QUERY = "unknown-query"  # q= does not offer dns/txt
    DOMAIN = "bad-domain"  # d= is no domain name
    SELECTOR = "bad-selector"  # s= is no selector
    PUBLIC_SUFFIX = "public-suffix"  # d=co.uk names nobody
    IDENTITY = "bad-identity"  # i= is not under d=
    FROM_UNSIGNED = "from-not-signed"  # h= leaves From out
    FIELDS = "too-many-signed-fields"  # h= names more than dkim.max_signed_fields
    BASE64 = "bad-base64"  # b= or bh= is no base64
    LENGTH = "bad-length"  # l= is no number of at most 76 digits
    BODY_SHORT = "body-too-short"  # l= is more than the body has
    TIMESTAMP = "bad-timestamp"  # t= or x= is no number of at most 12 digits, or x= is before t=
    FUTURE = "future-timestamp"  # t= is later than now and dkim.clock_ahead
    EXPIRED = "expired"  # x= and dkim.clock_skew are over
    # The key (RFC 6376 6.1.2)
    NO_KEY = "no-key"  # the name does not exist
    NO_TXT = "no-key-record"  # the name exists, without a TXT record
    KEY_SYNTAX = "bad-key-record"  # the record is no tag list, or has no p=
    KEY_TOO_LONG = "key-record-too-long"  # over dkim.max_record_bytes
    KEY_VERSION = "key-version"  # the record is of another version than DKIM1
    KEY_REVOKED = "key-revoked"  # p= is empty
    KEY_TYPE = "key-type"  # k= does not fit a=
    KEY_HASH = "key-hash"  # h= of the key forbids this hash
    KEY_SERVICE = "key-service"  # s= of the key is not for mail
    KEY_STRICT = "key-strict"  # t=s, and i= is a subdomain of d=
    KEY_INVALID = "bad-key"  # p= holds no usable public key
    KEY_TOO_LARGE = "key-too-large"  # modulus or exponent over dkim.max_key_bits, max_exponent_bits
    SEVERAL_KEYS = "several-keys"  # several records, none of which fits a=
    # The look-up
    DNS_TIMEOUT = "dns-timeout"  # nobody answered within the budget
    DNS_SERVFAIL = "dns-servfail"  # the resolver answered with an error
    DNS_TRUNCATED = "dns-truncated"  # the answer did not fit and could not be had whole
    DNS_BUSY = "dns-busy"  # too many look-ups at once
    DNS_LOOP = "dns-cname-loop"  # the name points at itself
    DNS_UNUSABLE = "dns-unusable"  # an answer that cannot be read
    KEY_UNAVAILABLE = "key-unavailable"  # Exim got no key: missing or no answer, it does not say
    # What we do not accept (RFC 8301), and what is said beside a pass
    WEAK_HASH = "weak-hash"  # rsa-sha1
    WEAK_KEY = "weak-key"  # RSA under dkim.min_key_bits
    PARTIAL = "partial"  # pass, but l= leaves part of the body unsigned
    TESTING = "testing-key"  # pass, but the key says t=y: the same as no signature
    SKIPPED = "skipped"  # over dkim.max_signatures: not verified
    INTERNAL = "internal-error"  # a bug: this signature was left unverified
    NOT_BELIEVED = "not-believed"  # said over an inet socket, where anybody may say so
    UNSPECIFIED = "unspecified"  # the MTA refused the signature without a reason that we know


FAIL = frozenset({Why.BODY_HASH, Why.BAD_SIGNATURE})
POLICY = frozenset({Why.WEAK_HASH, Why.WEAK_KEY, Why.PUBLIC_SUFFIX})
TEMPERROR = frozenset(
    {Why.DNS_TIMEOUT, Why.DNS_SERVFAIL, Why.DNS_TRUNCATED, Why.DNS_BUSY, Why.KEY_UNAVAILABLE}
)
PASS = frozenset({Why.PARTIAL, Why.TESTING})
NEUTRAL = frozenset({Why.SKIPPED, Why.INTERNAL, Why.NOT_BELIEVED})


def _result(why: Why) -> str:
    for words, result in (
        (FAIL, "fail"),
        (POLICY, "policy"),
        (TEMPERROR, "temperror"),
        (PASS, "pass"),
        (NEUTRAL, "neutral"),
    ):
        if why in words:
            return result
    return "permerror"


RESULT: dict[Why, str] = {why: _result(why) for why in Why}

# What the policy service called Exim's outcomes before it had the words above.
_FORMER = {
    "body-hash": Why.BODY_HASH,
    "signature": Why.BAD_SIGNATURE,
    "key-syntax": Why.KEY_SYNTAX,
    "unusable": Why.UNSPECIFIED,
}
_WORDS: dict[str, Why] = {**_FORMER, **{why.value: why for why in Why}}


def read(word: str | None) -> Why | None:
    """The reason that `word` stands for, in the words of any release; None for None.

    A word that no release wrote is read as UNSPECIFIED, so that the record itself is not lost.
    """
    return None if word is None else _WORDS.get(word, Why.UNSPECIFIED)
