"""/healthz is red where a store answers, and nothing of what waits is written into it."""

from types import SimpleNamespace

import pytest
from sqlalchemy import Engine

from fix_store import message
from gatepost_policy import config, journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring.metrics import Health
from gatepost_policy.recorder import Recorder


def test_red_while_nothing_is_stored(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000.0
    clock = SimpleNamespace(monotonic=lambda: now)  # not for the other threads of this process
    monkeypatch.setattr("gatepost_policy.monitoring.standing_still.time", clock)
    health = Health(settings, lambda: engine)
    writer = journal.Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
    assert writer.write(message(0))
    assert health.findings() == []
    now += 50  # a failover
    assert health.findings() == []
    # More comes, also from a new process: that is no progress.
    assert writer.write(message(1))
    other = journal.Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
    assert other.write(message(2))
    now += 11
    assert health.findings() == [
        "journal: nothing of what waits was stored for 61 s; the service's log says why"
    ]
    working = Recorder(settings, lambda level, text: None)
    assert working.lock() and working.ingest_once() == 3
    assert health.findings() == []
    # Records that wait for a moment, each time others: the recorder follows.
    for number in range(3, 8):
        assert writer.write(message(number))
        now += 40
        assert health.findings() == []
        working.ingest_once()
    working.close()
    writer.close()
    other.close()
