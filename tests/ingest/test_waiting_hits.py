"""Trap hits that wait for a turn are judged once, by their own host, whatever happens meanwhile."""

import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

from fix_store import AT, count, message, signature
from gatepost_policy import ingest, journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks, waiting, waiting_hits
from gatepost_policy.journal.record import Json
from gatepost_policy.recorder import Recorder
from gatepost_policy.retention import person, purger

TRAP = "trap@home.example"


def hit(number: int, client: str = "192.0.2.7", **values: object) -> Json:
    return message(number, client=client, to=(), traps=(TRAP,), **values)  # type: ignore[arg-type]


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Another host has the turn to judge, until this is cleared."""
    real, there = waiting.turn, threading.Event()
    there.set()

    def turn(connection: Connection, which: int) -> bool:
        return not (which == waiting.LISTINGS_TURN and there.is_set()) and real(connection, which)

    monkeypatch.setattr(waiting, "turn", turn)
    return there


def take_in(engine: Engine, settings: Settings, *records: Json, host: str = "here") -> int:
    with store.writing(engine) as connection:
        return ingest.ingest(connection, list(records), settings, AT, host=host).hits_wait


def judge(engine: Engine, settings: Settings, host: str = "here", at: float = AT) -> int:
    with store.writing(engine) as connection:
        return waiting_hits.judge_waiting(connection, settings, host, at).waiting


def listed(engine: Engine) -> list[tuple[str, int]]:
    with store.reading(engine) as connection:
        sql = "SELECT value, hits FROM listing ORDER BY value"
        return [(row.value, row.hits) for row in connection.exec_driver_sql(sql)]


@pytest.fixture
def left(any_engine: Engine, any_settings: Settings, busy: threading.Event) -> Engine:
    """A store in which two hits wait."""
    assert take_in(any_engine, any_settings, hit(1), hit(2, "192.0.2.8")) == 2
    assert listed(any_engine) == []
    return any_engine


def test_judged_once_when_the_turn_comes(
    left: Engine, any_settings: Settings, busy: threading.Event
) -> None:
    assert judge(left, any_settings) == 2, "another host still has the turn"
    busy.clear()
    assert judge(left, any_settings, "elsewhere") == 0
    assert listed(left) == [], "judged by another host's configuration"
    assert judge(left, any_settings) == judge(left, any_settings) == 0
    assert listed(left) == [("192.0.2.7/32", 1), ("192.0.2.8/32", 1)]
    assert count(left, "trap_hit") == 2


def test_what_is_new_waits_behind_it(
    left: Engine, any_settings: Settings, busy: threading.Event
) -> None:
    busy.clear()
    assert take_in(left, any_settings, hit(3)) == 3
    assert judge(left, any_settings) == 0
    assert listed(left) == [("192.0.2.7/32", 2), ("192.0.2.8/32", 1)]


def test_a_host_that_is_gone(left: Engine, any_settings: Settings, busy: threading.Event) -> None:
    busy.clear()
    judge(left, any_settings, "elsewhere", AT + waiting_hits.ABANDONED_S + 1)
    assert len(listed(left)) == 2


def test_a_message_that_another_one_replaces(
    any_engine: Engine,
    any_settings: Settings,
    busy: threading.Event,
) -> None:
    """RCPT TO left its hit; the same message, signed, comes before that is judged: one hit."""
    session = {"client": "192.0.2.7", "port": 4711}
    seen = message(1, kind="rcpt", to=(), traps=(TRAP,), instance="i1", **session)  # type: ignore[arg-type]
    whole = hit(2, port=4711, signatures=(signature(),))
    take_in(any_engine, any_settings, seen)
    take_in(any_engine, any_settings, whole)
    assert count(any_engine, "message") == 1
    busy.clear()
    assert judge(any_engine, any_settings) == 0
    with store.reading(any_engine) as connection:
        sql = "SELECT DISTINCT message_id FROM trap_hit"
        hits = connection.exec_driver_sql(sql).scalars().all()
        assert hits == connection.exec_driver_sql("SELECT id FROM message").scalars().all()


def test_retention_and_mistakes_take_it_along(left: Engine, any_settings: Settings) -> None:
    with store.writing(left) as connection:
        first = connection.exec_driver_sql("SELECT min(id) FROM message").scalar_one()
        purger.to_counts(connection, [first], AT)
    assert count(left, "waiting_hit") == 1
    trap_marks.take_back(left, any_settings, TRAP)
    assert count(left, "waiting_hit") == 0


def test_a_person_is_erased_from_it(
    any_engine: Engine,
    any_settings: Settings,
    busy: threading.Event,
) -> None:
    take_in(any_engine, any_settings, message(1, to=("jo@home.example",), traps=(TRAP,)))
    person.erase(any_engine, any_settings, "Jo@home.example", AT)
    with store.reading(any_engine) as connection:
        kept = connection.exec_driver_sql("SELECT hit FROM waiting_hit").scalar_one()
    assert "jo@" not in kept and TRAP in kept
    busy.clear()
    judge(any_engine, any_settings)
    assert listed(any_engine) == [("192.0.2.7/32", 1)]


def test_what_cannot_be_judged_holds_nobody_up(
    any_engine: Engine,
    any_settings: Settings,
    busy: threading.Event,
) -> None:
    """One hit of three breaks the judge: it goes into quarantine, with a line; the others count."""
    told: list[str] = []
    recorder = Recorder(any_settings, lambda level, text: told.append(text))
    assert recorder.lock()
    writer = journal.Writer(Path(any_settings.store.journal), max_bytes=1 << 30, sync="process")
    for number in range(3):
        writer.write(hit(number, f"192.0.2.{number + 1}"))
    recorder.ingest_once()
    assert count(any_engine, "waiting_hit") == 3
    busy.clear()
    with store.writing(any_engine) as connection:
        sql = "UPDATE waiting_hit SET hit = '{}' WHERE id = (SELECT min(id) + 1 FROM waiting_hit)"
        connection.exec_driver_sql(sql)
    for _ in range(3):
        recorder.ingest_once()
    assert count(any_engine, "waiting_hit") == 0
    recorder.close()
    assert [value for value, _ in listed(any_engine)] == ["192.0.2.1/32", "192.0.2.3/32"]
    assert len([text for text in told if "quarantine" in text]) == 1


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_host_does_not_wait_for_another_ones_judgement(
    any_settings: Settings, any_engine: Engine
) -> None:
    """One host judges and takes its time: the other commits all the same, and judges later."""
    with store.writing(any_engine) as slow:
        ingest.ingest(slow, [hit(1)], any_settings, AT, host="one")

        def other() -> None:
            with store.writing(any_engine) as connection:
                connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
                ingest.ingest(connection, [hit(2)], any_settings, AT, host="two")

        thread = threading.Thread(target=other)
        thread.start()
        thread.join(30)
        assert count(any_engine, "message") == 1 == count(any_engine, "waiting_hit")
    assert judge(any_engine, any_settings, "two") == 0
    assert listed(any_engine) == [("192.0.2.7/32", 2)]
