"""What the journal cannot keep is said at once, then once a minute, and counted."""

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import small_disk
from daemons import BIN
from fix_store import message, settings_in
from gatepost_policy import journal
from gatepost_policy.journal import losses
from gatepost_policy.journal import writer as writer_module
from gatepost_policy.monitoring.metrics import Health
from gatepost_policy.store import StoreError

pytestmark = pytest.mark.slow


@pytest.fixture
def shared(monkeypatch: pytest.MonkeyPatch) -> losses.Losses:
    """Numbers of this test's own."""
    found = losses.Losses()
    monkeypatch.setattr(writer_module, "LOSSES", found)
    monkeypatch.setattr(journal, "LOSSES", found)
    return found


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with small_disk.mounted(tmp_path / "small", 1_048_576) as place:
        yield place


def no_store() -> object:
    raise StoreError("no store in this test")


def test_a_full_disk_is_said_counted_and_red(small: Path, shared: losses.Losses) -> None:
    said: list[str] = []
    w = journal.Writer(small / "journal", max_bytes=1 << 30, sync="process", tell=said.append)
    assert w.write(message(0))
    health = Health(settings_in(small), no_store)  # type: ignore[arg-type]
    assert not any("journal" in line for line in health.findings())
    filler = small_disk.fill(small)
    kept = sum(w.write(message(n)) for n in range(1, 200))
    assert kept < 199
    assert shared.total == 199 - kept
    assert said == ["journal: a record is lost, the mail flows on: No space left on device"]
    found = health.findings()
    assert any("cannot be written, what comes may be lost: No space left" in line for line in found)
    assert any(f"{199 - kept} records lost since the start" in line for line in found)
    filler.unlink()
    w._retry_at = 0.0
    assert w.write(message(200))
    assert "records are kept again" in said[-1]
    assert not any("cannot be written" in line for line in health.findings())


def test_a_full_disk_without_nameless_files(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS and FUSE have no O_TMPFILE."""
    real = os.open

    def without(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP), str(path))
        return real(path, flags, mode)

    monkeypatch.setattr(os, "open", without)
    assert journal.refused(small) is None
    small_disk.fill(small)
    why = journal.refused(small)
    assert why is not None and why.errno == errno.ENOSPC
    assert [path.name for path in small.iterdir()] == ["filler"]


def test_a_disk_that_refuses_fdatasync_is_said(
    tmp_path: Path, shared: losses.Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    w = journal.Writer(tmp_path, max_bytes=1 << 30, sync="power", tell=said.append)
    assert w.write(message(0))

    def refuse(handle: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fdatasync", refuse)
    assert not any(w.write(message(n)) for n in range(1, 4))
    assert said == ["journal: what is written may be lost at a power cut: Input/output error"]
    assert shared.total == 0


def test_another_file_system_in_the_place_of_a_broken_one(
    small: Path, shared: losses.Losses
) -> None:
    """The open segment lies on a file system that takes nothing any more and was taken off."""
    said: list[str] = []
    w = journal.Writer(small / "journal", max_bytes=1 << 30, sync="process", tell=said.append)
    assert w.write(message(0))
    small_disk.fill(small)
    last = next(n for n in range(1, 1000) if not w.write(message(n)))
    with small_disk.over(small, 1_048_576):
        w._retry_at = 0.0
        assert w.write(message(1000))
        (segment,) = journal.segments(small / "journal")
        found = [piece.data for piece in journal.read(segment, 0) if piece.data is not None]
    assert [obj["kind"] for obj in found] == ["message"] * last + ["gap", "message"]
    assert "it was made again" in said[1]


def test_what_another_service_loses_is_red_as_well(
    small: Path, shared: losses.Losses, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One service answers /healthz for both; the disk is full before the first loss."""
    other = losses.Losses()
    other.tell_in(small, "policy")
    shared.tell_in(small, "milter")
    health = Health(settings_in(small), no_store)  # type: ignore[arg-type]
    small_disk.fill(small)
    assert not any("lost since" in line for line in health.findings())
    shared.add("full", lambda text: None)
    for _ in range(3):
        other.add("full", lambda text: None)
    assert any("4 records lost since the start" in line for line in health.findings())
    assert shared.of_host(small) == (4, True)
    now = losses._now()
    monkeypatch.setattr(losses, "_now", lambda: now + 61_000)
    assert shared.of_host(small) == (4, False)
    # The service starts again and counts from nothing; damage and strange files are no losses.
    losses.Losses().tell_in(small, "policy")
    (small / "losses.short").touch()
    (small / "losses.dir").mkdir()
    assert shared.of_host(small) == (1, False)


def test_said_once_a_minute_by_one_of_many_processes(
    shared: losses.Losses, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    now = 1_000_000
    monkeypatch.setattr(losses, "_now", lambda: now)
    out = tmp_path / "said"

    def tell(text: str) -> None:
        with out.open("a") as file:
            file.write(text + "\n")

    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for _ in range(500):
                shared.add("full", tell)
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    assert shared.total == 2_000
    assert out.read_text().splitlines() == ["journal: a record is lost, the mail flows on: full"]
    now += 60_000
    shared.add("full", tell)
    assert out.read_text().splitlines()[1:] == [
        "journal: 2000 records are lost, the mail flows on: full"
    ]
    assert shared.of_host(tmp_path)[1]
    now += 61_000
    assert not shared.of_host(tmp_path)[1]


@pytest.mark.milter
@pytest.mark.parametrize("program", ["gatepost-milter", "gatepost-policyd"])
def test_no_service_is_ready_that_could_not_remember(tmp_path: Path, program: str) -> None:
    (tmp_path / "file").touch()
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[milter]\nsocket = "unix:{tmp_path}/m"\n[policy]\nlisten = "unix:{tmp_path}/p"\n'
        f'[store]\nurl = "{tmp_path}/gatepost.sqlite"\njournal = "{tmp_path}/file/journal"\n'
    )
    done = subprocess.run(
        [BIN / program, "--config", config], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert "ready" not in done.stdout
    assert f"{tmp_path}/file/journal: records cannot be written: Not a directory" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_why_nothing_can_be_written(tmp_path: Path) -> None:
    assert journal.refused(tmp_path / "new") is None
    assert (tmp_path / "new").is_dir()
    (tmp_path / "file").touch()
    why = journal.refused(tmp_path / "file" / "journal")
    assert why is not None and why.errno == errno.ENOTDIR
    why = journal.refused(tmp_path / "missing", make=False)
    assert why is not None and why.errno == errno.ENOENT
