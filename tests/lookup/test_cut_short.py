"""Files in the state directory that somebody cuts short in place cost no worker and no message."""

import os
import pickle
import random
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import Engine

from fix_store import AT, message
from gatepost_policy import config, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import KnownState, numbers, snapshot
from gatepost_policy.mail import address
from gatepost_policy.monitoring import worker_figures
from gatepost_policy.recorder import Recorder, record_batch
from gatepost_policy.system.answered_ids import SIZE, AnsweredIds

pytestmark = pytest.mark.slow

TRAP, HOST = address.parse("trap@home.example"), "mx.home.example"
CUTS: dict[str, Callable[[Path], object]] = {
    "emptied": lambda path: os.truncate(path, 0),
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "overwritten": lambda path: path.write_bytes(b"x"),
}


def survives(work: Callable[[], bool]) -> bool:
    """What `work` says in a process of its own, which SIGBUS would end."""
    pid = os.fork()
    if pid == 0:
        code = 2
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    status = os.waitpid(pid, 0)[1]
    assert not os.WIFSIGNALED(status), f"killed by signal {os.WTERMSIG(status)}"
    assert os.WEXITSTATUS(status) < 2
    return os.WEXITSTATUS(status) == 0


@pytest.fixture
def recorder(settings: Settings) -> Recorder:
    """The recorder of a store with a trap and a listing, both published."""
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=AT)
    record_batch(engine, [message(1, to=(), traps=("trap@home.example",))], settings, AT)
    engine.dispose()
    one = Recorder(settings, lambda level, text: said.append(text))
    said.clear()
    assert one.lock()
    one.step()
    return one


said: list[str] = []


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("name", ["tick", "now", "traps", "listed"])
def test_what_is_known_stays_known(
    settings: Settings, recorder: Recorder, name: str, how: str
) -> None:
    state = KnownState(settings)
    assert state.is_trap(TRAP)
    paths = list(config.state_dir(settings).glob(f"known.{name}*"))
    for path in paths:
        CUTS[how](path)

        def knows() -> bool:
            return all((state.is_trap(TRAP), state.current().listings is not None))

        assert survives(knows)
        # Who starts now finds what the recorder has written again.
        recorder.step()
        assert KnownState(settings).is_trap(TRAP) and state.is_trap(TRAP)
        assert [text for text in said if str(path) in text]
        said.clear()
        recorder.step()
        assert not said
    recorder.close()
    assert paths or name == "listed"


@pytest.mark.parametrize("count", [1, 3, 5_000, 70_000])
def test_a_number_is_found_on_disk_as_in_memory(tmp_path: Path, count: int) -> None:
    source = random.Random(count)
    known = sorted({source.getrandbits(64) for _ in range(count)})
    # As hashes are, and as they never are: all in one place.
    for values in (known, [n >> 40 for n in known], [0, *known[:-1], 2**64 - 1]):
        numbers_ = sorted(set(values))
        path = tmp_path / "numbers"
        path.write_bytes(b"head" * 4 + array("Q", numbers_).tobytes())
        disk = numbers.OnDisk(path.open("rb"), 16, len(numbers_))
        assert list(disk) == numbers_ == list(disk[:])
        there = set(numbers_)
        for wanted in source.sample(numbers_, min(200, len(numbers_))):
            for near in (wanted - 1, wanted, wanted + 1):
                if 0 <= near < 2**64:
                    assert numbers.contains(disk, near) == (near in there)
        os.truncate(path, 20)
        assert not numbers.contains(disk, numbers_[-1])


def test_a_large_file_is_only_looked_into(
    settings: Settings, recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "COPY_MAX", 8)
    state = KnownState(settings)
    assert state.is_trap(TRAP) and not state.is_trap(address.parse("user@home.example"))
    assert isinstance(state.current().base, numbers.OnDisk)
    for path in config.state_dir(settings).glob("known.traps*"):
        os.truncate(path, 0)
    survives(lambda: state.is_trap(TRAP))
    recorder.step()
    assert state.is_trap(TRAP)
    recorder.close()


@pytest.mark.parametrize("how", CUTS)
def test_answered_ids(tmp_path: Path, how: str) -> None:
    ids = AnsweredIds(tmp_path)
    ids.remember(HOST, "Q1", AT)
    CUTS[how](tmp_path / "answered-ids")

    def goes_on() -> bool:
        for n in range(2_000):
            ids.knows(HOST, f"R{n}", AT)
            ids.remember(HOST, f"R{n}", AT)
        return ids.knows(HOST, "R1999", AT)

    assert survives(goes_on), "the file is made anew"
    assert (tmp_path / "answered-ids").stat().st_size == SIZE


@pytest.mark.parametrize("how", CUTS)
def test_figures_heal(tmp_path: Path, how: str) -> None:
    path = worker_figures.create(tmp_path)
    last = worker_figures.Slot(path, worker_figures.SLOTS - 1)
    last.answered(0.1)
    CUTS[how](path)

    def goes_on() -> bool:
        last.answered(0.1)
        last.connected()
        found = worker_figures.read(tmp_path)
        return found is not None and found.messages == 2

    assert survives(goes_on)


def test_nothing_is_mapped() -> None:
    """Any file that is mapped can be cut short; memory that has no name cannot."""
    for package in ("policy", "milter"):
        for path in (Path(__file__).parents[2] / package).rglob("*.py"):
            for line in path.read_text().splitlines():
                assert "mmap.mmap(" not in line or "mmap.mmap(-1" in line, path


def test_who_had_the_lock_meanwhile_is_nobody_else(engine: Engine, settings: Settings) -> None:
    """The policy service records while the milter's recorder is dead, and the other way round."""
    said: list[str] = []
    for number in range(2):
        mine = Recorder(settings, lambda level, text: said.append(text))
        assert mine.lock()
        mine.step()
        mine.close()
        with store.writing(engine) as connection:
            traps.add(connection, f"trap{number}@home.example", at=AT)
        other = "import sys, pickle; from gatepost_policy.recorder import publish_now; "
        other += "publish_now(pickle.loads(sys.stdin.buffer.read()))"
        subprocess.run([sys.executable, "-c", other], input=pickle.dumps(settings), check=True)
    assert said == []
