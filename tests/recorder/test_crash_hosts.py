"""Recorders of several hosts are killed in the middle of judging: each hit counts exactly once.

$GATEPOST_CRASH_ROUNDS (1) rounds.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

import sums
from fix_store import count, journal_of, message, new_server, settings_in
from gatepost_policy import journal, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import fold_all
from gatepost_policy.recorder import Recorder
from gatepost_policy.store import migrate

ROUNDS = int(os.environ.get("GATEPOST_CRASH_ROUNDS", "1"))
HOSTS, RECORDS = 3, 150
pytestmark = [pytest.mark.slow, pytest.mark.postgresql, pytest.mark.timeout(0)]

HOST = """
import sys, threading
from pathlib import Path
from fix_store import settings_in
from gatepost_policy.recorder import Recorder, intake
intake.BATCH_RECORDS = 100
Recorder(settings_in(Path(sys.argv[1]), sys.argv[2])).run(threading.Event())
"""


def fill(hosts: list[Settings], number: int) -> int:
    """A third of the records are trap hits, of few senders; how many hits."""
    source, hits = random.Random(number), 0
    for host, settings in enumerate(hosts):
        writer = journal.Writer(journal_of(settings), max_bytes=1 << 30, sync="process")
        for n in range(RECORDS):
            hit = source.random() < 0.3
            hits += hit
            data = message(
                n,
                client=f"192.0.2.{source.randrange(5)}",
                to=() if hit else ("user@home.example",),
                traps=("trap@home.example",) if hit else (),
                message_id=f"<{number}-{host}-{n}@sender.example>",
            )
            assert writer.write({**data, "queue_id": f"{number}-{host}-{n}"})
    return hits


def test_hits_of_several_hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    server = new_server()
    try:
        shared = settings_in(tmp_path, server.create("crash"))
        engine = store.open_engine(shared, ensure=False)
        migrate.upgrade(engine)
        hosts = [settings_in(tmp_path / f"host{n}", shared.store.url) for n in range(HOSTS)]
        hits = waited = 0
        for number in range(1, ROUNDS + 1):
            hits += fill(hosts, number)
            command = [sys.executable, "-c", HOST]
            processes = [
                subprocess.Popen(
                    [*command, str(tmp_path / f"host{n}"), shared.store.url],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                )
                for n in range(HOSTS)
            ]
            try:
                wanted = (number - 1) * HOSTS * RECORDS + random.randrange(1, HOSTS * RECORDS)
                for _ in range(6_000):
                    if count(engine, "message") >= wanted:
                        break
                    time.sleep(0.01)
                waited += count(engine, "waiting_hit")
            finally:
                for process in processes:
                    process.kill()
                    process.wait()
            for settings in hosts:
                last = Recorder(settings)
                assert last.lock()
                while last.ingest_once():
                    pass
                last._taking().finish(last.engine)
                last.close()
            assert count(engine, "waiting_hit") == 0
            with store.reading(engine) as connection:
                sql = "SELECT count(*), count(DISTINCT queue_id) FROM message"
                assert connection.exec_driver_sql(sql).one() == (number * HOSTS * RECORDS,) * 2
                sql = "SELECT count(*), count(DISTINCT message_id) FROM trap_hit"
                assert connection.exec_driver_sql(sql).one() == (hits, hits)
                sql = "SELECT count(DISTINCT value) FROM listing"
                listed = connection.exec_driver_sql(sql).scalar_one()
            assert 0 < listed == count(engine, "listing"), "one was listed by two hosts"
        fold_all(engine, shared)
        sums.check(engine)
        engine.dispose()
        print(f"{ROUNDS} rounds, {hits} hits, {waited} waited at the kill, 0 lost, 0 doubled")
    finally:
        server.remove()
