"""Authentication-Results: what we write reads back as meant, what strangers wrote is found."""

import pytest
from authres import FeatureContext
from authres.arc import ARCAuthenticationResult
from authres.core import AuthenticationResultsHeader
from authres.dkim_b import DKIMAuthenticationResult

from gatepost_policy.dkim.authresults import MAX_RESULTS, forged, value
from gatepost_policy.dkim.reasons import RESULT, Why
from gatepost_policy.mail.facts import Arc, Signature

MX = "mx.example.net"
SOUND = Signature(
    domain="example.org",
    selector="s1",
    algorithm="rsa-sha256",
    crypto="pass",
    result="pass",
    b_prefix="ab/=cd+e",
)


def read(text: str) -> AuthenticationResultsHeader:
    """The field as another program's parser sees it: unfolded first (RFC 5322 2.2.3)."""
    assert text.startswith(" ") and "\r" not in text
    assert all(line[:1] in " \t" for line in text.split("\n"))
    assert max(map(len, text.split("\n"))) < 998
    features = FeatureContext()
    features.result_class_by_auth_method["dkim"] = DKIMAuthenticationResult
    features.result_class_by_auth_method["arc"] = ARCAuthenticationResult
    return AuthenticationResultsHeader.parse_value(features, text.replace("\n", "").strip())


def test_one_result_for_each_signature() -> None:
    skipped = Signature(result="neutral", reason=Why.SKIPPED, flags=("skipped",))
    got = read(value(MX, [SOUND, skipped], Arc("fail", "malformed")))
    assert got.authserv_id == MX
    first, second, third = got.results
    assert (first.method, first.result, first.reason) == ("dkim", "pass", None)
    assert (first.header_d, first.header_s, first.header_a) == ("example.org", "s1", "rsa-sha256")
    assert first.header_b == "ab/=cd+e"
    assert (second.result, second.reason, second.properties) == ("neutral", "skipped", [])
    assert (third.method, third.result, third.reason) == ("arc", "fail", "malformed")


@pytest.mark.parametrize("why", list(Why))
def test_every_reason_can_be_written(why: Why) -> None:
    signature = Signature(domain="a.example", selector="x", result=RESULT[why], reason=why)
    result = read(value(MX, [signature], None)).results[0]
    assert (result.result, result.reason) == (RESULT[why], why.value)
    assert result.result in ("pass", "fail", "policy", "neutral", "temperror", "permerror")


def test_unsigned_mail_says_so() -> None:
    got = read(value(MX, [], None))
    assert [(r.method, r.result) for r in got.results] == [("dkim", "none")]
    assert "arc" not in value(MX, [], Arc("none"))


def test_two_signatures_of_one_domain_are_told_apart() -> None:
    other = Signature(domain="example.org", selector="s1", result="fail", b_prefix="ZZZZZZZZ")
    got = read(value(MX, [SOUND, other], None)).results
    assert [r.header_b for r in got] == ["ab/=cd+e", "ZZZZZZZZ"]


def test_the_field_is_bounded() -> None:
    assert len(read(value(MX, [SOUND] * 5000, None)).results) == MAX_RESULTS


OURS = [
    b" mx.example.net; dkim=pass",
    b"mx.example.net;dkim=pass",
    b" MX.Example.NET 1; none",
    b"\n\tmx.example.net\n\t; dkim=pass",
    b" mx.example.net(.evil); dkim=pass",
    b" (a comment) mx.example.net; dkim=pass",
    b" (a (nested \\) one) here)\r\n (two) mx.example.net; dkim=pass",
    b' "mx.example.net"; dkim=pass',
    b' "mx.ex\\ample.net" ; dkim=pass',
    b" mx.example.net/1; dkim=pass",
    b" mx.example.net",
    b" mx.example.net.; dkim=pass",
    b" \x00mx.example.net; dkim=pass",
    b" (never closed mx.example.net; dkim=pass",
    b' "mx.example.net; dkim=pass',
]
THEIRS = [
    b" mx.example.net.evil; dkim=pass",
    b" evil.mx.example.net; dkim=pass",
    b" xmx.example.net; dkim=pass",
    b" mx.example.com; dkim=pass header.d=mx.example.net",
    b" other (mx.example.net); dkim=pass",
    b' "other mx.example.net"; x',
    b"",
    b" ;",
    b" (mx.example.net)",
    b" (((((",
    b" \xff\xfe; x",
]


@pytest.mark.parametrize("text", OURS)
def test_ours(text: bytes) -> None:
    assert forged([text], MX) == (1,)


@pytest.mark.parametrize("text", THEIRS)
def test_not_ours(text: bytes) -> None:
    # An open quote or comment that names us is ours; these do not.
    assert forged([text], MX) == ()


def test_all_of_ours_and_only_ours() -> None:
    mixed = [THEIRS[0], OURS[0], OURS[4], THEIRS[3], OURS[7], OURS[2]]
    assert forged(mixed, MX) == (2, 3, 5, 6)
    assert forged(mixed, "MX.EXAMPLE.NET") == (2, 3, 5, 6)


def test_u_label_and_a_label_are_one_name() -> None:
    texts = ["b\u00fccher.example; x".encode(), b"xn--bcher-kva.example; x"]
    assert forged(texts, "b\u00fccher.example") == (1, 2)


def test_a_huge_comment_is_not_read_to_its_end() -> None:
    huge = b"(" * 500_000 + b")" * 500_000
    assert forged([huge + b" mx.example.net; x", huge + b" other; x"], MX) == (1,)


def test_what_we_write_is_found_again() -> None:
    for name in (MX, "a b", "host"):
        assert forged([value(name, [SOUND], None).encode()], name) == (1,)
