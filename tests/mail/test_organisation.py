"""Organisations: the registrable domain, and what a listing of one covers."""

import pytest

from gatepost_policy.mail.organisation import covering, is_public_suffix, organisation, same

NAMES = [
    ("a.b.spam.example", "spam.example"),
    ("spam.example", "spam.example"),
    ("x.co.uk", "x.co.uk"),
    ("a.x.co.uk", "x.co.uk"),
    ("co.uk", "co.uk"),
    ("a.me.github.io", "me.github.io"),
    ("github.io", "github.io"),
]


@pytest.mark.parametrize(("domain", "want"), NAMES)
def test_organisation(domain: str, want: str) -> None:
    assert organisation(domain) == want


def test_who_is_one() -> None:
    assert same("a.spam.example", "b.spam.example")
    assert not same("me.github.io", "you.github.io")
    assert not same("x.co.uk", "y.co.uk")


def test_what_a_listing_covers() -> None:
    assert covering("x.a.spam.example") == ["x.a.spam.example", "a.spam.example", "spam.example"]
    assert covering("me.github.io") == ["me.github.io"], "a suffix is nobody's"
    assert is_public_suffix("co.uk") and not is_public_suffix("x.co.uk")
