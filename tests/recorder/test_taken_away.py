"""Files that are removed or replaced under a running service: nothing is lost, and it is said."""

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import journal_of, message
from gatepost_policy import config, journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import Recorder
from gatepost_policy.store import file_identity

pytestmark = pytest.mark.slow


class Service:
    """A writer and a recorder that work as in the daemons, and what they say."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.said: list[str] = []
        self.stop = threading.Event()
        self.path = Path(f"{config.database_path(settings)}")
        self.writer = journal.Writer(
            journal_of(settings), max_bytes=1 << 30, sync="process", tell=self.said.append
        )
        self.recorder = Recorder(settings, lambda level, text: self.said.append(text))
        self.thread = threading.Thread(target=self.recorder.run, args=(self.stop,))
        self.thread.start()

    def write(self, first: int, count: int = 10) -> None:
        for n in range(first, first + count):
            assert self.writer.write(message(n))

    def rows(self) -> set[str]:
        """The messages in the file that lies at the store's path."""
        try:
            # Closed at once: what has the file open keeps SQLite from reading a cut log anew.
            with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                return {row[0] for row in connection.execute("SELECT queue_id FROM message")}
        except sqlite3.Error:
            return set()

    def until(self, what: Callable[[], bool]) -> None:
        for _ in range(3_000):
            if what():
                return
            assert self.thread.is_alive(), self.said
            threading.Event().wait(0.01)
        raise AssertionError((self.said, sorted(self.rows())))

    def has(self, first: int, last: int) -> bool:
        return {f"Q{n}" for n in range(first, last)} <= self.rows()

    def end(self) -> None:
        self.stop.set()
        self.thread.join()
        self.writer.close()


@pytest.fixture
def service(settings: Settings) -> Iterator[Service]:
    running = Service(settings)
    running.write(0)
    running.until(lambda: running.has(0, 10))
    yield running
    running.end()


def said(service: Service, words: str) -> bool:
    return any(words in line for line in service.said)


def backup(service: Service) -> Path:
    copy = service.path.with_name("backup.sqlite")
    with sqlite3.connect(service.path) as here, sqlite3.connect(copy) as there:
        here.backup(there)
    return copy


def test_the_store_is_replaced_by_a_backup(service: Service) -> None:
    copy = backup(service)
    service.write(10)
    service.until(lambda: service.has(10, 20))
    for name in ("-wal", "-shm"):
        Path(f"{service.path}{name}").unlink(missing_ok=True)
    os.rename(copy, service.path)
    service.write(20)
    service.until(lambda: service.has(20, 30))
    # The segment still holds what the backup lacks, and the backup's watermark says from where.
    assert service.has(0, 30)
    assert len(service.rows()) == 30
    assert said(service, "its file was replaced")


def test_a_replaced_store_is_not_mixed_with_the_old_log(service: Service) -> None:
    copy = backup(service)
    service.write(10)
    service.until(lambda: service.has(10, 20))
    os.rename(copy, service.path)  # and the old -wal stays beside it
    service.write(20)
    service.until(lambda: said(service, "the -wal and -shm beside it are the old one's"))
    for name in ("-wal", "-shm"):
        Path(f"{service.path}{name}").unlink(missing_ok=True)
    service.until(lambda: service.has(0, 30))
    with sqlite3.connect(service.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def elsewhere(path: Path | str, sql: str) -> None:
    """`sql` in another process: within one SQLite shares what it knows of the log."""
    code = "import sqlite3, sys; c = sqlite3.connect(sys.argv[1], isolation_level=None);"
    code += " c.execute(sys.argv[2]).fetchone()"
    subprocess.run([sys.executable, "-c", code, path, sql], check=True, timeout=60)


def without_log(service: Service) -> None:
    """Somebody tidies up: `rm *-wal *-shm`."""
    for name in ("-wal", "-shm"):
        Path(f"{service.path}{name}").unlink()


@pytest.mark.parametrize("looked_at", [False, True], ids=["alone", "beside a reader"])
def test_the_log_of_an_open_store_is_removed(service: Service, looked_at: bool) -> None:
    """What it held is written into the file, and what comes next is not written into nothing."""
    service.write(10)
    service.until(lambda: service.has(10, 20))
    without_log(service)
    if looked_at:
        elsewhere(service.path, "SELECT count(*) FROM sqlite_master")
    service.until(lambda: said(service, "its -wal was removed"))
    service.write(20)
    service.until(lambda: service.has(0, 30))
    service.end()
    assert len(service.rows()) == 30
    with sqlite3.connect(service.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("open_elsewhere", [False, True], ids=["alone", "beside a reader"])
@pytest.mark.parametrize("left", [0, 0.5])
def test_the_log_of_an_open_store_is_cut_short(
    service: Service, left: float, open_elsewhere: bool
) -> None:
    """`> gatepost.sqlite-wal`: said, and what comes next is not written behind a hole."""
    service.write(10)
    service.until(lambda: service.has(10, 20))
    reader = sqlite3.connect(service.path) if open_elsewhere else None
    if reader is not None:
        assert reader.execute("SELECT count(*) FROM message").fetchone() == (20,)
    log = Path(f"{service.path}-wal")
    size = int(left if left != 0.5 else log.stat().st_size * left)
    os.truncate(log, size)
    service.write(20)
    service.until(lambda: said(service, "its -wal was cut short"))
    service.write(30)
    if reader is not None:
        assert not service.has(20, 40), "SQLite reads the log anew when nobody has it open"
        reader.close()
    service.until(lambda: service.has(20, 40))
    service.end()
    assert len(service.rows()) == 40, "its segment was still there"
    with sqlite3.connect(service.path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_log_that_sqlite_makes_shorter_is_not_cut(settings: Settings, engine: Engine) -> None:
    """By a checkpoint of our own, and by one of another process."""
    path = f"{config.database_path(settings)}"
    for n in range(3):
        with store.writing(engine) as connection:
            connection.exec_driver_sql(f"CREATE TABLE t{n} (x)")
        assert os.stat(f"{path}-wal").st_size > 0 and not file_identity.is_cut(path)
        elsewhere(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert os.stat(f"{path}-wal").st_size == 0 and not file_identity.is_cut(path)
    with store.writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE after (x)")
    os.truncate(f"{path}-wal", 100)
    assert file_identity.is_cut(path), "or this test could not fail"


def test_to_look_at_the_log_gives_no_lock_away(settings: Settings, engine: Engine) -> None:
    """Another program that opens the database would else take itself for the first one, and empty
    the index that is in use here (SQLite, os_unix.c: the lock of octet 128 of the -shm file)."""
    path = f"{config.database_path(settings)}"
    with store.writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE t (x)")
    code = (
        "import fcntl, sys; file = open(sys.argv[1], 'r+b')\n"
        "fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)"
    )
    words = [sys.executable, "-c", code, f"{path}-shm"]
    assert not file_identity.is_cut(path)
    tried = subprocess.run(words, capture_output=True, text=True, check=False)
    assert "BlockingIOError" in tried.stderr
    with store.reading(engine) as connection:
        assert connection.exec_driver_sql("SELECT * FROM t").all() == []


def test_it_is_not_said_that_a_removed_log_is_saved_before_it_is(settings: Settings) -> None:
    """One connection is in use elsewhere and alone holds the log; another one proves nothing."""
    told: list[str] = []
    recorder = Recorder(settings, lambda level, text: told.append(text))
    assert recorder.lock()
    recorder.step()
    in_use = recorder.engine().connect().execution_options(gatepost_writing=True)
    with in_use.begin():
        in_use.exec_driver_sql("CREATE TABLE held (x)")
    path = f"{config.database_path(settings)}"
    for name in ("-wal", "-shm"):
        os.unlink(f"{path}{name}")
    recorder._look_at_files()
    assert ["removed" in text for text in told] == [True]
    assert "in the file now" not in told[0]
    with pytest.raises(subprocess.CalledProcessError):
        elsewhere(path, "SELECT * FROM held")
    in_use.close()
    recorder._look_at_files()
    assert [text for text in told if "is in the file now" in text] == told[1:] != []
    elsewhere(path, "SELECT * FROM held")
    recorder.close()


def test_a_log_that_somebody_wrote_meanwhile_is_not_mixed_with_ours(
    settings: Settings, engine: Engine
) -> None:
    """Two logs of one file break it: ours stays out, and it is said what is lost."""
    with store.writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE ours (x)")
    path = Path(f"{config.database_path(settings)}")
    for name in ("-wal", "-shm"):
        Path(f"{path}{name}").unlink()
    elsewhere(path, "CREATE TABLE theirs (x)")
    with (
        pytest.raises(store.StoreError, match="what only one of the two held is lost"),
        store.writing(engine) as connection,
    ):
        connection.exec_driver_sql("INSERT INTO ours VALUES (1)")
    engine.dispose()
    with store.writing(engine) as connection:
        connection.exec_driver_sql("CREATE TABLE after (x)")
    elsewhere(path, "SELECT * FROM after")
    with sqlite3.connect(path) as looked:
        assert looked.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_store_that_was_removed_is_missed_not_made_anew(service: Service) -> None:
    copy = backup(service)
    for name in ("", "-wal", "-shm"):
        Path(f"{service.path}{name}").unlink(missing_ok=True)
    service.write(10)
    service.until(lambda: said(service, "its file was removed"))
    assert not service.path.exists()
    with pytest.raises(store.StoreError, match="there is no file"):
        store.open_engine(service.settings, create=False)
    # Its operator puts the backup back: the journal has kept what came.
    os.rename(copy, service.path)
    service.until(lambda: service.has(0, 20))
    assert len(service.rows()) == 20


def test_a_new_store_is_made_when_asked_for(service: Service) -> None:
    for name in ("", "-wal", "-shm"):
        Path(f"{service.path}{name}").unlink(missing_ok=True)
    service.write(10)
    service.until(lambda: said(service, "its file was removed"))
    store.open_engine(service.settings, create=True).dispose()
    # The segment is still there: what the old store had of it comes back as well.
    service.until(lambda: service.has(0, 20))


@pytest.mark.parametrize("how", ["removed", "moved"])
def test_the_journal_is_taken_away(service: Service, how: str) -> None:
    place = journal_of(service.settings)
    service.write(10)
    if how == "removed":
        shutil.rmtree(place)
    else:
        os.rename(place, place.with_name("elsewhere"))
    service.write(20)
    service.until(lambda: service.has(0, 30))
    assert len(service.rows()) == 30, "nothing twice"
    assert said(service, "was taken away under its writer")
    assert said(service, "it is made again")
    service.write(30)
    service.until(lambda: service.has(0, 40))
    assert len(service.rows()) == 40


def test_the_whole_state_is_removed(service: Service) -> None:
    state = config.state_dir(service.settings)
    service.write(10)
    while state.exists():  # the service may make a file of it anew in between
        shutil.rmtree(state, ignore_errors=True)
    service.write(20)
    service.until(lambda: said(service, "its file was removed"))
    service.end()
    # A restart makes a new store, as the first start did, and takes in what the journal holds.
    again = Service(service.settings)
    again.until(lambda: again.has(0, 30))
    again.end()


def test_one_segment_is_removed(service: Service) -> None:
    service.write(10)
    for segment in journal.segments(journal_of(service.settings)):
        segment.unlink()
    service.write(20)
    service.until(lambda: service.has(0, 30))
    assert len(service.rows()) == 30


def test_an_older_copy_of_the_journal_is_put_back(service: Service) -> None:
    place = journal_of(service.settings)
    shutil.copytree(place, place.with_name("copy"), ignore=shutil.ignore_patterns("poke"))
    service.write(10)
    service.until(lambda: service.has(0, 20))
    os.rename(place, place.with_name("elsewhere"))
    os.rename(place.with_name("copy"), place)
    service.write(20)
    service.until(lambda: service.has(0, 30))
    assert len(service.rows()) == 30


def test_somebody_elses_file_under_our_name(service: Service) -> None:
    (segment,) = journal.segments(journal_of(service.settings))
    segment.unlink()
    segment.write_bytes(b"precious")
    service.write(10, 1)
    service.write(11, 1)
    service.until(lambda: service.has(0, 12))
    assert len(service.rows()) == 12
    assert [p.read_bytes() for p in segment.parent.glob(f"{segment.name}.*")] == [b"precious"]


def test_a_log_that_sqlite_itself_removes_is_no_news(settings: Settings) -> None:
    """The last connection that is closed takes the log away: after any error of the store."""
    told: list[str] = []
    recorder = Recorder(settings, lambda level, text: told.append(text))
    assert recorder.lock()
    recorder.step()
    recorder._forget()
    assert not Path(f"{config.database_path(settings)}-wal").exists()
    recorder.step()
    recorder.close()
    assert told == []


def test_a_log_removed_within_a_step_is_said(settings: Settings) -> None:
    """The connection that writes it into the file makes a new one, often with the same inode."""
    told: list[str] = []
    with closing(Recorder(settings, lambda level, text: told.append(text))) as recorder:
        assert recorder.lock()
        _ = recorder.step(), recorder.step()
        Path(f"{config.database_path(settings)}-wal").unlink()
        recorder.engine().connect().close()
        recorder.step()
    assert "its -wal was removed" in told[0]


def test_a_name_that_cannot_be_read_is_said(service: Service) -> None:
    """The recorder goes on once it can be, and does not die of it."""
    place = journal_of(service.settings)
    service.write(0)
    service.until(lambda: service.has(0, 10))
    for name in ("recorder.lock", "host"):
        (place / name).unlink()
    (place / "host").mkdir()
    service.until(lambda: said(service, "Is a directory"))
    (place / "host").rmdir()
    service.write(10)
    service.until(lambda: service.has(0, 20))
    service.end()


def test_records_are_taken_in_while_nothing_can_be_published(service: Service) -> None:
    """A directory lies where a published file should be: said once, and mail is recorded."""
    service.write(0)
    service.until(lambda: service.has(0, 10))
    known = config.state_dir(service.settings) / "known.now"
    service.until(known.is_file)
    known.unlink()
    known.mkdir()
    service.until(lambda: said(service, "stays as it was"))
    for first in range(10, 110, 10):
        service.write(first)
        service.until(lambda last=first + 10: service.has(0, last))  # type: ignore[misc]
    known.rmdir()
    service.until(known.is_file)
    service.end()
    assert len(service.said) == len(set(service.said)), "each trouble is said once"
