"""What root leaves in the services' directory is theirs afterwards; nothing else is given away."""

import os
from pathlib import Path

import pytest

from gatepost_milter import cli
from gatepost_milter.doctor import ownership

NOBODY = 65534


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory of another user, as systemd makes it."""
    if os.geteuid() != 0:
        pytest.skip("only root can leave files behind that others cannot open")
    made = tmp_path / "state"
    made.mkdir()
    os.chown(made, NOBODY, NOBODY)
    return made


def owner(path: Path) -> int:
    return path.lstat().st_uid


def test_given_to_the_owner(state: Path) -> None:
    (state / "journal").mkdir()
    (state / "journal" / "recorder.lock").touch()
    os.mkfifo(state / "journal" / "poke")
    (state / "gatepost.sqlite").touch()
    (state / "letter.txt").touch()  # somebody's home may hold a database, too
    name = "gatepost.sqlite"
    assert len(list(ownership.foreign(state, name))) == 4
    assert ownership.give_back(state, name) == 4
    assert list(ownership.foreign(state, name)) == []
    assert ownership.give_back(state, name) == 0
    assert owner(state / "letter.txt") == 0


def test_never_what_is_linked_in(state: Path, tmp_path: Path) -> None:
    """The directory's owner may link what it likes; root must not hand it over."""
    secret = tmp_path / "secret"
    secret.touch()
    os.link(secret, state / "known.hard")
    (state / "known.soft").symlink_to(secret)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").touch()
    (state / "journal").symlink_to(outside)
    ownership.give_back(state)
    assert [owner(p) for p in (secret, outside, outside / "file")] == [0, 0, 0]


def test_milterctl_as_root(state: Path) -> None:
    for arguments in (["report"], ["trap", "add", "trap@example.net"]):
        with pytest.raises(SystemExit) as ended:
            cli.main(["--store", f"{state}/gatepost.sqlite", *arguments])
        assert ended.value.code == 0
    assert (state / "gatepost.sqlite").exists()
    assert list(ownership.foreign(state, "gatepost.sqlite")) == []


def test_own_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ownership.give_back(tmp_path) == 0
    assert owner(tmp_path / "file") == os.geteuid()
    assert ownership.give_back(tmp_path / "missing") == 0
