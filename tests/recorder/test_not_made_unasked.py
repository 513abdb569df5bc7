"""A store whose file is gone: nothing makes an empty one in its place unless it is asked to.

Everybody would take the empty one for the store: no traps, no listings, and a green /healthz.
"""

import os
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from fix_store import message
from gatepost_milter.cli.milterctl import cli
from gatepost_milter.doctor import installation as doctor
from gatepost_milter.engine.children import RECORDER
from gatepost_policy import config, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import Writer
from gatepost_policy.recorder import Recorder
from gatepost_policy.store import removed

COMMANDS = (
    "report",
    "trap list",
    "trap add trap@home.example",
    "sender list",
    "data export a@b.example",
    "db check",
    "db purge",
    "db current",
    "export plain",
    "why 1",
    "stat",
    "backtest",
    "trap mine",
)


def remove(path: Path, settings: Settings, how: str = "removed") -> None:
    """The store's file, after a service has worked with it."""
    before = Recorder(settings, lambda level, text: None)
    assert before.lock()
    before.step()
    before.close()
    for name in ("", "-wal", "-shm"):
        Path(f"{path}{name}").unlink(missing_ok=True)
    if how == "emptied":
        path.touch()


@pytest.mark.parametrize("how", ["removed", "emptied"])
@pytest.mark.parametrize("waits", [False, True], ids=["empty journal", "a record waits"])
def test_no_command_makes_a_store_where_one_was(
    settings: Settings, engine: Engine, tmp_path: Path, waits: bool, how: str
) -> None:
    engine.dispose()
    path = Path(f"{config.database_path(settings)}")
    remove(path, settings, how)
    want = {"removed": "there is no file", "emptied": "the file is empty"}[how]
    if waits:
        writer = Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
        assert writer.write(message(1))
        writer.close()
    file = tmp_path / "gatepost.toml"
    file.write_text(f'store.url = "{settings.store.url}"\n')
    for words in COMMANDS:
        result = CliRunner().invoke(cli, ["--config", str(file), *words.split()])
        assert not removed.is_there(path), words
        error = result.exception
        assert error is None or isinstance(error, SystemExit | store.StoreError), result.exc_info
        # `db current` says "none", `stat` needs no store; all others say what to do.
        if words not in ("db current", "stat"):
            assert want in f"{result.output}{error}", words
    (found,) = doctor._store(settings, 0.0)
    assert want in f"{found}"


@contextmanager
def recording(*recorders: Recorder) -> Iterator[None]:
    stop = threading.Event()
    threads = [threading.Thread(target=r.run, args=(stop,)) for r in recorders]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def until(what: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if what():
            return
        threading.Event().wait(0.01)
    raise AssertionError("did not come")


def test_a_recorder_that_waited_makes_no_store(settings: Settings) -> None:
    """The state directory is moved away: the lock is free there, so the other service's recorder,
    which has never opened the store, gets it."""
    told: list[str] = []

    def tell(level: str, text: str) -> None:
        told.append(text)

    first, second = Recorder(settings, tell), Recorder(settings, tell)
    path = Path(f"{config.database_path(settings)}")
    assert first.lock()
    with recording(second):
        first.step()
        until(lambda: not second.create)
        state = config.state_dir(settings)
        os.rename(state, state.with_name("moved"))
        until(lambda: any("there is no file; restore it" in text for text in told))
        assert not path.exists()
    first.close()


def test_a_command_beside_a_recorder_makes_no_store(settings: Settings) -> None:
    """Also where the whole state directory went, and with it the trace that there was a store."""
    recorder = Recorder(settings, lambda level, text: None)
    assert recorder.lock()
    recorder.step()
    state = config.state_dir(settings)
    path = Path(f"{config.database_path(settings)}")
    shutil.rmtree(state)
    assert recorder.lock(), "in the directory that it has made again"
    with pytest.raises(store.StoreError, match="there is no file"):
        store.open_engine(settings)
    assert not path.exists()
    recorder.close()
    # Nobody works with a store here: the first command on a new machine makes one.
    store.open_engine(settings).dispose()
    assert path.exists()


def test_a_command_waits_for_a_recorder_that_has_just_started(settings: Settings) -> None:
    recorder = Recorder(settings, lambda level, text: None)
    assert recorder.lock()
    timer = threading.Timer(0.2, recorder.engine)
    timer.start()
    store.open_engine(settings).dispose()
    timer.join()
    recorder.close()


def test_a_recorder_that_is_started_again_makes_no_store(
    settings: Settings, engine: Engine
) -> None:
    """The parent's new child after a kill -9 of the old one."""
    engine.dispose()
    path = Path(f"{config.database_path(settings)}")
    remove(path, settings)
    stop = threading.Event()
    assert RECORDER.again is not None
    thread = threading.Thread(target=RECORDER.again, args=(settings, stop))
    thread.start()
    until(lambda: (config.journal_dir(settings) / "host").exists())
    threading.Event().wait(0.5)
    stop.set()
    thread.join()
    assert not path.exists()


def test_a_start_that_makes_a_new_store_says_so(settings: Settings, engine: Engine) -> None:
    engine.dispose()
    path = Path(f"{config.database_path(settings)}")
    remove(path, settings)
    told: list[tuple[str, str]] = []
    recorder = Recorder(settings, lambda level, text: told.append((level, text)))
    assert recorder.lock()
    recorder.step()
    recorder.close()
    assert path.exists()
    assert [level for level, text in told if "there was no file any more" in text] == ["error"]


def test_a_first_start_says_nothing(settings: Settings) -> None:
    told: list[str] = []
    recorder = Recorder(settings, lambda level, text: told.append(text))
    assert recorder.lock()
    recorder.step()
    recorder.close()
    assert told == []


def test_a_store_that_is_emptied_under_the_recorder(settings: Settings) -> None:
    """`> gatepost.sqlite`: SQLite would begin a new database in it."""
    told: list[str] = []
    recorder = Recorder(settings, lambda level, text: told.append(text))
    writer = Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
    path = Path(f"{config.database_path(settings)}")
    assert writer.write(message(1))
    with recording(recorder):
        until(lambda: journal_mark_of(path) > 0)
        with sqlite3.connect(path) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()
        os.truncate(path, 0)
        assert writer.write(message(2))
        until(lambda: any("emptied" in text for text in told))
        threading.Event().wait(0.5)
    writer.close()
    assert not path.exists() or tables(path) == []
    assert not any("made a new" in text for text in told)


def journal_mark_of(path: Path) -> int:
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return int(connection.execute("SELECT count(*) FROM journal_mark").fetchone()[0])
    except sqlite3.Error:
        return 0


def tables(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT name FROM sqlite_master")]
