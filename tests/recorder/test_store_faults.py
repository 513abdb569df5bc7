"""NASTY-INPUTS S1, S4, S5: whatever becomes of the store, mail is journaled and counted once."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, event

import sums
from fix_store import AT, count, journal_of, message, settings_in
from from_table import as_file
from gatepost_policy import config, ingest, journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal import record
from gatepost_policy.recorder import Recorder, intake

pytestmark = pytest.mark.slow

RECORDS = 20


def writer(settings: Settings) -> journal.Writer:
    return journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")


def fill(settings: Settings, first: int = 0) -> journal.Writer:
    w = writer(settings)
    for n in range(first, first + RECORDS):
        assert w.write(message(n, traps=("trap@home.example",) if n % 5 == 0 else ()))
    return w


def drain(settings: Settings) -> None:
    r = Recorder(settings)
    assert r.lock()
    while r.ingest_once():
        pass
    r.close()


def exactly_once(engine: Engine, wanted: int = RECORDS) -> None:
    assert count(engine, "message") == wanted
    assert count(engine, "identity", f"messages <> {wanted}") == 0
    sums.check(engine)


class Watched:
    """A recorder in a thread, and what it complains about."""

    def __init__(self, settings: Settings, prepare: Any = None) -> None:
        self.said: list[str] = []
        self.recorder = Recorder(settings, lambda level, text: self.said.append(text))
        if prepare is not None:
            engine = store.open_engine(settings)
            event.listen(engine, "connect", prepare)
            engine.dispose()
            self.recorder._engine = engine
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self.recorder.run, args=(self.stop,))
        self.thread.start()

    def until(self, what: Any) -> None:
        deadline = 60.0
        while not what():
            assert self.thread.is_alive(), self.said
            self.stop.wait(0.02)
            deadline -= 0.02
            assert deadline > 0, self.said

    def end(self) -> None:
        self.stop.set()
        self.thread.join()


def test_locked(tmp_path: Path, migrated: Path) -> None:
    shutil.copy(migrated, tmp_path / "gatepost.sqlite")
    settings = settings_in(tmp_path, store={"busy_ms": 50})
    other = sqlite3.connect(tmp_path / "gatepost.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    w = fill(settings)
    watched = Watched(settings)
    watched.until(lambda: watched.said)
    assert w.write(message(RECORDS)), "mail is unaffected"
    assert "is locked by another program" in watched.said[0]
    other.execute("ROLLBACK")
    other.close()
    engine = store.open_engine(settings)
    watched.until(lambda: count(engine, "message") == RECORDS + 1)
    watched.end()
    exactly_once(engine, RECORDS + 1)
    engine.dispose()


FAULTS = (
    ("full", "PRAGMA max_page_count = 1", "the disk is full"),
    ("read-only", "PRAGMA query_only = ON", "is read-only"),
)


@pytest.mark.parametrize(("name", "pragma", "want"), FAULTS, ids=[f[0] for f in FAULTS])
def test_full_and_read_only(
    settings: Settings, engine: Engine, name: str, pragma: str, want: str
) -> None:
    broken = True

    def prepare(dbapi: Any, record_: object) -> None:
        if broken:
            dbapi.execute(pragma)

    w = fill(settings)
    for n in range(RECORDS, 200):  # more than fits into the free pages there are
        w.write(message(n, sender=f"{'x' * 400}{n}@sender{n}.example"))
    watched = Watched(settings, prepare)
    watched.until(lambda: watched.said)
    assert want in watched.said[0]
    assert count(engine, "message") == 0
    broken = False
    watched.until(lambda: count(engine, "message") == 200)
    watched.end()
    sums.check(engine)


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
def test_a_server_that_is_read_only(any_settings: Settings, any_engine: Engine) -> None:
    name = any_engine.url.database
    with any_engine.connect() as connection:
        connection.exec_driver_sql(
            f'ALTER DATABASE "{name}" SET default_transaction_read_only = on'
        )
        connection.commit()
    fill(any_settings)
    watched = Watched(any_settings)
    watched.until(lambda: watched.said)
    assert "is read-only" in watched.said[0]
    with any_engine.connect() as connection:
        connection.exec_driver_sql("SET default_transaction_read_only = off")
        connection.exec_driver_sql(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
        connection.commit()
    any_engine.dispose()
    watched.until(lambda: count(any_engine, "message") == RECORDS)
    watched.end()
    exactly_once(any_engine)


@pytest.mark.postgresql
@pytest.mark.parametrize("any_settings", ["postgresql"], indirect=True)
@pytest.mark.parametrize(("set_to", "want"), [("off", "on"), ("remote_apply", "remote_apply")])
def test_a_commit_is_durable_whatever_the_server_likes(
    any_settings: Settings,
    any_engine: Engine,
    monkeypatch: pytest.MonkeyPatch,
    set_to: str,
    want: str,
) -> None:
    with any_engine.connect() as connection:
        connection.exec_driver_sql(
            f'ALTER DATABASE "{any_engine.url.database}" SET synchronous_commit = {set_to}'
        )
        connection.commit()
    seen: list[str] = []
    real = ingest.ingest

    def spy(connection: Any, *rest: Any) -> Any:
        seen.append(connection.exec_driver_sql("SHOW synchronous_commit").scalar_one())
        return real(connection, *rest)

    monkeypatch.setattr(intake, "ingest", spy)
    fill(any_settings)
    drain(any_settings)
    assert seen == [want]


def test_corrupt_then_restored(settings: Settings, tmp_path: Path) -> None:
    path = tmp_path / "gatepost.sqlite"
    shutil.copy(path, tmp_path / "backup")
    with path.open("r+b") as file:
        file.seek(0)
        file.write(os.urandom(8192))
    fill(settings)
    watched = Watched(settings)
    watched.until(lambda: watched.said)
    assert "is damaged" in watched.said[0]
    (tmp_path / "backup").replace(path)
    watched.until(lambda: not list(journal.segments(journal_of(settings))) or _holds(settings))
    watched.end()
    engine = store.open_engine(settings)
    exactly_once(engine)
    engine.dispose()


def _holds(settings: Settings) -> bool:
    try:
        engine = store.open_engine(settings)
        try:
            return count(engine, "message") == RECORDS
        finally:
            engine.dispose()
    except store.StoreError:
        return False


def test_a_newer_schema_waits(any_settings: Settings, any_engine: Engine) -> None:
    def revision(name: str) -> None:
        with store.writing(any_engine) as connection:
            connection.exec_driver_sql(f"UPDATE alembic_version SET version_num = '{name}'")

    from gatepost_policy.store import migrate

    revision("9999")
    fill(any_settings)
    watched = Watched(any_settings)
    watched.until(lambda: watched.said)
    assert "newer than this gatepost knows" in watched.said[0]
    assert count(any_engine, "message") == 0
    revision(migrate.HEAD)
    watched.until(lambda: count(any_engine, "message") == RECORDS)
    watched.end()
    exactly_once(any_engine)


def test_the_write_ahead_log_is_gone(settings: Settings, engine: Engine, tmp_path: Path) -> None:
    fill(settings)
    drain(settings)
    engine.dispose()
    for end in ("-wal", "-shm"):
        (tmp_path / f"gatepost.sqlite{end}").unlink(missing_ok=True)
    fill(settings, first=100)
    drain(settings)
    assert count(engine, "message") >= RECORDS
    sums.check(engine)


def lost_answer(engine: Engine, after: bool) -> None:
    """From now on one commit's answer gets lost: `after` it happened, or before."""
    real = engine.dialect.do_commit
    armed = [True]

    def do_commit(dbapi: Any) -> None:
        if not armed:
            real(dbapi)
            return
        armed.clear()
        if after:
            real(dbapi)
        kind = psycopg if engine.dialect.name == "postgresql" else sqlite3
        raise kind.OperationalError("server closed the connection unexpectedly")

    setattr(engine.dialect, "do_commit", do_commit)  # noqa: B010  # a method, to mypy


@pytest.mark.parametrize("after", [True, False], ids=["it holds", "it does not"])
def test_a_commit_whose_answer_got_lost(
    any_settings: Settings, any_engine: Engine, after: bool
) -> None:
    fill(any_settings)
    r = Recorder(any_settings)
    assert r.lock()
    lost_answer(r.engine(), after)
    with pytest.raises(store.StoreError):
        r.ingest_once()
    r._forget()
    while r.ingest_once():
        pass
    r.close()
    exactly_once(any_engine)


POINTS = (
    "segment-created",
    "before-write:7",
    "after-write:7",
    "before-commit",
    "before-commit:2",
    "after-commit",
    "after-commit:2",
    "before-unlink",
    "after-unlink",
)
CHILD = """
import json, sys
from pathlib import Path
from gatepost_policy import config, journal, recorder
from gatepost_policy.recorder import intake
settings = config.load(Path(sys.argv[1]))
intake.BATCH_RECORDS = 6
w = journal.Writer(config.journal_dir(settings), max_bytes=1 << 30, sync="process")
for line in sys.stdin:
    data = json.loads(line)
    assert w.write(data)
    print(data["queue_id"], flush=True)  # "the MTA is answered"
w.close()
r = recorder.Recorder(settings)
assert r.lock()
while r.ingest_once():
    pass
"""


@pytest.mark.slow
@pytest.mark.parametrize("point", POINTS)
def test_killed_at_every_point(
    any_settings: Settings, any_engine: Engine, point: str, tmp_path: Path
) -> None:
    lines = "".join(
        journal.encode(message(n, traps=("trap@home.example",) if n % 5 == 0 else ())).decode()
        + "\n"
        for n in range(RECORDS)
    )
    environment = {**os.environ, "GATEPOST_FAULT": f"kill:{point}"}
    child = subprocess.run(
        [sys.executable, "-c", CHILD, as_file(any_settings, tmp_path)],
        input=lines, capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert child.returncode == -9, child.stderr
    answered = child.stdout.split()
    drain(any_settings)
    with store.reading(any_engine) as connection:
        stored = connection.exec_driver_sql("SELECT queue_id FROM message").scalars().all()
    assert set(answered) <= set(stored)
    assert len(stored) == len(set(stored)) <= len(answered) + 1
    assert count(any_engine, "identity", f"messages <> {len(stored)}") == 0
    assert not journal.segments(journal_of(any_settings))
    assert count(any_engine, "journal_mark") == 0
    sums.check(any_engine)


def test_no_file_descriptor_left(settings: Settings, engine: Engine) -> None:
    w = writer(settings)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    spare = [os.dup(2) for _ in range(3)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, hard))
    fillers: list[int] = []
    try:
        while True:
            try:
                fillers.append(os.dup(2))
            except OSError:
                break
        assert not w.write(message(0)), used
    finally:
        for handle in (*spare, *fillers):
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    w._retry_at = 0
    assert w.write(message(1))
    drain(settings)
    assert count(engine, "message") == 1
    assert count(engine, "journal_gap", "lost = 1") == 1


TIMES = (0.0, -1.0, 2.0**31 + 5, 2.0**32 + 5, 253402300799.0, 1e11)


def test_absurd_times_are_stored(any_settings: Settings, any_engine: Engine) -> None:
    w = writer(any_settings)
    for n, at in enumerate(TIMES):
        w.write(message(n, at=at))
    drain(any_settings)
    assert count(any_engine, "message") == len(TIMES)
    assert not config.quarantine_dir(any_settings).exists()
    sums.check(any_engine)


def test_a_clock_that_jumps_back(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [AT]
    monkeypatch.setattr(time, "time", lambda: clock[0])
    w = writer(any_settings)
    for step, at in enumerate((AT, AT - 70 * 86_400, AT + 5)):
        clock[0] = at
        w.write(message(step, at=at))
        drain(any_settings)
    assert count(any_engine, "message") == 3
    assert count(any_engine, "identity", "messages = 3 AND days = 2") == 4
    sums.check(any_engine)


def test_records_of_older_versions_are_read(any_settings: Settings, any_engine: Engine) -> None:
    """What 0.1 wrote, byte for byte."""
    kept = Path(__file__).parents[1] / "schemas" / "journal-1.seg"
    directory = journal_of(any_settings)
    directory.mkdir(parents=True)
    shutil.copy(kept, directory / f"{'ab' * 16}.seg")
    drain(any_settings)
    assert count(any_engine, "message") == 2
    assert count(any_engine, "submission_count") == 1
    assert count(any_engine, "journal_gap") == 1
    assert record.VERSION >= 1
