"""A SQLite store whose path has characters that mean something in a URL."""

from pathlib import Path

import pytest

from fix_store import journal_of, message, settings_in
from gatepost_policy import config, journal, store
from gatepost_policy.lookup.history import _reader
from gatepost_policy.recorder import Recorder


@pytest.mark.parametrize("name", ["a%20b", "100%", "a%00b", "what?x=1", "a#b", "a b", "[x]", "ä"])
def test_the_file_is_the_one_that_is_named(tmp_path: Path, name: str) -> None:
    """What is looked at (is it removed? replaced?) must be what is written to."""
    place = tmp_path / name
    place.mkdir()
    settings = settings_in(place, f"{place}/x.sqlite")
    assert config.database_path(settings) == place / "x.sqlite"
    writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    assert writer.write(message(1))
    writer.close()
    recorder = Recorder(settings, lambda level, text: None)
    assert recorder.lock()
    assert recorder.ingest_once() == 1
    assert store.name(recorder.engine()).startswith(f"store {tmp_path}")
    recorder.close()
    assert (place / "x.sqlite").exists()
    assert [p.name for p in tmp_path.iterdir()] == [name]
    reader = _reader(settings)
    with store.reading(reader) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM message").scalar() == 1
    reader.dispose()
