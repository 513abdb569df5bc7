"""Old mail meets new traps while another host writes: nobody is locked out, nothing is lost."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine

import sums
from fix_report import LEARNED, SLOW, TRAP
from fix_store import settings_in
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks
from gatepost_policy.store import revision
from postgresql_server import Server

pytestmark = pytest.mark.postgresql
PATIENCE_S = 60.0
DAY = "UPDATE domain_day SET messages = messages WHERE reversed = ''"
IDENTITY = "UPDATE identity SET messages = messages WHERE value = 'slow.example'"
# Theirs alone: a session of ours looks for a deadlock three seconds after it began to wait.
WAIT_LONG = "SET LOCAL deadlock_timeout = '1min'"


@pytest.fixture
def shared(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """A store with mail in it whose recipient has become a trap since."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    name = f"g{time.monotonic_ns()}"
    settings = settings_in(tmp_path, postgresql.create(name, "ready"))
    engine = store.open_engine(settings)
    recorder.record_batch(engine, [mail.json() for mail in SLOW], settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=LEARNED)
        connection.exec_driver_sql(f"ALTER DATABASE {name} SET deadlock_timeout = '3s'")
    engine.dispose()
    yield settings
    postgresql.drop(name)


class Looking(threading.Thread):
    """`trap_marks.settle`, as another host's report runs it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.settings = settings
        self.changed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        engine = store.open_engine(self.settings)
        try:
            self.changed = trap_marks.settle(engine, self.settings)
        except Exception as error:
            self.error = error
        finally:
            engine.dispose()

    def wait_for_lock(self, connection: Connection) -> None:
        """Until it waits for what `connection` has locked."""
        end = time.monotonic() + PATIENCE_S
        waits = (
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        while not connection.exec_driver_sql(waits).scalar_one():
            assert self.is_alive() and time.monotonic() < end, self.error
            # Within a transaction the view stays as it was first seen.
            connection.exec_driver_sql("SELECT pg_stat_clear_snapshot()")
            time.sleep(0.01)


@pytest.fixture
def engine(shared: Settings) -> Iterator[Engine]:
    opened = store.open_engine(shared)
    yield opened
    opened.dispose()


def all_is_counted(engine: Engine, looking: Looking) -> None:
    looking.join(PATIENCE_S)
    assert (looking.error, looking.changed) == (None, 5)
    with store.reading(engine) as connection:
        sql = "SELECT trap_messages FROM identity WHERE value = 'slow.example'"
        assert set(connection.exec_driver_sql(sql).scalars()) == {5}
    sums.check(engine)


def test_locks_are_taken_as_the_recorder_takes_them(shared: Settings, engine: Engine) -> None:
    """Who waits for a sum holds no identity: a recorder that has the sum can go on."""
    looking = Looking(shared)
    with store.writing(engine) as connection:
        connection.exec_driver_sql(DAY)
        looking.start()
        looking.wait_for_lock(connection)
        connection.exec_driver_sql("SET LOCAL lock_timeout = '1ms'")
        connection.exec_driver_sql(IDENTITY)
    all_is_counted(engine, looking)


def test_a_deadlock_is_tried_again(shared: Settings, engine: Engine) -> None:
    """Somebody takes the locks the other way round: the server ends our work, we do it again."""
    looking = Looking(shared)
    with store.writing(engine) as connection:
        connection.exec_driver_sql(WAIT_LONG)
        before = deadlocks(connection)
        connection.exec_driver_sql(IDENTITY)
        looking.start()
        looking.wait_for_lock(connection)
        connection.exec_driver_sql(DAY)  # waits until the server has ended the other one
    all_is_counted(engine, looking)
    end = time.monotonic() + PATIENCE_S
    while True:  # the figures come a little later
        with store.reading(engine) as connection:
            if deadlocks(connection) > before:
                break
        assert time.monotonic() < end, "there was no deadlock: this test has tested nothing"
        time.sleep(0.1)


def deadlocks(connection: Connection) -> int:
    sql = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    return int(connection.exec_driver_sql(sql).scalar_one())


def test_two_may_finish_at_once(shared: Settings, engine: Engine) -> None:
    """Both found that nobody had looked yet; both say that they have."""
    with store.writing(engine) as connection:
        connection.exec_driver_sql("DELETE FROM revision WHERE topic = 'hindsight'")
    looking = Looking(shared)
    with store.writing(engine) as connection:
        topics = ("traps", trap_marks.OLD_MAIL)
        number = sum(revision.number(connection, topic) for topic in topics)
        trap_marks._remember(connection, number)
        looking.start()
        looking.wait_for_lock(connection)
    looking.join(PATIENCE_S)
    assert looking.error is None
    with store.reading(engine) as connection:
        assert revision.number(connection, trap_marks.TOPIC) == number
