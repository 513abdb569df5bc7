"""Several mail hosts on one PostgreSQL: all recorders at once are right, also over a restart."""

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from sqlalchemy import Engine

import sums
from fix_store import AT, count, message, new_server, settings_in, signature
from gatepost_policy import ingest, journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas, fold_all, rows
from gatepost_policy.journal import record
from gatepost_policy.recorder import Recorder, intake
from gatepost_policy.store import migrate
from postgresql_server import Server

pytestmark = pytest.mark.postgresql
HOSTS = 4


@pytest.fixture(autouse=True, scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """With a database server a recorder's snapshot is in the default state directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


def host_settings(shared: Settings, directory: Path, number: int) -> Settings:
    """One host's settings: its own journal, the common store."""
    return settings_in(directory / f"host{number}", shared.store.url)


def model(told: list[record.Json]) -> dict[tuple[str, str], tuple[float, ...]]:
    """What the identities should be, counted one record after the other."""
    out: dict[tuple[str, str], tuple[float, ...]] = {}
    for data in told:
        one = deltas.Sums()
        row = rows.read(data, AT)
        one.add(row, row.keys()[1])
        for key, i in one.identities.items():
            was = out.get(key, (0, 0, 0, 0, i.first_seen, i.last_seen))
            out[key] = (
                was[0] + i.messages,
                was[1] + i.trap_messages,
                was[2] + i.ipv4,
                was[3] + i.ipv6,
                min(was[4], i.first_seen),
                max(was[5], i.last_seen),
            )
    return out


def check(engine: Engine, told: list[record.Json]) -> None:
    with store.reading(engine) as connection:
        got = {
            (r[0], r[1]): tuple(r[2:])
            for r in connection.exec_driver_sql(
                "SELECT kind, value, messages, trap_messages, ipv4, ipv6, first_seen, last_seen"
                " FROM identity"
            )
        }
        ids = connection.exec_driver_sql("SELECT queue_id FROM message").scalars().all()
        twice = connection.exec_driver_sql(
            "SELECT kind, value FROM listing GROUP BY kind, value HAVING count(*) > 1"
        ).all()
    assert got == model(told)
    assert Counter(ids) == Counter(data["queue_id"] for data in told)
    assert twice == [], "one identity was listed by two hosts at once"
    sums.check(engine)


one_message = st.builds(
    lambda n, s, c, trap, signed: message(
        n,
        client=f"192.0.2.{c}" if c % 3 else f"2001:db8::{c}",
        sender=f"a@s{s}.example",
        author=f"a@s{s}.example",
        traps=("trap@home.example",) if trap else (),
        signatures=(signature(f"s{s}.example"),) if signed else (),
    ),
    st.integers(0, 10_000),
    st.integers(0, 3),
    st.integers(1, 4),
    st.booleans(),
    st.booleans(),
)


@profile(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.lists(one_message, min_size=3, max_size=30), min_size=HOSTS, max_size=HOSTS))
def test_hosts_upserting_at_once_are_right(
    tmp_path_factory: pytest.TempPathFactory,
    postgresql: Server,
    told: list[list[record.Json]],
) -> None:
    """The property: as if one recorder had done it all, one record after the other."""
    name = f"h{time.monotonic_ns()}"
    directory = tmp_path_factory.mktemp("hosts")
    shared = settings_in(directory, postgresql.create(name, "ready"))
    engine = store.open_engine(shared)
    # The queue id tells them apart: no two hosts give the same.
    told = [[{**d, "queue_id": f"{h}-{n}"} for n, d in enumerate(t)] for h, t in enumerate(told)]
    gate = threading.Barrier(HOSTS)
    errors: list[BaseException] = []

    def host(number: int) -> None:
        try:
            settings = host_settings(shared, directory, number)
            w = journal.Writer(Path(settings.store.journal), max_bytes=1 << 30, sync="process")
            for data in told[number]:
                w.write(data)
            r = Recorder(settings, lambda level, text: None)
            assert r.lock()
            r.engine()
            gate.wait(60)
            while r.ingest_once():
                pass
            r.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=host, args=(n,)) for n in range(HOSTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    try:
        assert errors == []
        fold_all(engine, shared)
        check(engine, [data for t in told for data in t])
    finally:
        engine.dispose()
        postgresql.drop(name)


def test_without_the_order_hosts_would_lock_each_other_out(
    postgresql: Server, tmp_path: Path
) -> None:
    """The counter-proof: two transactions in crossed order are a deadlock, which is retried."""
    name = f"h{time.monotonic_ns()}"
    shared = settings_in(tmp_path, postgresql.create(name, "ready"))
    engine = store.open_engine(shared)
    seen: list[str] = []
    barrier = threading.Barrier(2)

    def crossed(keys: list[str]) -> None:
        try:
            with store.writing(engine) as connection:
                for number, key in enumerate(keys):
                    connection.exec_driver_sql(
                        "INSERT INTO revision (topic, number) VALUES (%s, 1)"
                        " ON CONFLICT (topic) DO UPDATE SET number = revision.number + 1",
                        (key,),
                    )
                    if number == 0:
                        barrier.wait(30)
        except store.StoreError as error:
            cause = error.__cause__
            seen.append(str(store.retryable(cause)))  # type: ignore[arg-type]

    threads = [threading.Thread(target=crossed, args=(k,)) for k in (["a", "b"], ["b", "a"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    engine.dispose()
    postgresql.drop(name)
    assert seen == ["True"]


def test_a_deadlock_is_retried(
    postgresql: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempts of a batch meet real deadlock errors; it is stored once."""
    import psycopg
    from sqlalchemy.exc import OperationalError

    name = f"h{time.monotonic_ns()}"
    shared = settings_in(tmp_path, postgresql.create(name, "ready"))
    real, failures = ingest.ingest, [1, 2, 3]

    def sometimes(connection: object, *rest: object) -> object:
        done = real(connection, *rest)  # type: ignore[arg-type]
        if failures:
            failures.pop()
            error = psycopg.errors.DeadlockDetected("deadlock detected")
            raise OperationalError("", None, error)
        return done

    monkeypatch.setattr(intake, "ingest", sometimes)
    w = journal.Writer(Path(shared.store.journal), max_bytes=1 << 30, sync="process")
    w.write(message(1))
    r = Recorder(shared)
    assert r.lock()
    assert r.ingest_once() == 1
    r.close()
    engine = store.open_engine(shared)
    assert count(engine, "message") == 1
    assert count(engine, "identity", "messages = 1") == 4
    engine.dispose()
    postgresql.drop(name)


def test_a_server_restart_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BATCH_RECORDS", 5)
    server = new_server()
    try:
        shared = settings_in(tmp_path, server.create("hosts"))
        engine = store.open_engine(shared, ensure=False)
        migrate.upgrade(engine)
        stop = threading.Event()
        hosts = [host_settings(shared, tmp_path, n) for n in range(3)]
        threads = [
            threading.Thread(target=Recorder(s, lambda level, text: None).run, args=(stop,))
            for s in hosts
        ]
        for thread in threads:
            thread.start()
        writers = [
            journal.Writer(Path(s.store.journal), max_bytes=1 << 30, sync="process") for s in hosts
        ]
        told: list[record.Json] = []
        for n in range(300):
            data = {**message(n, client=f"192.0.2.{n % 7}"), "queue_id": f"{n % 3}-{n}"}
            writers[n % 3].write(data)
            told.append(data)
            if n in (90, 200):
                server.kill() if n == 90 else server.stop()
                time.sleep(0.3)
                server.start()
            time.sleep(0.002)
        end = time.monotonic() + 60
        while True:
            assert time.monotonic() < end
            try:
                if count(engine, "message") >= 300:
                    break
            except store.StoreError:
                engine.dispose()
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        # What a host left waiting when it stopped counts like the rest.
        fold_all(engine, shared)
        check(engine, told)
        engine.dispose()
    finally:
        server.remove()
