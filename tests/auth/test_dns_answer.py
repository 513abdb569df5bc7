"""One name, several types: what a played-back answer says of each."""

from typing import Any

import pytest

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dns import Answer, Lookups, Why

ZONE: dict[str, Any] = {
    "text.example": "v=spf1 -all",
    "gone.example": None,
    "broken.example": {"error": "servfail"},
    "all.example": {"TXT": "v=spf1 mx -all", "MX": ["10 mx.example", "20 b.example"], "A": None},
    "part.example": {"A": {"error": "timeout"}, "AAAA": "2001:db8::1"},
}


@pytest.mark.parametrize(
    ("name", "kind", "records", "why"),
    [
        ("text.example", "TXT", ("v=spf1 -all",), None),
        ("text.example", "A", (), Why.NO_RECORD),
        ("gone.example", "MX", (), Why.NO_NAME),
        ("never.example", "A", (), Why.NO_NAME),
        ("broken.example", "AAAA", (), Why.SERVFAIL),
        ("all.example", "MX", ("10 mx.example", "20 b.example"), None),
        ("all.example", "A", (), Why.NO_NAME),
        ("all.example", "PTR", (), Why.NO_RECORD),
        ("part.example", "A", (), Why.TIMEOUT),
        ("part.example", "AAAA", ("2001:db8::1",), None),
        ("part.example", "TXT", (), Why.NO_RECORD),
    ],
)
def test_played_types(name: str, kind: str, records: tuple[str, ...], why: Why | None) -> None:
    got = Lookups(Dkim(), ZONE).ask(name, kind)
    assert isinstance(got, Answer)
    assert (got.records, got.why) == (records, why)
    again = Answer.of({kind: got.form}, kind)
    assert (again.records, again.why) == (records, why)
