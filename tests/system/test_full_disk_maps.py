"""Files that processes map have all their pages: a full disk must not kill who writes to one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from gatepost_policy.monitoring import slots
from gatepost_policy.system.answered_ids import SIZE, AnsweredIds


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for the maps and little more."""
    place = tmp_path / "small"
    place.mkdir()
    size = f"size={SIZE + 2_000_000}"
    if subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(place)]).returncode:
        pytest.skip("no right to mount a file system")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def fill(place: Path) -> None:
    """Until nothing goes in any more."""
    handle = os.open(place / "filler", os.O_CREAT | os.O_WRONLY)
    try:
        while os.write(handle, bytes(4096)):
            pass
    except OSError:
        pass
    finally:
        os.close(handle)


def test_ids_are_remembered_on_a_full_disk(small: Path) -> None:
    ids = AnsweredIds(small)
    fill(small)
    pid = os.fork()  # SIGBUS would end the test run
    if pid == 0:
        for n in range(20_000):
            ids.remember("mx.home.example", f"Q{n}", 1_790_000_000.0)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert ids.knows("mx.home.example", "Q19999", 1_790_000_000.0)


def test_no_room_is_an_error_at_the_start(small: Path) -> None:
    fill(small)
    with pytest.raises(OSError, match="No space left"):
        AnsweredIds(small)
    assert not [p for p in small.iterdir() if p.name.startswith("answered")]


def test_figures_are_kept_on_a_full_disk(small: Path) -> None:
    slot_file = slots.create(small)
    fill(small)
    pid = os.fork()
    if pid == 0:
        for number in range(slots.SLOTS):
            slots.Slot(slot_file, number).answered(0.1)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
