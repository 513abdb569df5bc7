"""Files that processes map have all their pages: a full disk must not kill who writes to one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import small_disk
from gatepost_policy.monitoring import worker_figures
from gatepost_policy.system.answered_ids import SIZE, AnsweredIds


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the maps and little more."""
    with small_disk.mounted(tmp_path / "small", SIZE + 2_000_000) as place:
        yield place


def test_ids_are_remembered_on_a_full_disk(small: Path) -> None:
    ids = AnsweredIds(small)
    small_disk.fill(small)
    pid = os.fork()  # SIGBUS would end the test run
    if pid == 0:
        for n in range(20_000):
            ids.remember("mx.home.example", f"Q{n}", 1_790_000_000.0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert ids.knows("mx.home.example", "Q19999", 1_790_000_000.0)


def test_no_room_is_an_error_at_the_start(small: Path) -> None:
    small_disk.fill(small)
    with pytest.raises(OSError, match="No space left"):
        AnsweredIds(small)
    assert not [p for p in small.iterdir() if p.name.startswith("answered")]


def test_figures_are_kept_on_a_full_disk(small: Path) -> None:
    slot_file = worker_figures.create(small)
    small_disk.fill(small)
    pid = os.fork()
    if pid == 0:
        for number in range(worker_figures.SLOTS):
            worker_figures.Slot(slot_file, number).answered(0.1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
