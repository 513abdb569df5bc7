"""The author of a message: From as programs and strangers write it (RFC 5322 3.6.2)."""

import time

import pytest

from gatepost_policy.mail.address import header_from


@pytest.mark.parametrize("value, domain", [
    (b"a@d.example <a@d.example>", "d.example"),
    (b" joe@D.Example. <joe@d.example>\r\n", "d.example"),
    (b"joe @ home <joe@d.example>", None),
    (b"joe@evil.example <a@d.example>", None),  # some readers take the first
    (b"joe@d.example joe@evil.example <a@d.example>", None),
    (b"\"x@evil.example\" <a@d.example>", "d.example"),
    (b"(x@evil.example) a@d.example", "d.example"),
    (b"a@d.example (x@evil.example)", "d.example"),
    (b"=?utf-8?q?x=40evil=2Eexample?= <a@d.example>", "d.example"),
    (b"<a@d.example> <b@evil.example>", None),
    (b"a@d.example, b@evil.example", None),
    (b"a@d.example <a@d.example>, b@evil.example", None),
    (b"grp: a@d.example, b@evil.example;", None),
    (b"A <a@d.example;evil.example>", None),
    (b"a@b\xc3\xbccher.example", "xn--bcher-kva.example"),
    (b"a@d\xe3\x80\x82example", "d.example"),
])  # fmt: skip
def test_author(value: bytes, domain: str | None) -> None:
    got = header_from([value])
    assert (got.domain if got else None) == domain


@pytest.mark.parametrize("piece", [b"@", b"a@d.example ", b" ", b"<", b"a@", b"a@d.example <"])
def test_long_ones_cost_little(piece: bytes) -> None:
    start = time.process_time()
    assert header_from([piece * (8192 // len(piece))]) is None
    assert time.process_time() - start < 1
