"""Whose configuration and whose store a command takes, and what it says where it may not."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from daemons import BIN
from gatepost_milter.cli import main
from gatepost_policy import config
from gatepost_policy.config import ConfigError, paths

pytestmark = pytest.mark.slow

NOBODY = 65534
ROOT = os.geteuid() == 0


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration of our own, and none for the machine."""
    place = tmp_path / "here"
    place.mkdir(mode=0o755)
    (place / "gatepost.toml").write_text("")
    (place / "gatepost.toml").chmod(0o644)
    monkeypatch.chdir(place)
    monkeypatch.setattr("gatepost_policy.config.file.SYSTEM_FILE", tmp_path / "etc.toml")
    return place


def test_our_own_is_obeyed(here: Path) -> None:
    assert config.find(None, {}) == Path("gatepost.toml")


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
@pytest.mark.parametrize("what", ["file", "directory", "link", "target"])
def test_another_users_is_not(here: Path, tmp_path: Path, what: str) -> None:
    path = here / "gatepost.toml"
    if what == "file":
        os.chown(path, NOBODY, NOBODY)
    if what == "directory":
        os.chown(here, NOBODY, NOBODY)
    if what in ("link", "target"):
        target = tmp_path / "target.toml"
        path.rename(target)
        path.symlink_to(target)
        os.chown(path if what == "link" else target, NOBODY, NOBODY, follow_symlinks=False)
    with pytest.raises(ConfigError, match="not obeyed.*belongs to another user.*--config FILE"):
        config.find(None, {})
    # Named is wanted.
    assert config.find("gatepost.toml", {}) == Path("gatepost.toml")


@pytest.mark.parametrize("what", ["file", "directory", "dir-of-target"])
@pytest.mark.parametrize("mode", [0o020, 0o002, 0o1002])
def test_one_that_others_may_write_is_not(here: Path, tmp_path: Path, what: str, mode: int) -> None:
    path = here / "gatepost.toml"
    place = path if what == "file" else here
    if what == "dir-of-target":
        place = tmp_path / "elsewhere"
        place.mkdir()
        path.rename(place / "x.toml")
        path.symlink_to(place / "x.toml")
    place.chmod(0o755 | mode)
    with pytest.raises(ConfigError, match="not obeyed.*may be written by others"):
        config.find(None, {})


@pytest.mark.parametrize("what", ["pipe", "directory", "device"])
def test_what_is_no_file_is_not(here: Path, what: str) -> None:
    """To read a pipe would be to wait for ever."""
    path = here / "gatepost.toml"
    path.unlink()
    if what == "pipe":
        os.mkfifo(path)
    elif what == "directory":
        path.mkdir()
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not obeyed"):
        config.find(None, {})


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_a_command_ends_with_one_line(here: Path) -> None:
    os.chown(here, NOBODY, NOBODY)
    (here / "gatepost.toml").write_text(f'[store]\nurl = "{here}/made_by_root.sqlite"\n')
    for program in ("milterctl", "gatepost-milter", "gatepost-policyd"):
        words = ["report"] if program == "milterctl" else []
        done = subprocess.run(
            [BIN / program, *words], cwd=here, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 2, done
        assert len(done.stderr.splitlines()) == 1
        assert "not obeyed" in done.stderr
    assert [p.name for p in here.iterdir()] == ["gatepost.toml"]


def test_the_machines_configuration_means_the_services_store(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "gatepost.toml").unlink()
    (tmp_path / "etc.toml").write_text("[sender]\n")
    monkeypatch.setattr(paths, "SERVICE_STATE", tmp_path / "service")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "private"))
    settings = config.load(config.find(None, {}))
    assert config.state_dir(settings) == tmp_path / "service"
    assert config.journal_dir(settings) == tmp_path / "service" / "journal"
    assert config.database_path(settings) == tmp_path / "service" / "gatepost.sqlite"
    # A configuration of one's own keeps one's own place.
    (tmp_path / "mine.toml").write_text("")
    settings = config.load(tmp_path / "mine.toml")
    assert config.state_dir(settings) == tmp_path / "private" / "gatepost"
    # So does a store that was named.
    settings = config.load(tmp_path / "etc.toml", store=str(tmp_path / "x.sqlite"))
    assert config.state_dir(settings) == tmp_path


@pytest.mark.skipif(not ROOT, reason="root gives a store to another user, and a third one asks")
def test_without_the_right_it_says_what_to_type(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own are for their owner only
        place = Path(name)
        place.chmod(0o755)
        _ask_as_nobody(place, tmp_path, capsys)


def _ask_as_nobody(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = place / "state"
    state.mkdir(mode=0o700)
    os.chown(state, 1, 1)  # daemon
    path = place / "gatepost.toml"
    path.write_text(f'[store]\nurl = "{state}/gatepost.sqlite"\n')
    path.chmod(0o644)
    for words in (["report", "--since", "3d"], ["trap", "add", "x@y.example"]):
        line = ["--config", str(path), *words]
        with pytest.raises(SystemExit):  # all that is imported is there before we change
            main(["--store", str(tmp_path / "own.sqlite"), *words])
        capsys.readouterr()
        os.seteuid(NOBODY)
        try:
            with pytest.raises(SystemExit) as ended:
                main(line)
        finally:
            os.seteuid(0)
        said = capsys.readouterr().err
        assert ended.value.code == 3, said
        assert "user nobody has no right to read it, daemon has" in said
        assert f"type: sudo -u daemon milterctl {' '.join(line)}" in said
        assert len(said.splitlines()) == 1
    assert not list(state.iterdir())


def test_erasing_without_a_terminal_wants_a_word(tmp_path: Path) -> None:
    command: list[str | Path] = [
        BIN / "milterctl",
        "--store",
        f"{tmp_path}/x.sqlite",
        "data",
        "erase",
        "a@b.example",
    ]
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "--yes" in done.stderr
    done = subprocess.run(
        [*command, "--yes"], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
