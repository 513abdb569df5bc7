"""The guard of fix_tidy fires: a run that makes the default state directory fails and names it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
TESTS = Path(__file__).parents[1]
BAIT = """
from gatepost_policy import config

def test_careless():
    config.default_state_dir().mkdir(parents=True, exist_ok=True)
"""


def run(tmp_path: Path, *options: str) -> tuple[int, str]:
    """Exit status and output of a run of its own, whose default state is below `tmp_path`."""
    (tmp_path / "test_it.py").write_text(BAIT)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "fix_tidy", "-p", "no:cacheprovider",
         "-c", os.devnull, f"--rootdir={tmp_path}", *options, tmp_path / "test_it.py"],
        env={**os.environ, "PYTHONPATH": str(TESTS), "XDG_STATE_HOME": str(tmp_path / "state")},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    return done.returncode, done.stdout


@pytest.mark.parametrize("options", [(), ("-n", "1")], ids=["plain", "xdist"])
def test_default_state_made_by_a_test(tmp_path: Path, options: tuple[str, ...]) -> None:
    status, out = run(tmp_path, *options)
    assert status == 1
    assert f"{tmp_path}/state/gatepost was not there before this run" in out


def test_default_state_that_was_there(tmp_path: Path) -> None:
    """An installed gatepost is no finding."""
    (tmp_path / "state" / "gatepost").mkdir(parents=True)
    assert run(tmp_path)[0] == 0
