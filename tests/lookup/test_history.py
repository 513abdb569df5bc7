"""How the milter's workers ask the store about those who may be to blame."""

import threading
from concurrent.futures import ThreadPoolExecutor
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


def test_only_our_own_thread_touches_the_store(any_engine: Engine, any_settings: Settings) -> None:
    """Whoever asks, on how many threads: in libmilter's own the database's driver may crash."""
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
