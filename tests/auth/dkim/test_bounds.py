"""How much a hostile signature may cost: numbers, lengths and look-ups are bounded."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkimkit import (
    AT,
    BODY,
    DOMAIN,
    HEADER,
    NAME,
    RSA,
    Rsa,
    public,
    rsa,
    signature,
    verify,
)
from from_table import from_table
from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim import fields
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Lookups

NOW = int(AT)


def test_at_most_so_many_signatures_the_author_first() -> None:
    settings = Dkim(max_signatures=3)
    foreign = [signature(HEADER, BODY, tags={"d": f"list{i}.example"}) for i in range(5)]
    own = signature(HEADER, BODY)
    dns = {NAME: RSA.record} | {f"s1._domainkey.list{i}.example": RSA.record for i in range(5)}
    outcome = verify([*foreign, own, *HEADER], dns=dns, settings=settings)
    got = [(s.domain, s.result, s.reason) for s in outcome.signatures]
    want: list[tuple[str, str, str | None]]
    want = [(f"list{i}.example", "pass", None) for i in range(2)]
    want += [(f"list{i}.example", "neutral", "skipped") for i in range(2, 5)]
    assert got == [*want, (DOMAIN, "pass", None)]
    assert outcome.signatures[3].flags == ("skipped",)


def test_a_thousand_signatures() -> None:
    signed = signature(HEADER, BODY)
    outcome = verify([signed] * 1000 + HEADER, BODY)
    results = [s.result for s in outcome.signatures]
    assert results == ["pass"] * 10 + ["neutral"] * 990


def test_broken_signatures_do_not_use_up_the_places() -> None:
    broken = [(b"DKIM-Signature", b" v=1")] * 50
    outcome = verify([*broken, signature(HEADER, BODY), *HEADER])
    assert [s.result for s in outcome.signatures] == ["permerror"] * 50 + ["pass"]


def test_too_many_names_in_h() -> None:
    many = [(b"X-%d" % i, b" x") for i in range(10_000)]
    h = "from:" + ":".join(f"x-{i}" for i in range(10_000))
    got = verify([signature([], BODY, h=h), *HEADER, *many]).signatures[0]
    assert got.reason == "signature-too-long"
    short = "from:" + ":".join(["a"] * 300)
    got = verify([signature(HEADER, BODY, h=short), *HEADER]).signatures[0]
    assert got.reason == "too-many-signed-fields"


@pytest.mark.parametrize(
    ("setting", "tags", "key", "h", "reason"),
    [
        ({"max_signature_bytes": 1024}, {"z": "x" * 1000}, RSA, "from", "signature-too-long"),
        ({"max_signed_fields": 10}, {}, RSA, "from" + ":a" * 10, "too-many-signed-fields"),
        ({"max_key_bits": 1024}, {}, rsa(2048, size=512), "from", "key-too-large"),
        ({"min_key_bits": 2048}, {}, RSA, "from", "weak-key"),
        ({"max_exponent_bits": 16}, {}, RSA, "from", "key-too-large"),
        ({"max_record_bytes": 512}, {}, rsa(4096, size=512), "from", "key-record-too-long"),
        ({"clock_ahead": 1}, {"t": str(NOW + 60)}, RSA, "from", "future-timestamp"),
        ({"clock_skew": 1}, {"x": str(NOW - 60)}, RSA, "from", "expired"),
    ],
)
def test_each_bound_is_a_setting(
    setting: dict[str, int], tags: dict[str, str], key: Rsa, h: str, reason: str
) -> None:
    signed = [signature(HEADER, BODY, key, tags=tags, h=h), *HEADER]
    dns = {NAME: key.record}
    assert verify(signed, dns=dns).signatures[0].result == "pass"  # under the default
    got = verify(signed, dns=dns, settings=from_table(Dkim, setting)).signatures[0]
    assert got.reason == reason


def test_fields_with_blanks_before_the_colon() -> None:
    """RFC 5322 4.5.8: obsolete, but allowed; dkimpy refuses the whole message."""
    header = [(n + b"  " if n == b"Date" else n, v) for n, v in HEADER]
    assert verify([signature(header, BODY), *header]).signatures[0].result == "pass"


def test_no_header_no_body_no_signature() -> None:
    assert verify([], b"", {}).signatures == ()
    assert verify(HEADER, BODY, {}).signatures == ()
    for c in ("relaxed/relaxed", "simple/simple"):
        assert verify([signature(HEADER, b"", c=c), *HEADER], b"").signatures[0].result == "pass"


def test_body_is_wanted_only_for_a_signature_that_can_be_verified() -> None:
    settings = Dkim()
    for header, wanted in (
        (HEADER, False),
        ([(b"DKIM-Signature", b"v=1"), *HEADER], False),
        ([signature(HEADER, BODY), *HEADER], True),
    ):
        message = Verifier(settings, Lookups(settings, {})).begin(AT)
        for name, value in header:
            message.header(name, value)
        message.end_of_headers()
        assert message.wants_body is wanted


def test_answers_used_are_given_back_and_play_the_same() -> None:
    header = [signature(HEADER, BODY), signature(HEADER, BODY, tags={"s": "gone"}), *HEADER]
    first = verify(header)
    assert first.dns == {NAME: RSA.record, f"gone._domainkey.{DOMAIN}": None}
    assert verify(header, dns=first.dns) == first


def test_b_prefix_tells_signatures_apart() -> None:
    name, value = signature(HEADER, BODY)
    got = verify([(name, value), *HEADER]).signatures[0]
    assert got.b_prefix == value.partition(b"; b=")[2][:8].decode()
    assert base64.b64decode(got.b_prefix or "")
    hostile = verify([(name, b" v=1; b=\"'<>;\r\n"), *HEADER]).signatures[0]
    assert hostile.b_prefix is None


pieces = st.sampled_from(
    [b" v=1", b"; a=rsa-sha256", b"; a=ed25519-sha256", b"; c=relaxed", b"; d=example.org",
     b"; s=s1", b"; h=from", b"; h=From : to", b"; bh=AAAA", b"; b=AAAA", b"; l=3", b"; l=", b";",
     b"=", b" ", b"\r\n\t", b"; x=1", b"; t=99", b"; i=@example.org", b"; i==", b"; q=dns/txt",
     b"\xff\xfe", b"\0", b"; z=b=", b"; b =", b"; d=co.uk", b"; c=simple/simple"]
)  # fmt: skip
key_pieces = st.sampled_from(
    ["v=DKIM1", "; k=rsa", "; k=ed25519", "; p=", "; p=" + public(RSA.n, 3), "; p=AAAA", ";", "=",
     "; t=s:y", "; t=", "; h=", "; h=sha256", "; s=*", "; s=", " ", "\u00e9", "\udcff", "\0", "p"]
)  # fmt: skip


@given(
    st.lists(st.lists(pieces, max_size=14).map(b"".join), min_size=1, max_size=3),
    st.none()
    | st.lists(key_pieces, max_size=8).map("".join)
    | st.lists(st.lists(key_pieces, max_size=5).map("".join), max_size=3),
)
def test_whatever_is_written_there_is_one_result(values: list[bytes], record: Any) -> None:
    fields = [(b"DKIM-Signature", value) for value in values]
    outcome = verify([*fields, signature(HEADER, BODY), *HEADER], dns={NAME: record})
    assert len(outcome.signatures) == len(values) + 1
    for got in outcome.signatures:
        assert got.reason != "internal-error"
        assert got.result in ("pass", "fail", "policy", "permerror"), got
        assert got.result == "pass" or got.reason is not None
    assert json.loads(json.dumps(outcome.dns)) == outcome.dns


def test_invented_names_do_not_take_the_room_for_good() -> None:
    """A message with more names than are kept: those of the next one are kept again."""
    invented = [(f"X-{number}", b" a") for number in range(fields.NAMES_KEPT + 1)]
    fields.Fields().take(invented)
    values = fields.Fields().take([("Subject ", b" b"), ("X" * 79, b" c")])
    assert values == {"subject": [b" b"], "x" * 79: [b" c"]}
    assert "Subject " in fields._spellings
    assert len(fields._spellings) <= fields.NAMES_KEPT
    assert "X" * 79 not in fields._spellings
