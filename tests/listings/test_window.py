"""Rows that are read once for all hits of a batch are those that each hit would have read."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from fix_store import AT, message, signature
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import ingest
from gatepost_policy.journal import record
from gatepost_policy.listings import past
from gatepost_policy.listings.window import Window
from gatepost_policy.rules.known import HOUR_S
from gatepost_policy.store import partitions

pytestmark = pytest.mark.slow

TIMES = st.integers(0, 20).map(float)


@given(st.lists(TIMES), st.lists(TIMES), TIMES, TIMES, st.integers(1, 6), st.integers(1, 9))
def test_a_window_is_the_store(
    before: list[float], since_then: list[float], low: float, high: float, most: int, read: int
) -> None:
    """What it hands out is what a query would; or it says that it cannot know."""
    rows = [(at, n, n) for n, at in enumerate(before)]
    newest_first = sorted(rows, reverse=True)[:read]
    window = Window(newest_first, cut=len(newest_first) == read)
    for n, at in enumerate(since_then):
        if at >= max(before, default=0.0):
            rows.append((at, 100 + n, 100 + n))
            window.add(at, 100 + n, 100 + n)
    for behind in (False, True):
        found = window.newest(low, high, most, behind=behind)
        there = [row for row in rows if (low < row[0] if behind else low <= row[0])]
        there = [row for row in there if row[0] <= high]
        if found is None:
            assert len(newest_first) == read, "nothing was left out"
        else:
            assert found == [n for _, n, _ in sorted(there, reverse=True)[:most]]


@pytest.mark.parametrize("slack", [0, 3, 1_000])
def test_hits_of_one_batch_read_what_each_would(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch, slack: int
) -> None:
    """With more rows than are looked at, at equal times too, and hits between the mail."""
    for name, value in (("OLD_SCAN", 7), ("NEW_SCAN", 5), ("HITS_MAX", 4), ("SLACK", slack)):
        monkeypatch.setattr(past, name, value)
    dice = random.Random(slack)
    gather, compared = past.gather, 0

    def both(connection, facts, settings, *, without=(), read=None):  # type: ignore[no-untyped-def]
        nonlocal compared
        shared = gather(connection, facts, settings, without=without, read=read)
        assert shared == gather(connection, facts, settings, without=without)
        compared += 1
        return shared

    monkeypatch.setattr(past, "gather", both)
    records: list[record.Json] = []
    for n in range(160):
        at = AT - HOUR_S - 40 + n // 2 if n < 80 else AT + (n - 80) // 2
        hit = dice.random() < 0.4
        who = dice.choice(("192.0.2.7", "192.0.2.8"))
        records.append(
            message(
                n, at=at, client=who, to=() if hit else (f"user{n}@home.example",),
                traps=("trap@home.example",) if hit else (),
                signatures=(signature(addressed="recipient"),) if dice.random() < 0.5 else (),
            )
        )  # fmt: skip
    partitions.prepare(any_engine, AT)
    for start in (0, 50, 120):
        part = records[start : {0: 50, 50: 120, 120: 160}[start]]
        with store.writing(any_engine) as connection:
            ingest(connection, part, any_settings, AT + 100)
    assert compared > 40
