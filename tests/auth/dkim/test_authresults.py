"""Authentication-Results: what we write reads back as meant, what strangers wrote is found."""

from dataclasses import replace

import pytest
from authres import FeatureContext
from authres.arc import ARCAuthenticationResult
from authres.core import AuthenticationResultsHeader
from authres.dkim_b import DKIMAuthenticationResult
from authres.dmarc import DMARCAuthenticationResult

from gatepost_policy.dkim.authresults import MAX_RESULTS, forged, unverified, value
from gatepost_policy.dkim.reasons import RESULT, Why
from gatepost_policy.mail.facts import Arc, Dmarc, Signature, Spf, SpfCheck

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
    features.result_class_by_auth_method["dmarc"] = DMARCAuthenticationResult
    features.result_class_by_auth_method["arc"] = ARCAuthenticationResult
    return AuthenticationResultsHeader.parse_value(features, text.replace("\n", "").strip())


def test_one_result_for_each_signature() -> None:
    broken = Signature(domain="b.example", result="fail", reason=Why.BAD_SIGNATURE)
    got = read(value(MX, [SOUND, broken], Arc("fail", "malformed")))
    assert got.authserv_id == MX
    first, second, third = got.results
    assert (first.method, first.result, first.reason) == ("dkim", "pass", None)
    assert (first.header_d, first.header_s, first.header_a) == ("example.org", "s1", "rsa-sha256")
    assert first.header_b == "ab/=cd+e"
    assert (second.result, second.reason, second.header_d) == ("fail", "bad-signature", "b.example")
    assert (third.method, third.result, third.reason) == ("arc", "fail", "malformed")


def test_the_pass_of_the_author_stands_first_and_skipped_ones_are_left_out() -> None:
    skipped = Signature(
        domain="s.example", result="neutral", reason=Why.SKIPPED, flags=("skipped",)
    )
    broken = Signature(domain="a.example", result="fail", reason=Why.BAD_SIGNATURE)
    other = Signature(domain="list.example", result="pass")
    author = Signature(domain="bank.example", result="pass")
    signatures = [skipped, broken, other, author, skipped]
    got = read(value(MX, signatures, None, "mail.bank.example")).results
    assert [r.header_d for r in got] == ["bank.example", "list.example", "a.example"]
    got = read(value(MX, signatures, None, "evil-bank.example")).results
    assert [r.header_d for r in got] == ["list.example", "bank.example", "a.example"]
    # Where nothing else is there, it is said that nothing was looked at.
    assert [r.result for r in read(value(MX, [skipped], None)).results] == ["neutral"]


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
    """By what OpenDMARC 1.4 reads: 1024 octets of tokens, 16 results."""
    short = Signature(domain="a.b", result="fail")
    assert len(read(value(MX, [short] * 5000, None)).results) == MAX_RESULTS
    for signatures in ([SOUND] * 5000, [SOUND] * 10):
        text = value(MX, signatures, Arc("fail", "malformed"))
        assert len(text) + 2 * sum(map(text.count, ".=;")) < 1024
        assert [r.method for r in read(text).results][-1] == "arc"
    # One result is told, however long its names are.
    long = Signature(domain=".".join(["x" * 60] * 4), selector="y" * 200, result="pass")
    assert len(read(value(MX, [long, long], None)).results) == 1


def test_nothing_was_verified() -> None:
    assert unverified(MX) == " mx.example.net;\n\tnone"
    assert read(unverified(MX)).results == []


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
    b' "mx".example.net; dkim=pass',
    b" mx .example.net; dkim=pass",
    b" mx.\n example.net; dkim=pass",
    b" m\\x.exam\\ple.net; dkim=pass",
    b" mx).exa)mple.net; dkim=pass",
    b" (\\) mx.example.net; dkim=pass",
    b' "(x" mx.(c)example.net; dkim=pass',
    b" \\(x mx.example.net; dkim=pass",
    b" Authentication-Results: mx.example.net; dkim=pass",
    b" =?utf-8?q?mx=2Eexample=2Enet=3B?= dkim=pass",
    b" =?us-ascii?b?bXguZXhhbXBsZS5uZXQ=?=; dkim=pass",
    "\u200b mx.example.net; dkim=pass".encode(),
    "\uff4dx\u3002example.net; dkim=pass".encode(),
    b" mx.example.net 1 (c) ; dkim=pass",
    b" \\" + b"(" * 5000 + b"mx.example.net; dkim=pass",
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
    b" mx.example.net2; dkim=pass",
    b" mx-example.net; dkim=pass",
    b" (mx.example.net) other.example; dkim=pass",
    b" other.example (by mx.example.net); dkim=pass",
    b" other.example 1 (a (nested \\) one)); dkim=pass header.d=mx.example.net",
    b' "other.example"; dkim=pass reason="mx.example.net"',
    b" ORIGINATING; auth=pass smtp.auth=x@mx.example.net",
    b" =?utf-8?q?other?=; dkim=pass header.d=mx.example.net",
    b" =?x?q?mx?=; =?utf-8?b?!?=",
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
    # No honest server writes so much before its name, so whose name it is need not be known.
    assert forged([huge + b" mx.example.net; x", huge + b" other; x", b" other; x"], MX) == (1, 2)


def test_what_we_write_is_found_again() -> None:
    for name in (MX, "a b", "host"):
        assert forged([value(name, [SOUND], None).encode()], name) == (1,)


SPF = Spf(SpfCheck("pass", "mail.example.org", "mx"), SpfCheck("fail", "mx.example.org", "-all"))
DMARC = Dmarc("pass", "example.org", "example.org", "reject", ("spf",))


def methods(text: str) -> list[tuple[str, str]]:
    return [(r.method, r.result) for r in read(text).results]


def test_spf_and_dmarc_stand_behind_dkim() -> None:
    both = replace(DMARC, aligned=("dkim", "spf"))
    text = value(MX, [SOUND], Arc("pass"), "example.org", spf=SPF, dmarc=both)
    assert methods(text) == [("dkim", "pass"), ("spf", "pass"), ("dmarc", "pass"), ("arc", "pass")]
    _, spf, dmarc, _ = read(text).results
    assert spf.smtp_mailfrom == "mail.example.org"
    assert dmarc.header_from == "example.org"
    assert " policy.dmarc=reject" in text


def test_an_aligned_pass_stands_first_also_where_it_is_spf() -> None:
    other = replace(SOUND, domain="list.example")
    text = value(MX, [other], None, "example.org", spf=SPF, dmarc=DMARC)
    assert methods(text) == [("spf", "pass"), ("dkim", "pass"), ("dmarc", "pass")]


def test_the_helo_is_told_where_the_mail_from_did_not_pass() -> None:
    failed = Spf(SpfCheck("softfail", "example.org", "~all"), SpfCheck("pass", "mx.example.net"))
    assert methods(value(MX, [], None, spf=failed)) == [
        ("dkim", "none"), ("spf", "pass"), ("spf", "softfail"),
    ]  # fmt: skip
    bounce = SpfCheck("temperror", "mx.example.net", None, "dns-timeout")
    text = value(MX, [], None, spf=Spf(bounce, bounce), bounce=True)
    assert "spf=temperror reason=dns-timeout smtp.helo=mx.example.net" in text
    assert "mailfrom" not in text


def test_spf_and_dmarc_have_their_room_among_many_signatures() -> None:
    many = [replace(SOUND, domain=f"d{n}.example") for n in range(60)]
    text = value(MX, many, Arc("pass"), "example.org", spf=SPF, dmarc=DMARC)
    assert len(text) < 1026 and len(read(text).results) <= MAX_RESULTS
    assert {"spf", "dmarc", "arc"} <= {method for method, _ in methods(text)}


def test_what_a_stranger_chose_is_written_where_it_is_a_domain() -> None:
    """A reader without escapes (Mail::AuthenticationResults) ends a string at any quote."""
    for odd in (
        'a"b;c',
        "x;dkim=pass y",
        'a\\"; dkim=pass header.d=bank.example',
        "a (b",
        "[1.2]",
        "",
    ):
        text = value(
            MX, [], None,
            spf=Spf(SpfCheck("none", odd), SpfCheck("none")), dmarc=Dmarc("none", odd),
        )  # fmt: skip
        assert text == " mx.example.net;\n\tdkim=none;\n\tspf=none;\n\tdmarc=none", odd
