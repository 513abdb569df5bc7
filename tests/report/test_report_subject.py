"""The report speaks of whom it was asked about: signers, proof, limits; no verdict on a crowd."""

from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import AT, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.report.history import tell
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection, host

pytestmark = pytest.mark.slow

DAY = 86_400.0
TRAP = "trap@home.example"
OWN = signature("letters.example")


def told(engine: Engine, settings: Settings, **chosen: Any) -> Report:
    with store.reading(engine) as connection:
        return tell(connection, Selection(**chosen), settings, AT + 400 * DAY)


def fill(engine: Engine, settings: Settings, *rows: Any) -> None:
    recorder.record_batch(engine, list(rows), settings)


def letter(number: int, *signatures: Any, trap: bool = False, **more: Any) -> Any:
    more = {"sender": "bounce@letters.example", "author": "news@letters.example"} | more
    to: dict[str, Any] = {"traps": (TRAP,), "to": ()} if trap else {}
    return message(number, at=AT + number * 30 * DAY, signatures=signatures, **more, **to)


def test_three_signed_letters_and_a_forged_hit(any_engine: Engine, any_settings: Settings) -> None:
    """The letters are signed, the one that hit the trap is not: that it was theirs is a claim."""
    letters = [letter(n, OWN) for n in range(3)]
    fill(any_engine, any_settings, *letters, letter(3, client="192.0.2.77", trap=True))
    got = told(any_engine, any_settings, sender="letters.example").standing
    assert got is not None and not got.proven
    assert "claimed; its signed mail hit no trap" in got.sentence


def test_a_signed_hit_is_proof(any_engine: Engine, any_settings: Settings) -> None:
    fill(any_engine, any_settings, *(letter(n, OWN, trap=n == 2) for n in range(3)))
    got = told(any_engine, any_settings, sender="letters.example").standing
    assert got is not None and got.proven and "proven by DKIM" in got.sentence


@pytest.mark.parametrize(
    "forged",
    [
        signature("letters.example", crypto="fail", result="fail"),
        signature("esp.example"),
        signature("notletters.example"),
        signature("letters.example", flags=("testing-key",)),
        signature("letters.example", key_bits=512),
    ],
)
def test_what_is_no_proof(any_engine: Engine, any_settings: Settings, forged: Any) -> None:
    fill(any_engine, any_settings, *(letter(n, forged, trap=True) for n in range(3)))
    got = told(any_engine, any_settings, sender="letters.example").standing
    assert got is not None and not got.proven and "claimed" in got.sentence


def test_spf_of_a_hit_is_proof(any_engine: Engine, any_settings: Settings) -> None:
    rows = [letter(n, trap=True) for n in range(3)]
    for row in rows:
        check = {"result": "pass", "domain": "letters.example"}
        row["spf"] = {"mail_from": check, "helo": {"result": "none"}}
    fill(any_engine, any_settings, *rows)
    got = told(any_engine, any_settings, sender="letters.example").standing
    assert got is not None and got.proven and "proven by SPF" in got.sentence


def test_signatures_of_others_are_told_apart(any_engine: Engine, any_settings: Settings) -> None:
    """A list signs below the author: its results are not the author's."""
    broken = signature("letters.example", crypto="fail", result="fail")
    fill(
        any_engine, any_settings,
        letter(0, signature("list.example"), broken), letter(1, signature("list.example"), OWN),
        letter(2), letter(3, signature("news.letters.example")),
    )  # fmt: skip
    got = told(any_engine, any_settings, sender="letters.example").summary
    assert got.dkim == {"pass": 4, "fail": 1, "none": 1}
    assert (got.dkim_own, got.dkim_others) == ({"pass": 2, "fail": 1}, {"pass": 2})
    of_list = told(any_engine, any_settings, sender="list.example").summary
    assert (of_list.dkim_own, of_list.dkim_others) == ({"pass": 2}, {"pass": 1, "fail": 1})
    # Above the domain that was asked about as well: alignment goes both ways.
    below = told(any_engine, any_settings, sender="news.letters.example").summary
    assert (below.dkim_own, below.dkim_others) == ({"pass": 1}, {})
    assert told(any_engine, any_settings).summary.dkim_own is None


@pytest.mark.parametrize("limit", [1, 100])
def test_nothing_but_the_listing_depends_on_the_limit(
    any_engine: Engine, any_settings: Settings, limit: int
) -> None:
    rows = [letter(n, signature("letters.example", selector=f"s{n}"), trap=True) for n in range(3)]
    rows[0]["recipients"][0]["address"] = "other@home.example"
    fill(any_engine, any_settings, *rows)
    got = told(any_engine, any_settings, sender="letters.example", limit=limit)
    assert len(got.messages) == min(limit, 3)
    assert {key.selector for key in got.keys} == {"s0", "s1", "s2"}
    assert got.traps == ("other@home.example", TRAP)
    assert got.summary.trap_hits == 3


@pytest.mark.parametrize(
    ("chosen", "why"),
    [
        ({"sender": "<>"}, "bounces"),
        ({"sender": "co.uk"}, "public suffix"),
        ({"sender": "gmail.com"}, "never_list"),
        ({"sender": "mail.gmail.com"}, "never_list"),
        ({"host": host("192.0.2.0/24")}, "prefix of many"),
        ({"host": host("2001:db8::/48")}, "prefix of many"),
    ],
)
def test_no_verdict_on_what_is_no_sender(
    any_engine: Engine, any_settings: Settings, chosen: dict[str, Any], why: str
) -> None:
    rows = [
        letter(n, sender=sender, author=sender, trap=True)
        for n, sender in enumerate(("joe@gmail.com", "joe@mail.gmail.com", "x@y.co.uk", "") * 3)
    ]
    fill(any_engine, any_settings, *rows)
    got = told(any_engine, any_settings, **chosen)
    assert got.standing is None and got.no_verdict is not None and why in got.no_verdict
    assert got.json()["standing"] is None


@pytest.mark.parametrize(
    "chosen",
    [
        {"sender": "joe@gmail.com"}, {"sender": "y.co.uk"}, {"host": host("192.0.2.7")},
        {"host": host("2001:db8::/64")},
    ],
)  # fmt: skip
def test_a_verdict_on_what_is_one(
    any_engine: Engine, any_settings: Settings, chosen: dict[str, Any]
) -> None:
    rows = [letter(n, sender="joe@gmail.com", author=None, trap=True) for n in range(3)]
    fill(any_engine, any_settings, *rows)
    got = told(any_engine, any_settings, **chosen)
    assert got.standing is not None and got.no_verdict is None
