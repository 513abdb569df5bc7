"""Each milter worker stays on one core of those the service was given."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons import Daemon
from gatepost_milter.engine import worker

pytestmark = [pytest.mark.milter, pytest.mark.slow]

CONFIG = """
[milter]
socket = "unix:{dir}/m.sock"
workers = 2
[store]
url = "sqlite:///{dir}/state/gatepost.sqlite"
"""
PATIENCE_S = 60
MINE = tuple(sorted(os.sched_getaffinity(0)))
several_cores = pytest.mark.skipif(
    len(MINE) < 2, reason="one core: no worker could be anywhere else"
)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(CONFIG, home=tmp_path)
    yield daemon
    daemon.stop()


def children(daemon: Daemon) -> list[int]:
    pid = daemon.child.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def cores(daemon: Daemon) -> list[tuple[int, ...]]:
    """Where each child may run, the recorder too; () for one that has just gone."""
    found: list[tuple[int, ...]] = []
    for child in children(daemon):
        try:
            found.append(tuple(sorted(os.sched_getaffinity(child))))
        except ProcessLookupError:
            found.append(())
    return sorted(found)


def soon(condition: Callable[[], bool], daemon: Daemon) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, cores(daemon)
        time.sleep(0.02)


def reload(daemon: Daemon) -> None:
    before = daemon.text().count("event=reloaded")
    daemon.child.send_signal(signal.SIGHUP)
    soon(lambda: daemon.text().count("event=reloaded") > before, daemon)


@several_cores
def test_spread_over_the_cores(daemon: Daemon) -> None:
    """Two workers on two cores, after a death and a reload as well; the recorder is free."""

    def spread() -> bool:
        found = cores(daemon)
        pinned = {c for c in found if len(c) == 1}
        return len(found) == 3 and len(pinned) == 2 and MINE in found

    soon(spread, daemon)
    time.sleep(1.1)  # one that dies within its first second is replaced after a pause
    victim = next(c for c in children(daemon) if len(os.sched_getaffinity(c)) == 1)
    os.kill(victim, signal.SIGKILL)
    soon(lambda: victim not in children(daemon) and spread(), daemon)
    reload(daemon)
    soon(spread, daemon)


def pinned(daemon: Daemon) -> dict[int, int]:
    """How many workers each core has."""
    found = [where[0] for where in cores(daemon) if len(where) == 1]
    return {core: found.count(core) for core in found}


@several_cores
def test_spread_after_any_number_of_workers(daemon: Daemon) -> None:
    """A new generation spreads as if the old one, which is about to leave, were not there."""
    text = daemon.config.read_text()
    for before, now in ((2, 3), (3, 1), (1, 2)):
        text = text.replace(f"workers = {before}", f"workers = {now}")
        daemon.config.write_text(text)
        reload(daemon)

        def alone(want: int = now) -> bool:
            return sum(pinned(daemon).values()) == want

        soon(alone, daemon)  # the old generation has left
        used = pinned(daemon)
        assert len(used) == min(now, len(MINE)), used
        assert max(used.values()) - min(used.values()) <= 1, used


def test_a_reload_replaces_the_dead_as_well(daemon: Daemon) -> None:
    """One that died at once waits for its successor; a reload in between brings that."""
    victims = children(daemon)[-2:]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    soon(lambda: daemon.text().count("event=child-died") == 2, daemon)
    reload(daemon)
    time.sleep(1.5)  # successors of the young come after a second
    soon(lambda: len(children(daemon)) == 3, daemon)  # those before the reload leave


@several_cores
def test_free_on_request(daemon: Daemon) -> None:
    """`pin_workers = false`, at a reload: everybody may run everywhere."""
    assert cores(daemon) != [MINE] * 3
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace("workers = 2", "workers = 2\npin_workers = false"))
    reload(daemon)
    soon(lambda: cores(daemon) == [MINE] * 3, daemon)


def test_only_on_what_the_service_was_given(tmp_path: Path) -> None:
    """As `taskset` and CPUAffinity= do: inherited by everybody."""
    one = MINE[-1]
    os.sched_setaffinity(0, {one})
    try:
        daemon = Daemon(CONFIG, home=tmp_path)
    finally:
        os.sched_setaffinity(0, MINE)
    try:
        assert cores(daemon) == [(one,)] * 3
    finally:
        daemon.stop()


def test_a_core_that_is_not_there() -> None:
    """Forbidden or gone: the worker runs where it may, as before."""
    assert not worker.pin(100_000)
    assert tuple(sorted(os.sched_getaffinity(0))) == MINE
