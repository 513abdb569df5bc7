"""`milterctl watch` reads no further where the recorder does not keep up."""

import threading

import pytest

from fix_store import journal_of, message
from gatepost_milter.cli import watch_run
from gatepost_policy import journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.monitoring.maillog import MailLog

pytestmark = pytest.mark.slow

RECORDS = 5_000


def put(watch: watch_run.Watch) -> None:
    for n in range(RECORDS):
        watch._put(message(n))


def test_a_long_log_does_not_fill_the_journal(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch_run, "BACKLOG_BYTES", 100_000)
    monkeypatch.setattr(watch_run, "LOOK_S", 0.02)
    watch = watch_run.Watch(settings, MailLog(settings.log))
    reading = threading.Thread(target=put, args=(watch,), daemon=True)
    reading.start()
    reading.join(3)
    waiting = journal.size_of(journal_of(settings))
    assert reading.is_alive(), "all of it was written"
    one = len(journal.frame(message(0)))
    assert 100_000 < waiting < 100_000 + 2 * watch_run.LOOK_EVERY * one
    watch.stop.set()  # what was read is written down before the end
    reading.join(60)
    assert not reading.is_alive()
    watch.close()
