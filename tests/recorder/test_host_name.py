"""A journal's name: two machines never have the same one, whatever was copied between them."""

import shutil
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import AT, journal_of, message, settings_in
from gatepost_policy import journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import Recorder, host_name


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe\x00", b"../../x", b"a" * 500, b"a b c"])
def test_a_damaged_name_is_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / host_name.FILE).write_bytes(content)
    name = host_name.of(tmp_path)
    assert name.isalnum() and name == host_name.of(tmp_path) == host_name.read(tmp_path)
    assert host_name.of(tmp_path, "known") == name


def test_a_name_of_an_earlier_release_stays(tmp_path: Path) -> None:
    (tmp_path / host_name.FILE).write_text("0123456789abcdef")
    assert host_name.of(tmp_path) == host_name.read(tmp_path) == "0123456789abcdef"


def test_a_directory_that_came_back_keeps_its_name(tmp_path: Path) -> None:
    assert host_name.of(tmp_path, "known") == host_name.of(tmp_path) == "known"


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_cloned_machine(
    any_settings: Settings, any_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal was copied with it: neither forgets what the other one has read."""

    def on(machine: str, directory: str) -> Recorder:
        monkeypatch.setattr(host_name, "machine", lambda: machine)
        settings = settings_in(tmp_path / directory, any_settings.store.url)
        recorder = Recorder(settings, lambda level, text: None)
        assert recorder.lock()
        return recorder

    first = on("one", "first")
    places = [journal_of(settings_in(tmp_path / name)) for name in ("first", "second")]
    places[1].mkdir(parents=True)
    shutil.copy(places[0] / host_name.FILE, places[1])
    both = [first, on("two", "second")]
    writers = [journal.Writer(place, max_bytes=1 << 30, sync="process") for place in places]
    for number in range(4):
        for host, recorder in enumerate(both):
            writers[host].write(message(10 * host + number, at=AT))
            recorder.ingest_once()
            recorder._forget()  # as after an error: what is remembered is read again
    for recorder in both:
        recorder.close()
    with store.reading(any_engine) as connection:
        sql = "SELECT count(*), count(DISTINCT queue_id) FROM message"
        assert connection.exec_driver_sql(sql).one() == (8, 8)
