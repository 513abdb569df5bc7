"""A journal segment that is cut short, or replaced by something else, under its writer."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import journal_of, message
from gatepost_policy import config, journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import Recorder


class Pair:
    """A writer and a recorder, step by step, and what the writer says."""

    def __init__(self, settings: Settings, sync: str) -> None:
        self.settings = settings
        self.said: list[str] = []
        self.writer = journal.Writer(
            journal_of(settings), max_bytes=1 << 30, sync=sync, tell=self.said.append
        )
        self.recorder = Recorder(settings, lambda level, text: self.said.append(text))
        assert self.recorder.lock()

    def write(self, first: int, count: int = 10) -> None:
        for n in range(first, first + count):
            assert self.writer.write(message(n))

    def segment(self) -> Path:
        return journal.segments(journal_of(self.settings))[-1]

    def rows(self) -> list[str]:
        while self.recorder.ingest_once():
            pass
        with store.reading(self.recorder.engine()) as connection:
            sql = "SELECT queue_id FROM message ORDER BY id"
            return [row[0] for row in connection.exec_driver_sql(sql)]


@pytest.fixture(params=["process", "power"])
def pair(settings: Settings, engine: Engine, request: pytest.FixtureRequest) -> Iterator[Pair]:
    engine.dispose()
    made = Pair(settings, request.param)
    yield made
    made.writer.close()
    made.recorder.close()


def of(*numbers: int) -> list[str]:
    return [f"Q{n}" for n in numbers]


@pytest.mark.parametrize("left", [0.0, 0.3, 0.9])
def test_what_comes_after_the_cut_is_stored(pair: Pair, left: float) -> None:
    """It is appended before the recorder's watermark, where nobody would look for it."""
    pair.write(0)
    assert pair.rows() == of(*range(10))
    os.truncate(pair.segment(), int(pair.segment().stat().st_size * left))
    pair.write(10)
    assert pair.rows() == of(*range(20))
    assert ["was cut short" in text for text in pair.said] == [True]
    pair.write(20)
    assert pair.rows() == of(*range(30))


def test_a_record_that_is_read_at_its_old_place_is_not_stored_twice(pair: Pair) -> None:
    """Nothing of the segment was stored yet, so the recorder reads all that the cut has left."""
    pair.write(0)
    data = pair.segment().read_bytes()
    pieces = list(journal.read(pair.segment(), 0))
    os.truncate(pair.segment(), pieces[4].start)
    pair.write(10)
    assert sorted(pair.rows()) == sorted(of(0, 1, 2, 3, *range(10, 20)))
    assert len(data) > pieces[4].start


@pytest.mark.parametrize("what", ["directory", "text", "pipe", "older", "longer"])
def test_something_else_lies_in_the_place_of_a_segment(pair: Pair, what: str) -> None:
    pair.write(0, 5)
    older = pair.segment().read_bytes()
    assert pair.rows() == of(*range(5))
    pair.write(5, 5)
    segment = pair.segment()
    whole = segment.read_bytes()
    segment.unlink()
    if what == "directory":
        segment.mkdir()
        (segment / "file").touch()
    elif what == "pipe":
        os.mkfifo(segment)
    else:
        text = {"text": b"something", "older": older, "longer": whole + b"more"}[what]
        segment.write_bytes(text)
    pair.write(10)
    # The five that waited in the removed file as well: its writer still had them.
    assert pair.rows() == of(*range(20))
    assert pair.said[0].startswith("journal: the segment was taken away under its writer")
    kept = [p for p in segment.parent.iterdir() if p.name.startswith(f"{segment.name}.")]
    assert len(kept) == (what != "older")
    assert config.quarantine_dir(pair.settings).exists() is False


def test_a_journal_that_we_may_not_look_into_still_gets_the_records(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody took the directory's mode away: the open segment is as good as before."""
    writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
    assert writer.write(message(0))

    def denied(path: object) -> os.stat_result:
        raise PermissionError(13, "Permission denied", path)

    with monkeypatch.context() as patched:
        patched.setattr(os, "stat", denied)
        assert writer.write(message(1))
    writer.close()
    (segment,) = journal.segments(journal_of(settings))
    assert len(list(journal.read(segment, 0))) == 2
