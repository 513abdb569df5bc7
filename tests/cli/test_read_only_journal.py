"""milterctl where the file system of the journal went read-only: that is when somebody looks."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

import small_disk
from daemons import BIN
from fix_store import message
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import journal

pytestmark = pytest.mark.slow


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    """A journal with a message that is stored and one that is not; no recorder runs. The store
    lies elsewhere: SQLite reads none on such a file system that no process has open already."""
    with small_disk.mounted(tmp_path / "state", 1_000_000) as place:
        (tmp_path / "gatepost.toml").write_text(
            f'store.url = "sqlite:///{tmp_path}/gatepost.sqlite"\nstore.journal = "{place}/journal"'
        )
        for n in range(2):
            writer = journal.Writer(place / "journal", max_bytes=1 << 30, sync="process")
            assert writer.write(message(n))
            writer.close()
            if n == 0:
                # A process of its own: no file may be open when the file system changes.
                config = str(tmp_path / "gatepost.toml")
                subprocess.run([BIN / "milterctl", "--config", config, "report"], check=True)
        with small_disk.read_only(place):
            yield place


def ctl(state: Path, *words: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(state.parent / "gatepost.toml"), *words])


@pytest.mark.parametrize("command", ["report", "stat"])
def test_the_store_can_be_read(state: Path, command: str) -> None:
    result = ctl(state, command)
    assert result.exit_code == 0, (result.output, result.exception)
    assert "Read-only file system; the newest messages may be missing" in result.stderr


def test_check_says_that_it_cannot_be_written(state: Path) -> None:
    result = ctl(state, "check")
    assert result.exit_code != 0
    assert "cannot be written: Read-only file system" in result.stdout
