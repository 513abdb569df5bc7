"""Regular expressions mean the same on every Python that we support."""

import re
from pathlib import Path

import pytest

from gatepost_policy.dkim import arc, claimed_name

TOP = Path(__file__).resolve().parents[2]
# A possessive quantifier behind a group: before 3.11.5 the attempt that fails is not undone, and
# the octets that it read belong to the match (CPython issue 106052). `(?>(?:...)*)` is right.
GROUP = re.compile(r"(?<!\\)\)(?:[+*?]|\{+[0-9]+,?[0-9]*\}+)\+")


def test_no_possessive_group() -> None:
    found = [
        f"{path.relative_to(TOP)}:{number}"
        for room in ("milter", "policy")
        for path in sorted((TOP / room).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if GROUP.search(line) and not line.lstrip().startswith("#")
    ]
    assert found == []
    assert GROUP.search('"(?:[^x]++|y)*+"') and GROUP.search("(?:a|b){{1,64}}+")
    assert not GROUP.search(r"\(a\)+(?:b)+[c]++")


@pytest.mark.parametrize(
    ("value", "instance"),
    [(b"i=1 (open", 0), (b"i=1 (a(b", 0), (b"i=1 (a\\", 0), (b"i=1 (a(b)c);", 1), (b"(a) i=2", 2)],
)
def test_a_comment_that_never_ends_is_none(value: bytes, instance: int) -> None:
    found = arc._INSTANCE.match(value)
    assert int(found[1] if found else 0) == instance


@pytest.mark.parametrize("value", [b" mx.example.net.;", b"mx.example.net. 1; x"])
def test_a_dot_at_its_end_is_no_part_of_the_name(value: bytes) -> None:
    assert claimed_name._HONEST.match(value) is None
    assert claimed_name.claims(value, "mx.example.net")
