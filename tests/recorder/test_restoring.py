"""A backup of a busy store, and a restore that is ended half-way or is not alone."""

import os
import shutil
import sqlite3
import threading
from contextlib import closing
from pathlib import Path

import pytest

from fix_store import AT, message
from gatepost_policy import config, recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import backup, restoring

pytestmark = pytest.mark.slow


def take(settings: Settings, first: int, count: int) -> None:
    engine = store.open_engine(settings)
    messages = [message(n, at=AT + n) for n in range(first, first + count)]
    recorder.record_batch(engine, messages, settings)
    engine.dispose()


def ids(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT queue_id FROM message ORDER BY id")]


def test_a_store_that_is_written_to_all_the_time(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite begins its copy anew after a commit of another: a large one would never be whole."""
    take(settings, 0, 50)
    path = Path(f"{config.database_path(settings)}")
    monkeypatch.setattr(backup, "PAGES", 1)
    begun, stop = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=20, isolation_level=None)) as connection:
            for number in range(3_000):
                connection.execute("UPDATE message SET size = ? WHERE id = 1", (number,))
                begun.set()
                if stop.is_set():
                    return

    writing = threading.Thread(target=write)
    writing.start()
    assert begun.wait(20)
    backup.make(settings, tmp_path / "x.tar")
    still = writing.is_alive()
    stop.set()
    writing.join()
    assert still, "the copy was made when nobody wrote any more"
    assert backup.verify(tmp_path / "x.tar").messages == 50


def test_killed_when_the_new_file_is_there(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old write-ahead log lies beside the new file: nothing of it may get into that."""
    take(settings, 0, 5)
    backup.make(settings, tmp_path / "x.tar")
    path = Path(f"{config.database_path(settings)}")
    with closing(sqlite3.connect(path)) as services:
        services.execute("SELECT count(*) FROM message").fetchone()
        take(settings, 5, 300)
        assert Path(f"{path}-wal").stat().st_size
        replace = os.replace

        def killed(source: Path, target: Path) -> None:
            replace(source, target)
            if target == path:
                raise KeyboardInterrupt

        monkeypatch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            restoring.restore(settings, tmp_path / "x.tar")
        monkeypatch.undo()
        after = tmp_path / "after"
        after.mkdir()
        for name in (path.name, f"{path.name}-wal"):
            if path.with_name(name).exists():
                shutil.copy(path.with_name(name), after / name)
    assert ids(after / path.name) == [f"Q{n}" for n in range(5)]
    (kept,) = path.parent.glob(f"{path.name}.before-*")
    assert len(ids(kept)) == 305


def test_two_at_once(settings: Settings, tmp_path: Path) -> None:
    """Each keeps what was there before it, whole; the store is one of the two backups."""
    made: list[Path] = []
    for number in range(2):
        take(settings, number * 10, 10)
        made.append(tmp_path / f"{number}.tar")
        backup.make(settings, made[-1])
    take(settings, 20, 10)
    path = Path(f"{config.database_path(settings)}")
    dead = path.with_name(f"{restoring.ASIDE}dead")
    dead.mkdir()
    (dead / "gatepost.sqlite").touch()
    done: list[restoring.Restored] = []
    at_once = [
        threading.Thread(target=lambda source=one: done.append(restoring.restore(settings, source)))
        for one in made
    ]
    for one in at_once:
        one.start()
    for one in at_once:
        one.join()
    first, second = done
    assert first.kept is not None and second.kept is not None
    assert len(ids(first.kept)) == 30
    assert len(ids(second.kept)) == first.contents.messages
    assert len(ids(path)) == second.contents.messages
    assert not list(path.parent.glob(f"{restoring.ASIDE}*"))
