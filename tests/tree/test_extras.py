"""The base install: what is left out says in one line what to install, and nothing else breaks.

In processes of their own, in which Python's search for modules does not find those of the extras.
"""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MESSAGE = b"From: a@sender.example\r\nTo: b@home.example\r\nSubject: x\r\n\r\nx\r\n"
# Read by every Python process that finds it (site), so by what milterctl starts, too.
ABSENT = """
import importlib.machinery
find = importlib.machinery.PathFinder.find_spec
def without(name, path=None, target=None):
    return None if name.partition(".")[0] in {names!r} else find(name, path, target)
importlib.machinery.PathFinder.find_spec = staticmethod(without)
"""
EXTRAS = {
    "fast": ("numpy",),
    "libmilter": ("Milter", "milter"),
    "postgresql": ("psycopg", "psycopg_binary"),
    "web": ("flask", "flask_wtf", "waitress"),
}
Ran = tuple[int, str, str]


def run(directory: Path, program: str, *words: str | Path) -> Ran:
    """(exit code, stdout, stderr) of one of our programs where no extra is installed."""
    names = tuple(name for modules in EXTRAS.values() for name in modules)
    (directory / "sitecustomize.py").write_text(ABSENT.format(names=names))
    environ = {
        **os.environ,
        "PYTHONPATH": str(directory),
        "XDG_STATE_HOME": str(directory / "state"),
        "GATEPOST_CONFIG": os.devnull,
    }
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *words],
        env=environ, cwd=directory, capture_output=True, text=True, check=False, timeout=110,
    )  # fmt: skip
    return done.returncode, done.stdout, done.stderr


def test_these_are_the_extras() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["optional-dependencies"]) == set(EXTRAS)


def test_default_engine_names_both_ways_on(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "gatepost-milter")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "pip install 'gatepost[libmilter]'" in line and 'engine = "native"' in line


def test_postgresql_names_its_extra(tmp_path: Path) -> None:
    store = "postgresql://nobody:secret@127.0.0.1:9/x"
    code, out, err = run(tmp_path, "milterctl", "--store", store, "trap", "list")
    assert (code, out) == (3, "")
    (line,) = err.splitlines()
    assert "pip install 'gatepost[postgresql]'" in line and "secret" not in line


def test_live_page_names_its_extra(tmp_path: Path) -> None:
    code, out, err = run(tmp_path, "milterctl", "web")
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert "pip install 'gatepost[web]'" in line


@pytest.mark.milter
def test_replay_needs_no_extra(tmp_path: Path) -> None:
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    code, out, err = run(tmp_path, "milterctl", "replay", "x.eml")
    assert code == 0, err
    assert "decision" in out


def test_traps_and_reports_need_no_extra(tmp_path: Path) -> None:
    assert run(tmp_path, "milterctl", "trap", "add", "trap@home.example")[0] == 0
    code, out, err = run(tmp_path, "milterctl", "report", "--format", "html")
    assert (code, err) == (0, "")
    assert "</html>" in out
