"""A recorder that gets mail all the time marks old mail and forgets, too."""

import time
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from fix_store import AT, count, journal_of, message
from gatepost_policy import journal, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import Recorder

Busy = tuple[journal.Writer, Recorder, list[float]]


@pytest.fixture
def busy(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    """A writer, the recorder of its journal, and the times at which that one began to purge."""
    writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    recorder = Recorder(settings, lambda level, text: None)
    assert recorder.lock()
    purged: list[float] = []
    monkeypatch.setattr(recorder, "_purge", lambda now, at: purged.append(at))
    yield writer, recorder, purged
    writer.close()
    recorder.close()


def test_mail_at_every_look(engine: Engine, busy: Busy) -> None:
    """At five messages a second there is never a look that finds nothing."""
    writer, recorder, purged = busy
    for n in range(10):
        assert writer.write(message(n, to=("old@home.example",)))
    recorder.step()
    with store.writing(engine) as connection:
        traps.add(connection, "old@home.example", at=AT)
    purged.clear()
    end, n = time.monotonic() + 20.0, 10
    while count(engine, "message", "traps > 0") < 10 and time.monotonic() < end:
        n += 1
        assert writer.write(message(n, to=("user@home.example",)))
        recorder.step()
        assert recorder._took == 1
        time.sleep(0.05)
    assert count(engine, "message", "traps > 0") == 10
    assert purged
    # It does not take more than its half.
    rests = len(purged)
    for _ in range(3):
        n += 1
        assert writer.write(message(n, to=("user@home.example",)))
        recorder.step()
    assert len(purged) <= rests + 1


def test_a_backlog_comes_first(busy: Busy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gatepost_policy.recorder.intake.BATCH_RECORDS", 5)
    writer, recorder, purged = busy
    for n in range(12):
        assert writer.write(message(n))
    assert [recorder.step() for _ in range(2)] == [True, True]
    assert not purged
    recorder.step()
    assert purged
