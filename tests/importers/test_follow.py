"""The follower of a log: every line once, whatever rotates it, from any position that was kept."""

import gzip
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path

import pytest

from gatepost_policy.importers.follow import Follower, Position

STEPS = 120


class Log:
    """A log that is written, and rotated in every way; the clock moves on with each rotation."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "mail.log"
        self.path.touch()
        self.lines = self.generation = 0

    def write(self, count: int) -> None:
        with self.path.open("a") as file:
            for _ in range(count):
                file.write(f"line {self.lines}\n")
                self.lines += 1

    def rotate(self, how: str) -> None:
        self._tick()
        self.generation += 1
        target = self.path.with_name(f"mail.log.{self.generation}")
        if how == "copy":
            shutil.copy(self.path, target)
            os.truncate(self.path, 0)
        else:
            before = self.path.with_name(f"mail.log.{self.generation - 1}")
            if how == "packed" and before.exists():
                status = before.stat()
                packed = before.with_name(f"{before.name}.gz")
                packed.write_bytes(gzip.compress(before.read_bytes()))
                os.utime(packed, ns=(status.st_atime_ns, status.st_mtime_ns))
                before.unlink()
            self.path.rename(target)
            self.path.touch()
        self._tick()

    def _tick(self) -> None:
        probe = self.path.with_name("probe")
        probe.touch()
        begun = probe.stat().st_mtime_ns
        while probe.stat().st_mtime_ns == begun:
            probe.touch()


def kept(follower: Follower) -> str:
    return json.dumps(follower.position.json())


@pytest.mark.parametrize("seed", range(6))
def test_every_line_once(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    log = Log(tmp_path)
    follower = Follower(log.path)
    position = kept(follower)
    got: list[str] = []
    for _ in range(STEPS):
        what = chance.random()
        if what < 0.45:
            log.write(chance.randrange(1, 5))
        elif what < 0.7:
            log.rotate(chance.choice(["rename", "copy", "packed"]))
        elif what < 0.93:
            for lines in follower.read():
                got += lines
                position = kept(follower)
        else:  # killed: what was kept is all there is
            follower.close()
            follower = Follower(log.path, Position(**json.loads(position)))
        assert follower.lost == ""
    for _ in range(6):  # the renamed ones are given time for what their writer adds
        for lines in follower.read():
            got += lines
    follower.close()
    assert Counter(got) == Counter(f"line {n}" for n in range(log.lines))


def test_a_line_that_is_half_written_waits(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text("one\ntw")
    follower = Follower(path)
    assert list(follower.read()) == [["one"]]
    with path.open("a") as file:
        file.write("o\n")
    assert list(follower.read()) == [["two"]]
    follower.close()


def test_a_position_that_is_gone_is_said(tmp_path: Path) -> None:
    path = tmp_path / "mail.log"
    path.write_text("one\n")
    follower = Follower(path)
    assert list(follower.read()) == [["one"]]
    position = kept(follower)
    follower.close()
    path.write_text("another\n")
    follower = Follower(path, Position(**json.loads(position)))
    assert list(follower.read()) == [["another"]]
    assert "may be missing" in follower.lost
    follower.close()
