"""The metrics endpoint: right figures, legal text, red health, no addresses."""

import os
import sys
import threading
import time
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from from_table import from_table
from gatepost_policy.config.settings import Metrics, Settings, Store
from gatepost_policy.monitoring import counters, metrics, worker_figures
from gatepost_policy.store import open_engine, writing
from metrics_records import MESSAGE, SUBMISSION, get
from ports import free_port


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        store=Store(url=f"sqlite:///{tmp_path}/gatepost.sqlite"),
        metrics=from_table(Metrics, {"listen": f"inet:{free_port()}@127.0.0.1"}),
    )


@pytest.fixture
def served(settings: Settings):  # type: ignore[no-untyped-def]
    stop = threading.Event()
    metrics.start(settings, stop)
    port = settings.metrics.listen[0].port
    yield f"http://127.0.0.1:{port}"
    stop.set()


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counts_what_the_records_say(settings: Settings, served: str, tmp_path: Path) -> None:
    engine = open_engine(settings)
    for _ in range(2):  # two batches, as two recorders would write them
        with writing(engine) as connection:
            counters.add(connection, counters.tally([MESSAGE, SUBMISSION]))
    worker_figures.create(tmp_path)
    slot = worker_figures.Slot(tmp_path / worker_figures.NAME, 3)
    slot.connected()
    slot.began()
    slot.answered(0.004)
    slot.answered(9.0)
    slot.failed()
    slot.capture_failed()
    status, text = get(served + "/metrics")
    assert status == 200
    got = samples(text)
    inbound = (
        ("action", "reject"),
        ("direction", "inbound"),
        ("family", "ipv6"),
        ("reason", "trap"),
    )
    want = {
        ("gatepost_messages_total", inbound): 2,
        ("gatepost_dkim_signatures_total", (("result", "permerror"),)): 2,
        ("gatepost_trap_hits_total", (("family", "ipv6"),)): 2,
        ("gatepost_own_user_trap_hits_total", ()): 2,
        ("gatepost_shadow_decisions_total", (("reason", "listed"),)): 2,
        ("gatepost_journal_lost_total", ()): 0,
        ("gatepost_store_up", ()): 1,
        ("gatepost_milter_workers", ()): 1,
        ("gatepost_milter_in_flight_messages", ()): 1,
        ("gatepost_milter_connections_total", ()): 1,
        ("gatepost_milter_exceptions_total", ()): 1,
        ("gatepost_milter_captures_failed_total", ()): 1,
        ("gatepost_milter_answer_seconds_bucket", (("le", "0.005"),)): 1,
        ("gatepost_milter_answer_seconds_bucket", (("le", "+Inf"),)): 2,
        ("gatepost_milter_answer_seconds_count", ()): 2,
    }
    assert {key: got.get(key) for key in want} == want
    assert "example" not in text


def test_health_turns_red_with_the_store(settings: Settings, served: str, tmp_path: Path) -> None:
    # Who only looks makes no store.
    assert "there is no file" in get(served + "/healthz")[1]
    open_engine(settings).dispose()
    assert get(served + "/healthz") == (200, "ok\n")
    assert get(served + "/readyz")[0] == 200
    quarantine = tmp_path / "quarantine"
    quarantine.mkdir()
    (quarantine / "1.json").write_text("{}")
    status, text = get(served + "/healthz")
    assert status == 503
    assert "quarantine" in text


def test_store_away_leaves_counters_out(tmp_path: Path) -> None:
    (tmp_path / "gatepost.sqlite").write_bytes(b"no database at all, but long enough " * 200)
    settings = Settings(
        store=Store(url=f"sqlite:///{tmp_path}/gatepost.sqlite"),
        metrics=from_table(Metrics, {"listen": f"unix:{tmp_path}/metrics.sock"}),
    )

    def broken():  # type: ignore[no-untyped-def]
        return open_engine(settings)

    found = metrics.Health(settings, broken).findings()
    assert len(found) == 1 and "damaged" in found[0]
    names = {family.name for family in metrics.Collector(settings, broken).collect()}
    assert "gatepost_store_up" in names
    assert "gatepost_messages" not in names


def test_second_server_waits_for_the_socket(settings: Settings, served: str) -> None:
    assert get(served + "/readyz")[0] == 200
    stop = threading.Event()
    waiting = metrics.start(settings, stop)
    stop.set()
    for thread in waiting:
        thread.join(10)
        assert not thread.is_alive()


def test_slots_outlive_a_worker(tmp_path: Path) -> None:
    path = worker_figures.create(tmp_path)
    with pytest.raises(ValueError, match="want 0 to"):
        worker_figures.Slot(path, worker_figures.SLOTS)
    first = worker_figures.Slot(path, 0)
    first.answered(0.5)
    second = worker_figures.Slot(path, 0)  # the worker died and was replaced
    second.ended()  # more ends than begins must not wrap around
    total = worker_figures.read(tmp_path)
    assert total is not None
    assert (total.messages, total.in_flight) == (1, 0)


@pytest.mark.parametrize("behind", [False, True])
def test_a_message_that_hangs_is_in_flight(tmp_path: Path, behind: bool) -> None:
    """Nothing follows it that would write the figures, and its thread never rests."""
    slot = worker_figures.Slot(worker_figures.create(tmp_path), 0)
    if behind:
        slot.write_behind()
    slot.connected()
    slot.began()
    until = time.monotonic() + 20
    total = worker_figures.read(tmp_path)
    while behind and total is not None and not total.in_flight and time.monotonic() < until:
        total = worker_figures.read(tmp_path)
    assert total is not None and (total.connections, total.in_flight) == (1, 1)


def test_figures_written_behind_are_all_there_in_the_end(tmp_path: Path) -> None:
    """Changed by several threads while the file is emptied again and again."""
    path = worker_figures.create(tmp_path)
    slot = worker_figures.Slot(path, 5)
    slot.write_behind()

    def work() -> None:
        for _ in range(20_000):
            slot.began()
            slot.answered(0.004)
            slot.ended()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        os.truncate(path, 0)
        time.sleep(0.02)
    slot.began()  # the file may have been emptied after the last figure
    until = time.monotonic() + 20
    found = None
    while found != (60_000, 1, 60_000) and time.monotonic() < until:
        time.sleep(0.02)
        total = worker_figures.read(tmp_path)
        found = total and (total.messages, total.in_flight, total.buckets[2])
    assert found == (60_000, 1, 60_000)


def test_a_pid_that_is_somebody_elses_is_no_worker(tmp_path: Path) -> None:
    """After a kill or a boot the file is still there, and the numbers are given out again."""
    path = worker_figures.create(tmp_path)
    slot = worker_figures.Slot(path, 0)
    slot.began()
    total = worker_figures.read(tmp_path)
    assert total is not None and (total.workers, total.in_flight) == (1, 1)
    data = bytearray(path.read_bytes())
    data[64:72] = (1).to_bytes(8, sys.byteorder)  # a process that began at another time
    path.write_bytes(data)
    total = worker_figures.read(tmp_path)
    assert total is not None and (total.workers, total.in_flight) == (0, 0)


def test_ready_says_who_is(settings: Settings, tmp_path: Path) -> None:
    assert metrics.readiness(settings, milter=False)[0]
    assert metrics.readiness(settings, milter=True)[1].startswith("not known")
    path = worker_figures.create(tmp_path)
    assert metrics.readiness(settings, milter=True) == (
        False,
        "not ready: the milter has no worker",
    )
    worker_figures.Slot(path, 0)
    assert metrics.readiness(settings, milter=True) == (True, "ready: 1 milter worker")
