"""A ring that is required and cannot run is a failure, never a skip."""

import pytest

import rings


@pytest.mark.parametrize(
    ("environ", "want"),
    [
        ({}, set()),
        ({"GATEPOST_REQUIRE": "postfix,exim"}, {"postfix", "exim"}),
        ({"CI": "true"}, rings.RINGS - {"corpus", "neighbours"}),
        ({"CI": "true", "GATEPOST_REQUIRE": "corpus,neighbours"}, rings.RINGS),
    ],
)
def test_required(environ: dict[str, str], want: set[str]) -> None:
    assert rings.required(environ) == want


def test_unknown_ring_is_an_error() -> None:
    with pytest.raises(ValueError, match="no such ring: postfx"):
        rings.required({"GATEPOST_REQUIRE": "postfx,exim"})


def test_missing_skips_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.delenv("GATEPOST_REQUIRE", raising=False)
    with pytest.raises(pytest.skip.Exception, match="ring exim: no root"):
        rings.missing("exim", "no root")
    monkeypatch.setenv("GATEPOST_REQUIRE", "exim")
    with pytest.raises(pytest.fail.Exception, match="ring exim is required"):
        rings.missing("exim", "no root")
