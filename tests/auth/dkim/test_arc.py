"""ARC chains: made by dkimpy, changed on the way, and hostile ones."""

import base64
import tracemalloc

import dkim
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkimkit import (
    AT,
    BODY,
    HEADER,
    RSA,
    Header,
    Rsa,
    der,
    integer,
    join,
    rsa,
    split,
    verify,
)
from gatepost_policy.config.settings import Dkim
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


def test_a_chain_that_had_failed_has_ended() -> None:
    header = sealed(1)
    verdict: Header = [(b"Authentication-Results", b" hop1.example; arc=fail")]
    fields = dkim.arc_sign(
        join(verdict + header, BODY), b"a", b"hop1.example", pem(RSA), b"hop1.example",
        include_headers=[b"from"], timestamp=int(AT),
    )  # fmt: skip
    made = [field.partition(b":") for field in fields]
    newest = [(name, value.removesuffix(b"\r\n")) for name, _, value in made]
    assert arc([*newest, *header]) == Arc("none", "chain-failed-before")


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
    got = arc(CHAIN, settings=Dkim.model_validate(settings))
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
