"""What is published changes at once: a publisher that dies leaves the old state or the new one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import AT
from gatepost_policy import config, listings, lookup, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import KnownState, publisher, snapshot
from gatepost_policy.mail import address

pytestmark = pytest.mark.slow

# Publishes one state after the other, each with new large files; the child of round n is killed
# around the n-th call that changes a name or a file. The first that lives ends it.
KILLED = """
import itertools, os, signal, sys, time
from pathlib import Path
from gatepost_policy import config, listings, lookup, store, traps

def child(settings, round_, calls):
    left = calls
    def dying(call):
        def wrapped(*words, **named):
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            done = call(*words, **named)
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return done
        return wrapped
    engine = store.open_engine(settings)
    with engine.connect() as bare:
        writing = bare.execution_options(gatepost_writing=True)
        lines = [b"always@example.org", f"trap{round_}@example.org".encode()]
        traps.import_lines(writing, lines, at=time.time())
    with store.writing(engine) as connection:
        who = listings.identify(f"192.0.2.{round_}")
        listings.punish(connection, who, seconds=9999, at=time.time())
    for name in ("replace", "pwrite"):
        setattr(os, name, dying(getattr(os, name)))
    with store.reading(engine) as connection:
        lookup.publish(connection, config.state_dir(settings), settings)
    os._exit(0)

settings = config.load(Path(sys.argv[1]))
round_ = 0
for calls in itertools.count(0):
    round_ += 1
    pid = os.fork()
    if not pid:
        child(settings, round_, calls)
    status = os.waitpid(pid, 0)[1]
    print(round_, status, flush=True)
    if calls and status == 0:
        break
    sys.stdin.readline()
"""


def knows(settings: Settings, round_: int) -> tuple[bool, bool]:
    """(trap, listing) of this round, as a process that has just started knows them."""
    state = KnownState(settings)
    now = state.current()
    assert now.hashed is not None, "nothing is known"
    assert state.is_trap(address.parse("always@example.org")), "what was known before is lost"
    assert now.until("prefix", "192.0.2.1/32"), "who was listed before is not any more"
    trap = state.is_trap(address.parse(f"trap{round_}@example.org"))
    return trap, now.until("prefix", f"192.0.2.{round_}/32") is not None


def test_killed_at_each_step_nothing_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_text(f'[store]\nurl = "sqlite:///{tmp_path}/gatepost.sqlite"\n')
    settings = config.load(path)
    running = KnownState(settings)
    states: list[tuple[bool, bool]] = []
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stdin is not None
        for line in process.stdout:
            round_, status = map(int, line.split())
            assert status in (0, 9)
            states.append(knows(settings, round_))
            running.current()
            assert running.is_trap(address.parse("always@example.org"))
            if not process.stdin.closed:
                process.stdin.write("\n")
                process.stdin.flush()
            if status == 0 and round_ > 1:
                process.stdin.close()
    assert process.returncode == 0
    # The first and the last lived. In between, each killed one left all of its state or none.
    assert states[0] == states[-1] == (True, True)
    assert set(states) == {(True, True), (False, False)}
    assert states.count((False, False)) >= 5  # around the two large files, and before the small one
    left = {p.name for p in config.state_dir(settings).iterdir() if p.name.startswith((".k", "kn"))}
    assert len(left) == 4, left  # counter, small file, two large ones: no remains


def test_a_large_file_that_is_gone_is_looked_for_under_its_new_name(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher may take an old large file away after a reader has read its name."""
    directory = config.state_dir(settings)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    loads = json.loads
    loaded: list[Any] = []

    def slow(text: Any) -> Any:
        meta = loads(text)
        if not loaded:
            loaded.append(meta)
            monkeypatch.setattr(
                "gatepost_policy.lookup.snapshot.json", json
            )  # the publisher reads as usual
            publisher._checked.discard(directory)
            with store.writing(engine) as connection:
                traps.add(connection, "new@example.org", at=AT)
                listings.punish(
                    connection, listings.identify("192.0.2.7"), seconds=99, at=time.time()
                )
            with monkeypatch.context() as patch, store.reading(engine) as connection:
                patch.setattr(publisher, "_adds_up", lambda *_: False)
                lookup.publish(connection, directory, settings)
            assert not (directory / snapshot.file_names(meta)[0]).exists()
        return meta

    monkeypatch.setattr("gatepost_policy.lookup.snapshot.json", SimpleNamespace(loads=slow))
    assert snapshot.load(directory).is_trap(address.parse("new@example.org"))
    assert loaded


def test_files_of_the_version_before_are_read(engine: Engine, settings: Settings) -> None:
    """Upgraded while the store is down: what the old version published stays known."""
    directory = config.state_dir(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.org", at=AT)
        listings.punish(connection, listings.identify("192.0.2.7"), seconds=99, at=time.time())
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    small = directory / snapshot.NOW_FILE
    data = small.read_bytes()
    magic, octets, listed, repeated, _ = snapshot.NOW_HEAD.unpack_from(data)
    start = snapshot.NOW_HEAD.size
    meta = json.loads(data[start : start + octets])
    for name, bare in zip(snapshot.file_names(meta), ("known.traps", "known.listed"), strict=True):
        (directory / name).rename(directory / bare)
    del meta["named"], meta["crc"]
    text = json.dumps(meta).encode().ljust(octets)
    head = snapshot.NOW_HEAD.pack(magic, octets, listed, repeated, 0)
    small.write_bytes(head + text + data[start + octets :])
    assert (magic, listed, repeated) == (snapshot.MAGIC_NOW, 0, 0)
    trap = address.parse("trap@example.org")
    state = KnownState(settings)
    assert state.is_trap(trap) and state.current().until("prefix", "192.0.2.7/32")
    # The next publisher gives them names of their own, and takes the bare ones away.
    publisher._checked.discard(directory)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    assert state.is_trap(trap) and KnownState(settings).is_trap(trap)
    assert not (directory / "known.traps").exists() and not (directory / "known.listed").exists()


@pytest.mark.parametrize("which", ["known.traps.*", "known.listed.*", "known.now"])
def test_a_wrong_bit_is_noticed_at_the_start(
    engine: Engine, settings: Settings, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing ran, a disk lost a bit: in the hash key, it would take all traps away."""
    directory = config.state_dir(settings)
    monkeypatch.setattr("gatepost_policy.lookup.listed.REBUILD_S", -1.0)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.org", at=AT)
        listings.punish(connection, listings.identify("192.0.2.7"), seconds=99, at=time.time())
    trap = address.parse("trap@example.org")

    def start() -> None:
        publisher._checked.discard(directory)
        with store.reading(engine) as connection:
            lookup.publish(connection, directory, settings)

    start()
    (path,) = directory.glob(which)
    size = path.stat().st_size
    for n in range(0, size, max(1, size // 60)):
        (path,) = directory.glob(which)
        data = bytearray(path.read_bytes())
        place = min(n, len(data) - 1)
        data[place] ^= 1 << n % 8
        path.write_bytes(data)
        unsure = KnownState(settings)
        unsure.current()
        start()
        for state in (KnownState(settings), unsure):
            assert state.is_trap(trap), place
            assert state.current().until("prefix", "192.0.2.7/32"), place


def test_a_full_disk_leaves_the_old_state_and_no_remains(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = config.state_dir(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.org", at=AT)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    before = {p.name for p in directory.iterdir() if "known" in p.name}
    replaced = os.replace

    def full(source: Path, target: Path) -> None:
        if target.name == snapshot.NOW_FILE:
            raise OSError(28, "No space left on device")
        replaced(source, target)

    for _ in range(3):
        with monkeypatch.context() as patch, store.reading(engine) as connection:
            patch.setattr("gatepost_policy.lookup.listed.REBUILD_S", -1.0)
            patch.setattr("gatepost_policy.lookup.publisher.os.replace", full)
            with pytest.raises(OSError, match="No space"):
                lookup.publish(connection, directory, settings)
    assert {p.name for p in directory.iterdir() if "known" in p.name} == before
    assert KnownState(settings).is_trap(address.parse("trap@example.org"))


@pytest.mark.parametrize("name", [snapshot.TRAPS_FILE, snapshot.NOW_FILE, snapshot.TICK_FILE])
def test_what_is_changed_at_that_very_moment_is_noticed(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Somebody puts something else in the place of a file as soon as it can be seen."""
    directory = config.state_dir(settings)
    replaced, written = os.replace, os.pwrite

    def other(path: Path) -> None:
        path.unlink()
        path.touch()

    def replace(source: Path, target: Path) -> None:
        replaced(source, target)
        if target.name.startswith(name):
            other(target)

    def pwrite(descriptor: int, octets: bytes, place: int) -> int:
        count = written(descriptor, octets, place)
        if name == snapshot.TICK_FILE:
            other(directory / name)
        return count

    monkeypatch.setattr("gatepost_policy.lookup.publisher.os.replace", replace)
    monkeypatch.setattr("gatepost_policy.lookup.publisher.os.pwrite", pwrite)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    monkeypatch.undo()
    assert (lookup.touched(directory) or "").startswith(name)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
        lookup.anew(directory)
        lookup.publish(connection, directory, settings)
    assert lookup.touched(directory) is None
