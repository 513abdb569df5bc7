"""Tag lists are read as dkimpy reads them."""

from dkim.util import InvalidTagValueList, parse_tag_value
from hypothesis import given
from hypothesis import strategies as st

from gatepost_policy.dkim.signature import tags_of

PARTS = st.sampled_from(
    [b"a", b"b", b"bh", b"=", b"==", b";", b";;", b" ", b"\t", b"\r\n\t", b"\x0b", b"\x0c", b"1",
     b"_", b"\xc3\xa9", b"A", b"x=y", b"v=1", b"-", b"\0"]
)  # fmt: skip


@given(st.lists(PARTS, max_size=14).map(b"".join))
def test_as_dkimpy(value: bytes) -> None:
    try:
        wanted = parse_tag_value(value)
    except (InvalidTagValueList, IndexError, ValueError):
        wanted = None
    assert tags_of(value) == wanted
