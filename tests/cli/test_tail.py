"""`milterctl tail`: what comes, in the order in which it comes, narrowed as a report is."""

import json

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import message
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.report import newer
from gatepost_policy.report.selection import Selection

BAD = "\x1b[2J"


def test_newest_come_oldest_first(run: Run, engine: Engine, settings: Settings) -> None:
    records = [message(n, sender=f"a{BAD}@s{n % 2}.example") for n in range(5)]
    recorder.record_batch(engine, records, settings)
    code, out = run("tail", "--once", "-n", "3")
    assert code == 0 and BAD not in out
    assert [line.split()[-1] for line in out.splitlines()] == ["Q2", "Q3", "Q4"]
    code, out = run("tail", "--once", "--sender", "s1.example", "--format", "json")
    assert [json.loads(line)["queue_id"] for line in out.splitlines()] == ["Q1", "Q3"]
    assert run("tail", "--once", "--decision", "reject") == (0, "")
    assert run("tail", "--once", "-n", "0") == (0, "")


@pytest.mark.parametrize("words", [("--decision", "nonsense"), ("--host", "nonsense")])
def test_a_filter_that_is_none_is_refused(run: Run, words: tuple[str, str]) -> None:
    code, said = run("tail", "--once", *words)
    assert code == 2 and words[0] in said and "want" in said


def test_only_what_is_newer_and_nothing_twice(any_engine: Engine, any_settings: Settings) -> None:
    recorder.record_batch(any_engine, [message(n) for n in range(3)], any_settings)
    with store.reading(any_engine) as connection:
        last = newer.last(connection)
        assert newer.since(connection, Selection(), last, 10) == ([], last)
    recorder.record_batch(any_engine, [message(n) for n in range(3, 8)], any_settings)
    seen: list[int] = []
    with store.reading(any_engine) as connection:
        while True:
            ids, last = newer.since(connection, Selection(), last, 2)
            seen += ids
            if not ids:
                break
    assert len(seen) == len(set(seen)) == 5 and seen == sorted(seen)
