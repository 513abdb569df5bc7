"""How the milter's workers ask the store about those who may be to blame."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import Engine, event
from sqlalchemy.engine import Engine as AnyEngine

from fix_store import AT, message
from gatepost_policy import recorder
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import record
from gatepost_policy.lookup import history
from gatepost_policy.lookup.history import History
from gatepost_policy.rules import Past

HIT = record.read_seen(message(9, at=AT + 10, to=(), traps=("trap@home.example",))).facts


def test_only_our_own_thread_touches_the_store(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asks, on how many threads: in libmilter's own the database's driver may crash."""
    monkeypatch.setattr(history, "WAIT_S", 60.0)
    monkeypatch.setattr(history, "FRESH_S", 0.0)
    recorder.record_batch(any_engine, [message(n) for n in range(3)], any_settings)
    ask = History(any_settings)
    seen: set[str] = set()

    def note(*call: Any) -> None:
        seen.add(threading.current_thread().name)

    for name in ("connect", "checkout", "checkin", "close"):
        event.listen(AnyEngine, name, note)
    try:
        with ThreadPoolExecutor(8, "asks") as pool:
            answers = list(pool.map(lambda _: ask.past(HIT), range(50)))
    finally:
        for name in ("connect", "checkout", "checkin", "close"):
            event.remove(AnyEngine, name, note)
    assert [a and a.client.messages for a in answers] == [3] * 50
    assert seen == {"history"}


def test_no_store_is_no_answer(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not created, and not asked for again at once; later it is."""
    from gatepost_policy import config

    path = config.database_path(settings)
    assert path is not None
    aside = path.rename(path.with_name("aside"))
    ask = History(settings)
    assert ask.past(HIT) is None
    assert not path.exists()
    aside.rename(path)
    assert ask.past(HIT) is None, "the pause"
    monkeypatch.setattr(ask, "_pause_until", 0.0)
    assert ask.past(HIT) == Past(hits={"192.0.2.7/32": ()})


def test_a_store_that_hangs(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller goes on without; the next one does not wait at all."""
    release = threading.Event()
    monkeypatch.setattr(history, "WAIT_S", 0.05)
    monkeypatch.setattr(History, "_read", lambda *_: release.wait(60) and 5)
    ask = History(settings)
    assert ask.past(HIT) is None
    begun = threading.active_count()
    assert ask.past(HIT) is None
    assert threading.active_count() == begun
    release.set()


def test_an_answer_is_never_late(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader that dies does not hold up the MTA: there is a quarter of a second for everything.

    Only our own program is waited for longer, once in the life of a process.
    """
    assert history.WAIT_S <= 0.2
    assert history.READ_TIMEOUT_MS <= history.WAIT_S * 1000
    waited: list[float | None] = []
    wait = threading.Event.wait

    def note(event: threading.Event, timeout: float | None = None) -> bool:
        if threading.current_thread() is threading.main_thread():
            waited.append(timeout)
        return wait(event, timeout)

    release = threading.Event()
    monkeypatch.setattr(History, "_read", lambda *_: wait(release, 60) and 5)
    ask = History(settings)
    monkeypatch.setattr(threading.Event, "wait", note)
    assert ask.past(HIT) is None
    release.set()
    assert waited.count(history.WAIT_S) == 1
    assert set(waited) <= {None, history.LOAD_S, history.WAIT_S}  # None: until the thread runs


def test_the_first_question_waits_for_our_own_program(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading it takes longer than the store may; it is no fault of the store."""
    monkeypatch.setattr(history, "WAIT_S", 60.0)
    loads: list[str] = []
    load = history._load
    begun, go = threading.Event(), threading.Event()

    def slow() -> None:
        begun.set()
        assert go.wait(60)
        loads.append("loaded")
        load()

    monkeypatch.setattr(history, "_load", slow)
    monkeypatch.setattr(history, "LOAD_S", 60.0)
    ask = History(settings)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask.past, HIT)
        assert begun.wait(60)
        go.set()
        assert answer.result() == Past(hits={"192.0.2.7/32": ()})
    assert ask.past(HIT) is not None
    assert loads == ["loaded"]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """The client of each read of the store; an answer is waited for and kept for a minute."""
    monkeypatch.setattr(history, "WAIT_S", 60.0)
    monkeypatch.setattr(history, "FRESH_S", 60.0)
    found: list[str | None] = []
    read = History._read

    def count(self: History, engine: Engine, question: Any) -> Past:
        found.append(question.facts.client.prefix)
        return read(self, engine, question)

    monkeypatch.setattr(History, "_read", count)
    return found


def test_a_storm_is_one_read(
    settings: Settings, reads: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hits of one client within a moment ask the same; another client's is another question."""
    ask = History(settings)
    with ThreadPoolExecutor(8, "asks") as pool:
        answers = list(pool.map(lambda _: ask.past(HIT), range(50)))
    assert answers == [Past(hits={"192.0.2.7/32": ()})] * 50
    other = message(9, at=AT + 10, to=(), traps=("trap@home.example",), client="192.0.2.8")
    assert ask.past(record.read_seen(other).facts) == Past(hits={"192.0.2.8/32": ()})
    assert reads == ["192.0.2.7/32", "192.0.2.8/32"]
    monkeypatch.setattr(history, "FRESH_S", 0.0)
    assert ask.past(HIT) is not None
    assert len(reads) == 3


def test_an_answer_that_comes_between_two_looks_is_used(
    settings: Settings, reads: list[str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One hit finds no answer, another's reading begins and ends, the first goes on."""
    ask = History(settings)
    wait = ask._loaded.wait

    def between(timeout: float | None = None) -> bool:
        monkeypatch.setattr(ask._loaded, "wait", wait)
        assert ask.past(HIT) is not None
        return wait(timeout)

    monkeypatch.setattr(ask._loaded, "wait", between)
    assert ask.past(HIT) == Past(hits={"192.0.2.7/32": ()})
    assert reads == ["192.0.2.7/32"]


def test_what_the_url_says_is_kept(settings: Settings) -> None:
    """A schema of the operator's, a shorter time-out: ours do not replace them."""
    url = "postgresql://db.example/gatepost?connect_timeout=1&options=-c%20search_path%3Dgp"
    store = replace(settings.store, url=url)
    engine = history._reader(replace(settings, store=store))
    seen: dict[str, Any] = {}

    def refuse(dialect: Any, record: Any, arguments: Any, named: dict[str, Any]) -> None:
        seen.update(named)
        raise ConnectionError

    event.listen(engine, "do_connect", refuse)
    with pytest.raises(ConnectionError):
        engine.connect()
    assert int(seen["connect_timeout"]) == 1
    assert seen["options"].startswith("-c search_path=gp ")
    assert "statement_timeout" in seen["options"]
    assert seen["keepalives_idle"] == 20
