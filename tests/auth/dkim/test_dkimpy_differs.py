"""Our verdict is dkimpy's on whatever message, but where dkimpy is wrong: those are named here.

Each row of `WRONG` fails as soon as dkimpy does what the RFC says, and then goes.
"""

import base64
import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dkimkit import (
    BODY,
    ED,
    HEADER,
    NAME,
    RSA,
    Header,
    Rsa,
    join,
    rsa,
    signature,
    verify,
)
from dkimpy_peer import (
    WRONG,
    Row,
    headers,
    lines,
    names,
    signed,
    theirs,
)

logging.getLogger("dkimpy").setLevel(logging.CRITICAL)


@given(
    header=headers,
    text=lines,
    c=st.sampled_from(["relaxed/relaxed", "simple/simple", "relaxed/simple", "simple/relaxed"]),
    h=st.lists(names, max_size=8),
    key=st.sampled_from([RSA, ED, rsa(512)]),
    cut=st.none() | st.integers(0, 30),
    change=st.sampled_from(["", "header", "body", "drop", "add", "from"]),
)
def test_generated_messages(
    header: list[tuple[str, str]],
    text: list[str],
    c: str,
    h: list[str],
    key: Rsa,
    cut: int | None,
    change: str,
) -> None:
    fields: Header = [(n.encode(), v.encode()) for n, v in header]
    fields.append((b"From", b" a@example.org"))
    body = "".join(text).encode() + b"\r\n"
    tags = {} if cut is None or cut > len(body) // 3 else {"l": str(cut)}
    signed = signature(fields, body, key, tags=tags, h=":".join(["from", *h]), c=c)
    if change == "header":
        fields[0] = (fields[0][0], fields[0][1] + b"!")
    elif change == "drop":
        del fields[0]
    elif change == "add":
        fields.insert(0, (b"X-A", b" new"))
    elif change == "from":
        fields.insert(0, (b"From", b" b@example.org"))
    elif change == "body":
        body = b"x" + body
    dns = {NAME: key.record}
    got = verify([signed, *fields], body, dns).signatures[0]
    want = theirs(join([signed, *fields], body), dns)
    if key.record == rsa(512).record:
        assert (got.result, got.reason) == ("policy", "weak-key")
        want = "pass" if want == "KeyFormatError" else want
        assert got.crypto == want
    elif got.reason == "body-too-short":  # row "l= beyond the body"
        assert tags
    else:
        assert got.result == want


# Generated messages: folds, blanks, repeated fields, cut and changed in one place or not at all.


@pytest.mark.parametrize("row", WRONG, ids=lambda row: row.name)
def test_where_dkimpy_is_wrong(row: Row) -> None:
    header, body = row.made()
    dns = {NAME: RSA.record} if row.dns is None else row.dns
    got = verify(header, body, dns).signatures[0]
    assert (got.result, got.reason) == row.right, row.rfc
    assert theirs(join(header, body), dns) == row.wrong, f"dkimpy is right now: drop {row.name}"
    assert row.wrong != got.result or got.reason is not None


def test_the_rows_are_wrong_for_the_named_reason_only() -> None:
    """The same messages without their one oddity pass here and there."""
    for key in (RSA, ED):
        header, body = signed(key)()
        dns = {NAME: key.record}
        assert verify(header, body, dns).signatures[0].reason is None
        assert theirs(join(header, body), dns) == "pass"


def test_expired_an_hour_ago() -> None:
    """RFC 6376 6.1.1: an expired signature SHOULD fail; dkimpy gives it ten hours more."""
    now = time.time()
    header, body = signed(tags={"x": str(int(now) - 3600)})()
    assert theirs(join(header, body), {NAME: RSA.record}) == "pass"
    assert verify(header, body, at=now).signatures[0].reason == "expired"


def test_a_message_that_starts_with_a_folded_line() -> None:
    """dkimpy raises IndexError; an MTA sees a message without header, so there is no signature."""
    header, body = signed()()
    assert theirs(b" folded\r\n" + join(header, body), {NAME: RSA.record}) == "IndexError"
    assert verify([], join(header, body)).signatures == ()


def test_base64_of_the_kit_is_canonical() -> None:
    """A guard for the rows above: the kit's b= is one any decoder takes."""
    value = signature(HEADER, BODY)[1]
    raw = b"".join(value.partition(b"; b=")[2].split())
    assert base64.b64encode(base64.b64decode(raw)) == raw
