"""Two ways to squeeze a body's blanks, and one answer."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatepost_policy.dkim import blanks
from gatepost_policy.dkim.body import Body

pytestmark = pytest.mark.slow

PIECES = st.sampled_from([b" ", b"  ", b"\r\n", b"\r", b"\n", b"<td>", b" \r\n", b" \r", b"x"])


@pytest.fixture
def with_numpy() -> None:
    assert blanks.load()  # the development set-up brings it


@given(st.lists(PIECES, min_size=1, max_size=60))
@settings(max_examples=400)
def test_both_ways_squeeze_alike(pieces: list[bytes]) -> None:
    assert blanks.load()
    assert blanks._many is not None
    text = b"".join(pieces) + b"end"
    assert blanks._many(text) == blanks.plainly(text)


def digest(pieces: list[bytes]) -> bytes:
    body = Body(relaxed=True)
    sink = body.sink("sha256", None)
    for piece in pieces:
        body.update(piece)
    body.close()
    return sink.digest


@pytest.mark.parametrize("cut", [1, 7, 8_191, 8_192, 8_193, 65_535])
def test_a_long_page_cut_anywhere(with_numpy: None, cut: int) -> None:
    page = b"<tr>  <td>\t some   words  \r\n   more </td> \t\r\n</tr>\r\n" * 2_000 + b"  \r\n\r\n"
    pieces = [page[at : at + cut] for at in range(0, min(len(page), 300 * cut), cut)]
    whole = digest([b"".join(pieces)])
    assert digest(pieces) == whole
    blanks_many, blanks._many = blanks._many, None
    try:
        assert digest(pieces) == whole
    finally:
        blanks._many = blanks_many


def test_without_numpy_it_is_the_standard_library() -> None:
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "from gatepost_policy.dkim import blanks\n"
        "print(blanks.load(), blanks.squeezed(b'a  b \\r\\n' * 3_000) == b'a b\\r\\n' * 3_000)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
