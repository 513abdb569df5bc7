"""ARC chains: made by dkimpy, changed on the way, and hostile ones."""

import base64
import tracemalloc
from collections.abc import Mapping
from itertools import permutations

import dkim
import pytest
from dkim.canonicalization import CanonicalizationPolicy
from hypothesis import given
from hypothesis import strategies as st

from dkimkit import (
    AT,
    BODY,
    ED,
    HEADER,
    RSA,
    Ed,
    Header,
    Rsa,
    der,
    integer,
    join,
    rsa,
    signature,
    split,
    verify,
)
from from_table import from_table
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.arc import ArcField
from gatepost_policy.dkim.authresults import value
from gatepost_policy.mail.facts import Arc

KEYS = {f"a._domainkey.hop{i}.example": RSA.record for i in range(60)}


def pem(key: Rsa) -> bytes:
    """The private key as dkimpy reads it (RFC 8017 A.1.2)."""
    p, q = key.primes
    d = pow(key.e, -1, (p - 1) * (q - 1))
    numbers = (0, key.n, key.e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p))
    text = base64.b64encode(der(0x30, b"".join(map(integer, numbers))))
    return b"-----BEGIN RSA PRIVATE KEY-----\n" + text + b"\n-----END RSA PRIVATE KEY-----\n"


def sealed(hops: int, key: Rsa = RSA, header: Header = HEADER, body: bytes = BODY) -> Header:
    """A header that passed through `hops` sealing hosts."""
    header = list(header)
    for hop in range(hops):
        host = f"hop{hop}.example".encode()
        status = b"arc=pass; dkim=pass" if hop else b"dkim=pass header.d=example.org"
        verdict: Header = [(b"Authentication-Results", b" " + host + b"; " + status)]
        fields = dkim.arc_sign(
            join(verdict + header, body), b"a", host, pem(key), host,
            include_headers=[b"from", b"to", b"subject"], timestamp=int(AT) - 60,
        )  # fmt: skip
        assert fields, "dkimpy seals nothing"
        made = [field.partition(b":") for field in fields]
        header = [(name, value.removesuffix(b"\r\n")) for name, _, value in made] + header
    return header


CHAIN = sealed(3)


def changed(where: bytes, old: bytes, new: bytes, which: int = 0) -> Header:
    """CHAIN with `old` replaced in field `where` number `which` from the top."""
    places = [i for i, (name, _) in enumerate(CHAIN) if name == where]
    out = list(CHAIN)
    name, value = out[places[which]]
    assert old in value
    out[places[which]] = (name, value.replace(old, new, 1))
    return out


def without(where: bytes, which: int) -> Header:
    places = [i for i, (name, _) in enumerate(CHAIN) if name == where]
    return [field for i, field in enumerate(CHAIN) if i != places[which]]


def arc(header: Header, body: bytes = BODY, settings: Dkim | None = None) -> Arc | None:
    return verify(header, body, KEYS, settings=settings).arc


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_a_sound_chain_passes(hops: int) -> None:
    outcome = verify(sealed(hops), BODY, KEYS)
    assert outcome.arc == Arc("pass")
    assert set(outcome.dns) == {f"a._domainkey.hop{i}.example" for i in range(hops)}
    assert outcome.signatures == ()


def test_no_arc_fields_no_chain() -> None:
    assert arc(HEADER) is None
    assert arc(CHAIN, settings=Dkim(arc=False)) is None


SEAL, AMS, AAR = b"ARC-Seal", b"ARC-Message-Signature", b"ARC-Authentication-Results"


@pytest.mark.parametrize(
    ("name", "header", "want"),
    [
        ("subject", [(n, v.replace(b"dinner", b"supper")) for n, v in CHAIN], "bad-signature"),
        ("newest AAR", changed(AAR, b"pass", b"fail", 0), "bad-signature"),
        ("oldest AAR", changed(AAR, b"dkim=pass", b"dkim=fail", 2), "bad-signature"),
        ("oldest seal's domain", changed(SEAL, b"hop0", b"hop9", 2), "bad-signature"),
        ("newest set without seal", without(SEAL, 0), "malformed"),
        ("set missing in the middle", without(AMS, 1), "malformed"),
        ("doubled seal", [*CHAIN, CHAIN[0]], "malformed"),
        ("cv=none in the middle", changed(SEAL, b"cv=pass", b"cv=none", 0), "bad-signature"),
        ("unknown key", changed(SEAL, b"s=a", b"s=z", 0), "no-key"),
        ("instance 51", changed(SEAL, b"i=3", b"i=51", 0), "too-many-sets"),
        ("instance 0", changed(AMS, b"i=3", b"i=0", 0), "malformed"),
        ("instance of 5000 digits", changed(AMS, b"i=3", b"i=" + b"3" * 5000, 0), "malformed"),
        ("a tag twice", changed(AMS, b" d=", b" d=x; d=", 0), "malformed"),
        (
            "a seal of 20 kB",
            changed(SEAL, b" d=", b" z=" + b"x " * 10_000 + b"; d=", 0),
            "arc-too-long",
        ),
        ("b= no base64", changed(SEAL, b" b=", b" b=A===", 0), "malformed"),
        ("h= in a seal", changed(SEAL, b" d=", b" h=from; d=", 0), "malformed"),
    ],
)
def test_a_changed_chain_fails(name: str, header: Header, want: str) -> None:
    assert arc(header) == Arc("fail", want), name


def test_a_changed_body_fails_the_newest_set_only() -> None:
    assert arc(CHAIN, BODY + b"More.\r\n") == Arc("fail", "body-hash-mismatch")
    # RFC 8617 5.2, step 4: what an older hop changed is its successor's business.
    footer = BODY + b"-- \r\nThe list\r\n"
    two = sealed(2)
    fields = dkim.arc_sign(
        join([(b"Authentication-Results", b" hop2.example; arc=pass"), *two], footer),
        b"a", b"hop2.example", pem(RSA), b"hop2.example", include_headers=[b"from"],
        timestamp=int(AT),
    )  # fmt: skip
    made = [field.partition(b":") for field in fields]
    newest = [(name, value.removesuffix(b"\r\n")) for name, _, value in made]
    assert arc([*newest, *two], footer) == Arc("pass")


def test_a_chain_that_had_failed_stays_failed() -> None:
    """RFC 8617 5.2, step 2; our own field says so, too."""
    header = sealed(1)
    verdict: Header = [(b"Authentication-Results", b" hop1.example; arc=fail")]
    fields = dkim.arc_sign(
        join(verdict + header, BODY), b"a", b"hop1.example", pem(RSA), b"hop1.example",
        include_headers=[b"from"], timestamp=int(AT),
    )  # fmt: skip
    made = [field.partition(b":") for field in fields]
    newest = [(name, value.removesuffix(b"\r\n")) for name, _, value in made]
    ended = arc([*newest, *header])
    assert ended == Arc("fail", "chain-failed-before")
    assert "arc=fail reason=chain-failed-before" in value("mx.example.net", [], ended)
    # The newest seal is believed before anything else is looked at (and it speaks for itself).
    assert arc([*newest, *header], BODY + b"More.\r\n") == ended


def test_weak_key() -> None:
    weak = rsa(512)
    keys = {name: weak.record for name in KEYS}
    assert verify(sealed(1, weak), BODY, keys).arc == Arc("fail", "weak-key")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [({"error": "timeout"}, "dns-timeout"), ({"error": "servfail"}, "dns-servfail"),
     (None, "no-key"), ("v=DKIM1; p=", "key-revoked"), (RSA.record + "; h=sha1", "key-hash"),
     (RSA.record + "; s=web", "key-service")],
)  # fmt: skip
def test_key_trouble_is_named(answer: object, reason: str) -> None:
    keys = {name: answer for name in KEYS}
    assert verify(sealed(2), BODY, keys).arc == Arc("fail", reason)


def relaxed(name: bytes, text: bytes) -> bytes:
    """A field in dkimpy's relaxed form, without its line end."""
    policy = CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
    ((name, text),) = policy.canonicalize_headers([[name, text + b"\r\n"]])
    return bytes(name + b":" + text.removesuffix(b"\r\n"))


def hop(
    header: Header,
    instance: int,
    *,
    key: Rsa | Ed = RSA,
    cv: str = "",
    c: str | None = "relaxed/relaxed",
    signed_as: str = "relaxed/relaxed",
    i: str = "i=%d",
    ams: Mapping[str, str | None] | None = None,
    seal: Mapping[str, str | None] | None = None,
) -> Header:
    """`header` with one more set on top, by a signer of our own: Ed25519, odd spacing, no c=."""
    host = f"hop{instance - 1}.example"
    own = i % instance
    results = (AAR, f" {own}; {host}; none".encode())
    tags = {"v": None, "c": c, "d": host, "s": "a", **(ams or {})}
    name, text = signature(header, BODY, key, tags=tags, h="from:to:subject", c=signed_as, name=AMS,
                           first=own)  # fmt: skip
    below = [field for field in header if field[0].lower().startswith(b"arc-")]
    # A set is put on top as seal, message signature, results: the order of 5.1.1, upside down.
    order = below[::-1]
    said: dict[str, str | None] = {
        "a": "ed25519-sha256" if isinstance(key, Ed) else "rsa-sha256",
        "cv": cv or ("none" if instance == 1 else "pass"), "d": host, "s": "a", **(seal or {}),
    }  # fmt: skip
    start = f" {own}; " + "; ".join(f"{k}={v}" for k, v in said.items() if v is not None) + "; b="
    covered = [relaxed(*f) for f in (*order, results, (name, text), (SEAL, start.encode()))]
    b = base64.b64encode(key.sign("sha256", b"\r\n".join(covered)))
    return [(SEAL, start.encode() + b), (name, text), results, *header]


def test_the_signer_above_is_right() -> None:
    header = HEADER
    for instance in (1, 2, 3):
        header = hop(header, instance)
        assert arc(header) == Arc("pass")
        cv, results, why = dkim.ARC(join(header, BODY)).verify(
            dnsfunc=lambda name, timeout=5: RSA.record.encode()
        )
        assert cv == b"pass", why


def test_ed25519_is_verified_and_other_algorithms_are_named() -> None:
    keys = {f"a._domainkey.hop{i}.example": ED.record for i in range(3)}
    header = hop(hop(HEADER, 1, key=ED), 2, key=ED)
    assert verify(header, BODY, keys).arc == Arc("pass")
    changed = [(n, v.replace(b"dinner", b"supper")) for n, v in header]
    assert verify(changed, BODY, keys).arc == Arc("fail", "bad-signature")
    for which in ("ams", "seal"):
        for a in ("rsa-sha1", "rsa-sha512", "falcon-sha256"):
            odd = hop(HEADER, 1, **{which: {"a": a}})  # type: ignore[arg-type]
            assert arc(odd) == Arc("fail", "unknown-algorithm"), (which, a)
        loud = hop(HEADER, 1, **{which: {"a": "RSA-SHA256"}})  # type: ignore[arg-type]
        assert arc(loud) == Arc("pass")


@pytest.mark.parametrize("which", ["ams", "seal"])
def test_times_are_named(which: str) -> None:
    now = int(AT)
    for tags, want in (
        ({"t": str(now - 999_999), "x": str(now - 99_999)}, "expired"),
        ({"t": str(now + 99_999)}, "future-timestamp"),
        ({"t": "yesterday"}, "bad-timestamp"),
        ({"t": str(now), "x": str(now + 60)}, None),
    ):
        header = hop(HEADER, 1, **{which: tags})  # type: ignore[arg-type]
        assert arc(header) == (Arc("fail", want) if want else Arc("pass")), tags


@pytest.mark.parametrize(
    "i",
    ["i=%d", "(c) i=%d", "(added (here)) i = (x) %d (\\) y)", "i\r\n\t=\r\n %d", "i=0%d", "I=%d"],
)  # fmt: skip
def test_comments_and_folds_round_i(i: str) -> None:
    """RFC 8617 4.2.1."""
    header = hop(HEADER, 1, i=i)
    assert arc(header) == Arc("pass")
    assert arc(hop(header, 2, i=i)) == Arc("pass")


def test_no_c_in_the_message_signature() -> None:
    """The default is DKIM's, simple/simple; relaxed, which dkimpy signs then, is tried as well."""
    for signed_as in ("simple/simple", "relaxed/relaxed"):
        header = hop(HEADER, 1, c=None, signed_as=signed_as)
        assert arc(header) == Arc("pass"), signed_as
        assert arc(header, BODY + b"More.\r\n") == Arc("fail", "body-hash-mismatch")
    assert arc(hop(HEADER, 1, c="relaxed/loose")) == Arc("fail", "unknown-canonicalization")


def test_what_the_seals_say() -> None:
    assert arc(hop(HEADER, 1, cv="pass")) == Arc("fail", "bad-chain-status")
    assert arc(hop(hop(HEADER, 1), 2, cv="none")) == Arc("fail", "bad-chain-status")
    assert arc(hop(hop(hop(HEADER, 1), 2, cv="fail"), 3)) == Arc("fail", "bad-chain-status")
    assert arc(hop(HEADER, 1, cv="fail")) == Arc("fail", "chain-failed-before")


def test_several_keys_are_tried() -> None:
    others = [rsa(1024, e=17).record, rsa(1024, e=257).record]
    for records in permutations([*others, RSA.record]):
        keys = {"a._domainkey.hop0.example": list(records)}
        assert verify(hop(HEADER, 1), BODY, keys).arc == Arc("pass")


def respaced(header: Header) -> Header:
    """Every AMS with its i= at the start of a folded line, as some sealers write it."""
    return [(n, v.replace(b" i=", b"\r\n\ti = ", 1) if n == AMS else v) for n, v in header]


def test_where_dkimpy_is_wrong() -> None:
    """dkimpy finds its own AMS by the text ` i=1;`, and raises IndexError for any other spacing.

    c=relaxed of the AMS (RFC 8617 4.1.2) makes no difference between the two.
    """
    header = respaced(sealed(1))
    theirs = dkim.ARC(join(header, BODY))
    with pytest.raises(IndexError):
        theirs.verify(dnsfunc=lambda name, timeout=5: RSA.record.encode())
    # The seal covers the AMS in its relaxed form, where `i = 1` is not `i=1`: that one must fail.
    got = arc(header)
    assert got is not None and got.cv == "fail" and got.reason == "bad-signature"
    tabbed = [(n, v.replace(b" i=", b"\t\r\n i=", 1)) for n, v in sealed(1)]
    assert arc(tabbed) == Arc("pass")


def test_times_are_those_of_the_message() -> None:
    """x= and t= are compared with the time of receipt, not with the machine's clock."""
    header = sealed(1)  # a minute before AT
    for at, want in ((AT, "pass"), (AT - 3600, "pass"), (AT - 86_400, "fail")):
        got = verify(header, BODY, KEYS, at=at).arc
        assert got is not None and got.cv == want


@pytest.mark.parametrize(
    ("settings", "reason"),
    [({"arc_max_bytes": 1024}, "arc-too-long"), ({"max_signed_fields": 10}, None),
     ({"min_key_bits": 2048}, "weak-key"), ({"clock_skew": 1}, None)],
)  # fmt: skip
def test_bounds(settings: dict[str, int], reason: str | None) -> None:
    got = arc(CHAIN, settings=from_table(Dkim, settings))
    assert got == (Arc("fail", reason) if reason else Arc("pass"))


def test_too_many_fields() -> None:
    assert arc([*CHAIN * 20, *HEADER]) == Arc("fail", "too-many-sets")


def test_the_body_is_not_kept() -> None:
    header = sealed(1, body=b"x" * 70 + b"\r\n")
    tracemalloc.start()
    try:
        big = verify(header, (b"x" * 76 + b"\r\n") * 60_000, KEYS)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert big.arc == Arc("fail", "body-hash-mismatch")
    assert peak < 4_680_000 + 800_000  # the body as this test made it, and little more


hostile = st.sampled_from(
    [b" i=1", b"; a=rsa-sha256", b"; b=AAAA", b"; bh=AAAA", b"; cv=none", b"; d=hop0.example",
     b"; s=a", b"; h=from", b";;", b"=", b" ", b"\r\n\t", b"; i=2", b"\xff", b"; l=5", b"; t=1",
     b"; c=simple/simple", b"; x=1", b"; c=", b"; l=-1", b" hop0.example; none"]
)  # fmt: skip


@given(
    st.lists(
        st.tuples(st.sampled_from([SEAL, AMS, AAR]), st.lists(hostile, max_size=12).map(b"".join)),
        min_size=1,
        max_size=7,
    )
)
def test_nothing_raises(fields: Header) -> None:
    got = arc([*fields, *HEADER])
    assert got is not None and got.cv in ("fail", "none")


def test_the_same_through_saved_mail() -> None:
    header, body = split(join(CHAIN, BODY))
    assert arc(header, body) == Arc("pass")


@pytest.mark.parametrize("octets", [253, 254])
def test_a_name_that_dns_cannot_have_is_not_asked_for(octets: int) -> None:
    """RFC 1035 2.3.4: 253 octets as text."""
    domain = ".".join("d" * 59 for _ in range(4))
    selector = "s" * (octets - len("._domainkey.") - len(domain))
    found = ArcField(0, b"arc-seal", f" i=1; d={domain}; s={selector}; cv=none".encode())
    name = found.key_name()
    assert (None if name is None else len(name)) == (octets if octets == 253 else None)
