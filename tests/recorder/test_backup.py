"""db backup and db restore: whole, verified, while mail flows; nothing lost, nothing twice."""

import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import small_disk
from daemons import BIN
from gatepost_milter.cli import milterctl
from gatepost_policy import config, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import backup, restoring, wait_until_ingested
from mail_flow import Flow

pytestmark = pytest.mark.slow


@pytest.fixture
def flow(settings: Settings) -> Iterator[Flow]:
    running = Flow(settings)
    yield running
    if not running.stop.is_set():
        running.end()


def ids(settings: Settings) -> list[str]:
    with sqlite3.connect(f"{config.database_path(settings)}") as connection:
        return [row[0] for row in connection.execute("SELECT queue_id FROM message")]


def test_a_backup_under_load_is_whole(settings: Settings, flow: Flow, tmp_path: Path) -> None:
    flow.past(100)
    before = flow.written
    made = backup.make(settings, tmp_path / "x.tar")
    assert (tmp_path / "x.tar").stat().st_mode & 0o777 == 0o600
    assert made.segments >= 1
    flow.past(50)
    flow.end()
    # Put back on another machine: everything up to the beginning of the backup, once.
    other = tmp_path / "other"
    other.mkdir()
    moved = replace(
        settings,
        store=replace(settings.store, url=f"{other}/gatepost.sqlite", journal=f"{other}/journal"),
    )
    done = restoring.restore(moved, tmp_path / "x.tar")
    assert done.kept is None
    assert wait_until_ingested(moved)
    got = ids(moved)
    assert len(got) == len(set(got))
    assert {f"Q{n}" for n in range(before)} <= set(got)


def test_a_restore_under_load_loses_nothing_that_still_can_be_had(
    settings: Settings, flow: Flow, tmp_path: Path
) -> None:
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=0)
    engine.dispose()
    for _ in range(3):
        flow.past(100)
        backup.make(settings, tmp_path / "x.tar")
        flow.past(200)
        done = restoring.restore(settings, tmp_path / "x.tar")
        assert done.before is not None and done.kept is not None
        assert done.before.traps == done.contents.traps == 1
    flow.past(100)
    flow.end()
    got = ids(settings)
    # Its segment was there all the time: what the backup lacked came back from it.
    assert sorted(got) == sorted(f"Q{n}" for n in range(flow.written))
    assert not [line for line in flow.said if "quarantine" in line], flow.said


def test_two_restores_in_one_second(settings: Settings, tmp_path: Path) -> None:
    """Each keeps a copy of what was there before it."""
    backup.make(settings, tmp_path / "x.tar")
    kept = [restoring.restore(settings, tmp_path / "x.tar").kept for _ in range(4)]
    assert len(set(kept)) == 4 and all(one is not None and one.is_file() for one in kept)


def test_a_damaged_store_is_replaced(settings: Settings, tmp_path: Path) -> None:
    path = Path(f"{config.database_path(settings)}")
    backup.make(settings, tmp_path / "x.tar")
    path.write_bytes(b"no database at all, but long enough " * 200)
    done = restoring.restore(settings, tmp_path / "x.tar")
    assert done.before is None and done.kept is not None
    assert done.kept.read_bytes().startswith(b"no database")
    assert ids(settings) == []


def change(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "flipped":
        data[len(data) // 2] ^= 1
    if how == "cut":
        del data[len(data) // 2 :]
    if how == "empty":
        data.clear()
    if how == "text":
        data[:] = b"hello\n" * 1000
    path.write_bytes(data)


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "text"])
def test_a_damaged_backup_changes_nothing(settings: Settings, tmp_path: Path, how: str) -> None:
    backup.make(settings, tmp_path / "x.tar")
    change(tmp_path / "x.tar", how)
    path = Path(f"{config.database_path(settings)}")
    before = path.stat().st_ino
    with pytest.raises(backup.BackupError, match="x.tar"):
        restoring.restore(settings, tmp_path / "x.tar")
    assert path.stat().st_ino == before
    assert not list(path.parent.glob(".gatepost-*"))


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "journal/../../evil", "journal/.x", "x"])
def test_an_archive_decides_nothing_about_paths(
    settings: Settings, tmp_path: Path, name: str
) -> None:
    (tmp_path / "evil-content").write_text("evil")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        tar.add(tmp_path / "evil-content", name)
    with pytest.raises(backup.BackupError, match="is no backup of gatepost"):
        restoring.restore(settings, tmp_path / "x.tar")


@pytest.mark.parametrize(
    ("change", "files"),
    [
        ("UPDATE alembic_version SET version_num = '9999'", None),
        ("DELETE FROM alembic_version", None),
        ("DROP TABLE message", None),
        ("SELECT 1", []), ("SELECT 1", 7), ("SELECT 1", {"gatepost.sqlite": None}),
    ],
)  # fmt: skip
def test_a_backup_that_is_none_is_named(
    settings: Settings, tmp_path: Path, change: str, files: object
) -> None:
    """One error that names the backup, not what it was unpacked into; the store stays."""
    target, database = tmp_path / "x.tar", tmp_path / "gatepost.sqlite"
    backup.make(settings, target)
    with tarfile.open(target) as tar:
        content = tar.extractfile("gatepost.sqlite")
        assert content is not None
        database.write_bytes(content.read())
    with sqlite3.connect(database) as connection:
        connection.execute(change)
    connection.close()
    data = database.read_bytes()
    sums = {"gatepost.sqlite": [len(data), hashlib.sha256(data).hexdigest()]}
    text = json.dumps({"format": 1, "files": sums if files is None else files}).encode()
    with tarfile.open(target, "w") as tar:
        for name, octets in (("gatepost.sqlite", data), ("manifest.json", text)):
            info = tarfile.TarInfo(name)
            info.size = len(octets)
            tar.addfile(info, io.BytesIO(octets))
    path = config.database_path(settings)
    assert path is not None
    before = path.read_bytes()
    with pytest.raises(backup.BackupError, match=str(target)):
        restoring.restore(settings, target)
    assert path.read_bytes() == before
    assert not list(tmp_path.glob(".gatepost-*"))


def test_a_link_in_an_archive(settings: Settings, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        link = tarfile.TarInfo("journal/a.seg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(backup.BackupError, match="is no backup of gatepost"):
        restoring.restore(settings, tmp_path / "x.tar")


def test_a_full_disk_leaves_the_old_backup(settings: Settings, tmp_path: Path) -> None:
    with small_disk.mounted(tmp_path / "small", 200_000) as small:
        (small / "x.tar").write_text("the old one")
        with pytest.raises((OSError, sqlite3.Error, backup.BackupError)):
            backup.make(settings, small / "x.tar")
        assert (small / "x.tar").read_text() == "the old one"
        assert os.listdir(small) == ["x.tar"]


def test_commands(settings: Settings, tmp_path: Path) -> None:
    url = f"{config.database_path(settings)}"
    target = tmp_path / "x.tar"

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [str(BIN / "milterctl"), "--store", url, "db", *map(str, words)]
        return subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
        )

    done = run("backup", target)
    assert done.returncode == 0, done.stderr
    assert "read back and checked" in done.stdout
    assert run("restore", "--verify", target).returncode == 0
    done = run("restore", target)
    assert done.returncode == 2 and "--yes" in done.stderr
    done = run("restore", "--yes", target)
    assert done.returncode == 0, done.stderr
    assert "the old store is kept" in done.stdout
    target.write_text("no backup")
    done = run("restore", "--yes", target)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1
    shutil.rmtree(tmp_path / "journal", ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_copy_of_the_store(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A nightly backup that is ended half-way: its copy aside was whole, and stayed."""
    target = tmp_path / "there" / "b.tar"
    target.parent.mkdir()

    def ended(path: Path, *rest: object) -> None:
        assert list(target.parent.glob(".gatepost-backup-*/gatepost.sqlite"))
        os.kill(os.getpid(), number)

    monkeypatch.setattr(backup, "check", ended)
    words = ["--store", settings.store.url, "db", "backup", str(target)]
    with pytest.raises(SystemExit) as caught:
        milterctl.cli(words, standalone_mode=False)
    assert caught.value.code == 128 + number
    assert not list(target.parent.iterdir())


KILLED = """
import os, sys
from gatepost_milter.cli import milterctl
from gatepost_policy.recorder import backup

backup.check = lambda *_: os.kill(os.getpid(), 9)
milterctl.cli(sys.argv[1:])
"""


def test_what_a_killed_backup_left_goes_at_the_next_one(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as large as the store, and there is one more each night. One at work keeps its own."""
    target = tmp_path / "there" / "b.tar"
    target.parent.mkdir()
    words = [
        sys.executable, "-c", KILLED, "--store", settings.store.url, "db", "backup", str(target)
    ]  # fmt: skip
    for _ in range(2):
        assert subprocess.run(words, check=False, timeout=60).returncode == -signal.SIGKILL
        (left,) = target.parent.iterdir()
        assert (left / "gatepost.sqlite").is_file()

    check = backup.check

    def meanwhile(path: Path, *rest: Any) -> backup.Contents:
        monkeypatch.setattr(backup, "check", check)
        backup.make(settings, target.with_name("other.tar"))
        return check(path, *rest)

    monkeypatch.setattr(backup, "check", meanwhile)
    backup.make(settings, target)
    assert {file.name for file in target.parent.iterdir()} == {"b.tar", "other.tar"}


def test_what_is_no_backup_is_not_overwritten(settings: Settings, tmp_path: Path) -> None:
    """The store, the configuration, a device: whoever types the wrong name loses nothing."""
    database = config.database_path(settings)
    assert database is not None
    text, fifo, link = tmp_path / "notes.txt", tmp_path / "fifo", tmp_path / "link.tar"
    text.write_text("mine")
    os.mkfifo(fifo)
    for wrong in (database, text, fifo):
        before = wrong.lstat()
        with pytest.raises(backup.BackupError):
            backup.make(settings, wrong)
        assert wrong.lstat() == before
    store.open_engine(settings).dispose()
    link.symlink_to("there.tar")
    for _ in range(2):  # the second takes the place of the first
        backup.make(settings, link)
        assert link.is_symlink() and backup.verify(tmp_path / "there.tar").traps == 0


def test_a_linked_database_is_restored_where_it_lies(settings: Settings, tmp_path: Path) -> None:
    """The link stays: the other disk has the room, and SQLite keeps the -wal there."""
    database = config.database_path(settings)
    assert database is not None
    far = tmp_path / "far"
    far.mkdir()
    backup.make(settings, tmp_path / "x.tar")
    (far / "real.sqlite").write_bytes(database.read_bytes())
    database.unlink()
    database.symlink_to(far / "real.sqlite")
    done = restoring.restore(settings, tmp_path / "x.tar")
    assert database.is_symlink() and done.kept is not None and done.kept.parent == far
    store.open_engine(settings).dispose()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_restores_is_the_services_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the new file's name and the end of the command the recorder opens it."""
    database = config.database_path(settings)
    assert database is not None
    target = tmp_path / "x.tar"
    backup.make(settings, target)
    os.chown(database, 65_534, 65_534)
    owners: list[int] = []
    replace = os.replace

    def watched(old: Path, new: Path) -> None:
        replace(old, new)
        if new == database:
            owners.append(os.stat(new).st_uid)

    monkeypatch.setattr(os, "replace", watched)
    restoring.restore(settings, target)
    assert owners[0] == 65_534
