"""PostgreSQL: where another session keeps a table locked, commands and the recorder say so."""

from pathlib import Path

import pytest

from fix_store import message, settings_in
from gatepost_policy import config, journal, store
from gatepost_policy.recorder import Recorder
from gatepost_policy.store import connect, migrate
from postgresql_server import Server

pytestmark = pytest.mark.postgresql


def test_nobody_waits_without_a_word(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As VACUUM FULL or a long ALTER TABLE does it; the record is stored when it is over."""
    monkeypatch.setattr(connect, "LOCK_TIMEOUT_MS", 200)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    settings = settings_in(tmp_path, postgresql.create("locked"))
    engine = store.open_engine(settings, ensure=False)
    migrate.upgrade(engine)
    writer = journal.Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
    assert writer.write(message(0))
    recorder = Recorder(settings, lambda level, text: None)
    assert recorder.lock()
    with engine.connect() as other:
        other.exec_driver_sql("LOCK TABLE message IN ACCESS EXCLUSIVE MODE")
        wanted = "another session keeps it locked; find it in pg_stat_activity"
        with pytest.raises(store.StoreError, match=wanted) as caught:
            with store.reading(engine) as connection:
                connection.exec_driver_sql("SELECT count(*) FROM message")
        with pytest.raises(store.StoreError, match="takes longer than allowed"):
            with store.reading(engine) as connection:
                connection.exec_driver_sql("SET LOCAL statement_timeout = 50")
                connection.exec_driver_sql("SELECT count(*) FROM message")
        assert caught.value.temporary
        with pytest.raises(store.StoreError, match=wanted):
            recorder.ingest_once()
    assert recorder.ingest_once() == 1
    recorder.close()
    writer.close()
    engine.dispose()
