"""The streamed body hash against RFC 6376 3.4 written down plainly, and against dkimpy."""

import hashlib
import re
import tracemalloc

import pytest
from dkim.canonicalization import Relaxed, Simple
from hypothesis import example, given
from hypothesis import strategies as st

from gatepost_policy.dkim.body import Body

PIECES = [b"a", b"bc", b" ", b"  ", b"\t", b"\r\n", b"\r\n\r\n", b"\r", b"\n", b"\0\xff", b" \r\n"]
PIECES += [b"\v", b"Q" * 90]
bodies = st.lists(st.sampled_from(PIECES), max_size=40).map(b"".join)


def plain(body: bytes, relaxed: bool) -> bytes:
    """The canonical body, by the words of RFC 6376 3.4.3 and 3.4.4."""
    if body and not body.endswith(b"\r\n"):
        body += b"\r\n"
    if relaxed:
        body = re.sub(rb"[ \t]+(?=\r\n)", b"", body)
        body = re.sub(rb"[ \t]+", b" ", body)
    while body.endswith(b"\r\n"):
        body = body[:-2]
    return body + b"\r\n" if body or not relaxed else b""


def streamed(body: bytes, relaxed: bool, cuts: list[int], limit: int | None) -> tuple[bytes, int]:
    hasher = Body(relaxed)
    sink = hasher.sink("sha256", limit)
    at = 0
    for cut in cuts:
        hasher.update(body[at : at + cut])
        at += cut
    hasher.update(body[at:])
    hasher.close()
    return sink.digest, hasher.size


# A tail without blanks behind the last one, whole or begun with the line end that the blank meets;
# empty pieces while a blank, a CR or line ends are held back.
@example(b"a  b \t\r\n" + b"Q" * 90, True, [], 3)
@example(b"a \r\nQ  \rQ \nQ", True, [3, 0, 2], 3)
@example(b"a \r\n\r\n \r\nb \r", True, [2, 0, 1, 0, 1, 0, 2, 0, 1, 0, 4, 0], 9)
@given(bodies, st.booleans(), st.lists(st.integers(0, 7), max_size=20), st.integers(0, 60))
def test_any_body_cut_anywhere(body: bytes, relaxed: bool, cuts: list[int], limit: int) -> None:
    want = plain(body, relaxed)
    assert streamed(body, relaxed, cuts, None) == (hashlib.sha256(want).digest(), len(want))
    assert streamed(body, relaxed, cuts, limit)[0] == hashlib.sha256(want[:limit]).digest()


@given(st.lists(st.sampled_from(PIECES[:7]), max_size=40).map(b"".join), st.booleans())
def test_dkimpy_agrees_where_lines_end_as_they_should(body: bytes, relaxed: bool) -> None:
    body += b"\r\n"  # see the table of dkimpy's errors for a body without it
    theirs = (Relaxed if relaxed else Simple).canonicalize_body(body)
    assert streamed(body, relaxed, [], None) == (hashlib.sha256(theirs).digest(), len(theirs))


@pytest.mark.parametrize("relaxed", [True, False])
@pytest.mark.parametrize(
    "piece", [b"x" * 65535, b" " * 65535, b"\r\n" * 32767 + b"\r", b"\r" * 65535, b"\n" * 65535]
)
def test_memory_does_not_grow_with_the_body(piece: bytes, relaxed: bool) -> None:
    hasher = Body(relaxed)
    hasher.sink("sha256", None)
    hasher.update(piece)
    tracemalloc.start()
    try:
        for _ in range(40):
            hasher.update(piece)
        hasher.update(b"x")  # lets go of all that was held back
        hasher.close()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 600_000  # some copies of one chunk; the body has 2.6 MB


def test_many_hashes_from_one_pass() -> None:
    body = b"one  two\r\nthree \r\n\r\n"
    hasher = Body(True)
    sinks = [hasher.sink(name, limit) for name in ("sha256", "sha1") for limit in (None, 0, 4, 99)]
    assert hasher.sink("sha256", None) is sinks[0]
    for octet in body:
        hasher.update(bytes([octet]))
    hasher.close()
    text = b"one two\r\nthree\r\n"
    got = [sink.digest for sink in sinks]
    want = [
        hashlib.new(name, text[:limit]).digest()
        for name in ("sha256", "sha1")
        for limit in (None, 0, 4, 99)
    ]
    assert got == want
