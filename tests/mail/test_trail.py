"""The trail: what each server before ours says of how it got the message."""

import time

import pytest

from gatepost_policy.mail.trail import MAX_HOPS, read

OURS = "mx.home.example"


@pytest.mark.parametrize(
    ("field", "family", "protocol"),
    [
        (" from a.example (b.example [192.0.2.7])\n\tby mx.example (Postfix) with ESMTPS id 1; x",
         "ipv4", "ESMTPS"),
        (" from a.example (b.example [IPv6:2001:db8::7]) by mx.example with ESMTP id 1; x",
         "ipv6", "ESMTP"),
        (" from [10.0.0.1] (unknown [IPv6:2001:db8::7])\n\tby mx.example (Postfix) with SMTP; x",
         "ipv6", "SMTP"),
        (" from [198.51.100.7] (port=1234 helo=[IPv6:2001:db8::1])\n\tby mx.example with esmtps"
         " (TLS1.3) tls TLS_AES\n\t(Exim 4.96)\n\tid 1; x", "ipv4", "esmtps"),
        (" from b.example ([198.51.100.7] helo=a.example)\n\tby mx.example with esmtp; x",
         "ipv4", "esmtp"),
        (" from unknown (HELO a.example) (192.0.2.7)\n  by mx.example with SMTP; x",
         "ipv4", "SMTP"),
        (" from A.example (2001:db8::1) by B.example (192.0.2.1) with Microsoft SMTP Server; x",
         "ipv6", "Microsoft"),
        (" from a ([::ffff:192.0.2.7]) by b with LMTP; x", "ipv4", "LMTP"),
        (" by 2002:a05:6214:0:b0::1 with SMTP id x; y", None, "SMTP"),
        (" by mx.example (Postfix, from userid 1000)\n\tid 1; x", None, None),
        (" (qmail 123 invoked from network); x", None, None),
        ("", None, None),
        (" from a [1.2.3.4.5] by b", None, None),
        (" from a ([fe80::1%eth0]) by b with ESMTP; x", "ipv6", "ESMTP"),
        ("\udcff".encode("utf-8", "surrogateescape").decode("latin-1"), None, None),
    ],
)  # fmt: skip
def test_one_hop(field: str, family: str | None, protocol: str | None) -> None:
    (hop,) = read([field.encode("latin-1")])
    assert (hop.family, hop.protocol) == (family, protocol)


def test_newest_first_without_our_own_and_bounded() -> None:
    own = b" from x ([192.0.2.1]) by MX.home.example (Postfix) with ESMTPS; x"
    other = b" from y ([2001:db8::1])\n\tby mx.other.example with HTTP; x"
    assert [h.protocol for h in read([own, other], OURS)] == ["HTTP"]
    # Below another field it is a claim like all others.
    assert [h.protocol for h in read([other, own], OURS)] == ["HTTP", "ESMTPS"]
    assert len(read([other] * 5000, OURS)) == MAX_HOPS
    assert read([]) == ()


@pytest.mark.parametrize("field", [b" from " + b"[" * 900_000, b" from [" + b"a" * 900_000 + b"]",
                                   b" with " * 150_000, b"\t" * 900_000])  # fmt: skip
def test_hostile_fields_cost_little(field: bytes) -> None:
    begun = time.process_time()
    read([field] * 50, OURS)
    assert time.process_time() - begun < 0.2
