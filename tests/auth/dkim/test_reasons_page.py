"""docs/dkim.md names every reason with its result, and every reason that it names exists."""

import re
from pathlib import Path

from gatepost_policy.dkim.reasons import RESULT, ArcWhy, Why

PAGE = Path(__file__).parents[3] / "docs" / "dkim.md"
POLICY = PAGE.parent.parent / "policy" / "gatepost_policy"
SOURCES = (POLICY / "mail" / "dkim_reason.py", POLICY / "dkim" / "reasons.py")


def test_every_reason_is_explained() -> None:
    text = PAGE.read_text()
    got = dict(re.findall(r"^\| `([a-z0-9-]+)` \| (\w+) \| \S", text, re.M))
    assert got == {why.value: result for why, result in RESULT.items()}
    arc = re.findall(r"^\| `([a-z0-9-]+)` \| [^|]+ \|$", text, re.M)
    assert set(arc) == {why.value for why in ArcWhy}


def test_every_word_has_its_meaning_beside_it() -> None:
    commented = re.findall(r'= "([a-z0-9-]+)"  # \S', "".join(s.read_text() for s in SOURCES))
    assert sorted(commented) == sorted([*(w.value for w in Why), *(w.value for w in ArcWhy)])
