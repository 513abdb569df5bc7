"""A period's whole days come from sums: what is told is what the rows say, and fewer are read."""

import random
from typing import Any

import pytest
from sqlalchemy import Engine, event

from fix_report import REAL, TRAP, Mail, fill, seconds, signature
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas
from gatepost_policy.mail.facts import Family
from gatepost_policy.report import count, day_sums
from gatepost_policy.report.selection import Selection

pytestmark = pytest.mark.slow

START = seconds("2026-03-01T00:00:00")
DAY = 86_400
NAMES = ("a.example", "b.a.example", "c.example")


def some_mail(source: random.Random) -> Mail:
    at = f"2026-03-0{source.randint(1, 6)}T{source.choice(['00:00:00', '11:30:00', '23:59:59'])}"
    return Mail(
        at,
        f"u@{source.choice(NAMES)}",
        (source.choice([TRAP, REAL]),),
        source.choice(["192.0.2.1", "2001:db8::1"]),
        author=f"v@{source.choice(NAMES)}",
        signatures=tuple(
            signature(name, source.choice(deltas.RESULTS))
            for name in source.sample(NAMES, source.randint(0, 2))
        ),
    )


def periods(source: random.Random) -> list[tuple[float | None, float | None]]:
    """Within one day, over a border, of whole days, open at an end, turned round."""
    points = [None, START, START + DAY, START + 1.4 * DAY, START + 1.5 * DAY, START + 3 * DAY,
              START + 3.99999 * DAY, START + 5 * DAY, START + 9 * DAY]  # fmt: skip
    return [(source.choice(points), source.choice(points)) for _ in range(25)]


def test_same_as_from_the_rows(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = random.Random(11)
    fill(any_engine, [some_mail(source) for _ in range(150)], any_settings)
    # In a busy minute the rhythm is dense, and told by days.
    busy = [Mail(f"2026-03-03T12:00:{s:02}", "u@c.example", (REAL,)) for s in range(60)]
    fill(any_engine, busy * 4, any_settings)
    chosen = [
        Selection(sender=name, since=since, until=until, family=family)
        for name in (None, "a.example", "u@a.example", "c.example")
        for family in (None, Family.IPV6)
        for since, until in periods(source)
        if since is not None or until is not None
    ]
    with store.reading(any_engine) as connection:
        got = [count.count(connection, one) for one in chosen]
        monkeypatch.setattr(day_sums, "whole_days", lambda _: None)
        want = [count.count(connection, one) for one in chosen]
    for one, sums, rows in zip(chosen, got, want, strict=True):
        assert sums == rows, one
    assert sum(x.summary.messages > 0 for x in got) > len(got) / 3
    assert any(x.rhythm and x.rhythm.shortest_gap is None for x in got)


@pytest.mark.parametrize(
    ("since", "read"), [(START + DAY, 0), (START + DAY + 1, 1)], ids=["whole days", "an edge"]
)
def test_signatures_of_whole_days_are_not_read(
    engine: Engine, settings: Settings, since: float, read: int
) -> None:
    fill(engine, [some_mail(random.Random(n)) for n in range(30)], settings)
    statements: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    with store.reading(engine) as connection:
        assert count.count(connection, Selection(sender="example", since=since)).summary.dkim
    assert sum("FROM signature" in statement for statement in statements) == read
