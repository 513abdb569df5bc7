"""The -shm of a SQLite store is removed or replaced under the services, and others write then.

SQLite keeps in it where each page is in the write-ahead log. Who has the removed one open and who
makes a new one would overwrite each other's commits.
"""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import AT, journal_of, message
from gatepost_policy import config, journal, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail import address
from gatepost_policy.recorder import Recorder


class Pair:
    """A writer and a recorder, step by step, and what they say."""

    def __init__(self, settings: Settings) -> None:
        self.said: list[str] = []
        self.path = Path(f"{config.database_path(settings)}")
        self.writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
        self.recorder = Recorder(settings, lambda level, text: self.said.append(text))
        assert self.recorder.lock()

    def take(self, *numbers: int) -> None:
        for n in numbers:
            assert self.writer.write(message(n))
        for _ in range(3):
            try:
                while self.recorder.step():
                    pass
                return
            except store.StoreError as error:  # as `run` does: said, and tried again
                self.recorder._complain(error)
                self.recorder._forget()
        raise AssertionError(self.said)


@pytest.fixture
def pair(settings: Settings, engine: Engine) -> Iterator[Pair]:
    engine.dispose()
    made = Pair(settings)
    made.take(1, 2)
    yield made
    made.recorder.close()
    made.writer.close()


def elsewhere(path: Path, sql: str) -> str:
    """What `sql` gives in another process."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
    code += "print(*[row[0] for row in c.execute(sys.argv[2])])"
    done = subprocess.run(
        [sys.executable, "-c", code, path, sql], check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


IDS = "SELECT queue_id FROM message ORDER BY id"


def replace(path: Path, how: str) -> None:
    index = Path(f"{path}-shm")
    if how == "removed":
        index.unlink()
    else:
        other = index.with_name("other")
        other.write_bytes(b"" if how == "empty" else index.read_bytes())
        os.rename(other, index)


@pytest.mark.parametrize("how", ["removed", "empty", "copied"])
def test_a_command_writes_beside_the_recorder(pair: Pair, how: str) -> None:
    replace(pair.path, how)
    elsewhere(pair.path, "CREATE TABLE theirs (x)")
    pair.take(3)
    elsewhere(pair.path, "CREATE TABLE theirs_too (x)")
    pair.take(4)
    for table in ("theirs", "theirs_too"):
        assert elsewhere(pair.path, f"SELECT count(*) FROM {table}") == "0"
    assert elsewhere(pair.path, IDS) == "Q1 Q2 Q3 Q4"
    assert [text for text in pair.said if "its -shm was removed" in text] == pair.said != []
    assert elsewhere(pair.path, "PRAGMA integrity_check") == "ok"


def test_the_other_one_is_still_there(pair: Pair) -> None:
    """It has the new index open, as a live page has it; and then it writes again."""
    replace(pair.path, "removed")
    code = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('CREATE TABLE theirs (x)'); print('made', flush=True)\n"
        "for line in sys.stdin: c.execute('INSERT INTO theirs VALUES (1)'); print(1, flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, pair.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as other:
        assert other.stdin and other.stdout
        assert other.stdout.readline() == "made\n"
        for n in range(3, 10):
            pair.take(n)
            other.stdin.write("again\n")
            assert other.stdout.readline() == "1\n"
        other.stdin.close()
    assert elsewhere(pair.path, IDS) == " ".join(f"Q{n}" for n in range(1, 10))
    assert elsewhere(pair.path, "SELECT count(*) FROM theirs") == "7"
    assert elsewhere(pair.path, "PRAGMA integrity_check") == "ok"


def test_another_engine_of_this_process_is_idle(pair: Pair, settings: Settings) -> None:
    """The metrics endpoint's: SQLite shares one index between all connections of a process."""
    other = store.open_engine(settings)
    with store.reading(other) as connection:
        connection.exec_driver_sql(IDS).all()
    replace(pair.path, "removed")
    elsewhere(pair.path, "CREATE TABLE theirs (x)")
    pair.take(3)
    assert elsewhere(pair.path, "SELECT count(*) FROM theirs") == "0"
    with store.reading(other) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM theirs").scalar() == 0
        assert [row[0] for row in connection.exec_driver_sql(IDS)] == ["Q1", "Q2", "Q3"]
    other.dispose()


def test_a_connection_in_use_holds_the_old_index(pair: Pair, settings: Settings) -> None:
    """Nothing is written meanwhile, and it is said; then it goes on."""
    other = store.open_engine(settings)
    with store.reading(other) as connection:
        connection.exec_driver_sql(IDS).all()
        replace(pair.path, "removed")
        elsewhere(pair.path, "CREATE TABLE theirs (x)")
        with pytest.raises(AssertionError, match="its -shm was removed while it was open"):
            pair.take(3)
    pair.take()
    assert elsewhere(pair.path, IDS) == "Q1 Q2 Q3"
    assert elsewhere(pair.path, "SELECT count(*) FROM theirs") == "0"
    other.dispose()


def test_it_is_removed_in_the_middle_of_a_transaction(pair: Pair, settings: Settings) -> None:
    engine = pair.recorder.engine()
    with (
        pytest.raises(store.StoreError, match="its -shm was removed"),
        store.writing(engine) as connection,
    ):
        connection.exec_driver_sql("CREATE TABLE ours (x)")
        replace(pair.path, "removed")
    elsewhere(pair.path, "CREATE TABLE theirs (x)")
    pair.take(3)
    assert elsewhere(pair.path, "SELECT count(*) FROM theirs") == "0"
    with pytest.raises(sqlite3.OperationalError), sqlite3.connect(pair.path) as connection:
        connection.execute("SELECT * FROM ours")


def test_replaced_while_it_is_opened(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was published is from the file before, also where its numbers are the same."""
    settings, other = pair.recorder.settings, pair.path.with_name("other.sqlite")
    with closing(sqlite3.connect(pair.path)) as here, closing(sqlite3.connect(other)) as there:
        here.backup(there)
    for path, trap in ((pair.path, "old@example.org"), (other, "new@example.org")):
        at = replaced(settings, store=replaced(settings.store, url=f"sqlite:///{path}"))
        engine = store.open_engine(at)
        with store.writing(engine) as connection:
            traps.add(connection, trap, at=AT)
        engine.dispose()
    pair.take(3)
    assert KnownState(settings).is_trap(address.parse("old@example.org"))
    pair.recorder._forget()
    opened = store.open_engine

    def open_engine(*given: Any, **named: Any) -> Engine:
        engine = opened(*given, **named)
        for name in ("-wal", "-shm"):
            Path(f"{pair.path}{name}").unlink(missing_ok=True)
        os.rename(other, pair.path)
        monkeypatch.undo()
        return engine

    monkeypatch.setattr(store, "open_engine", open_engine)
    pair.take(4)
    pair.take(5)
    known = KnownState(settings)
    assert known.is_trap(address.parse("new@example.org"))
    assert not known.is_trap(address.parse("old@example.org"))
    assert any("its file was replaced" in line for line in pair.said)
