"""The compiled build: a copy of the checkout is compiled, and the milter's tests run on it."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

import rings

# Half a minute of compiler time, and as much for the tests within; a busy machine takes its time.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
COPIED = (
    "conf", "docs", "migrations", "milter", "policy", "tests", "tools",
    "LICENSE", "README.md", "pyproject.toml",
)  # fmt: skip
# The whole daemon on both engines, golden cases and hostile conversations; and the pure parts that
# are compiled. What hands in a replacement for a compiled class or method is not here.
PLAYED = (
    "tests/filter/test_cases.py::test_daemon",
    "tests/engine/test_both_engines.py",
    "tests/protocol",
    "tests/rules",
    "tests/journal",
)


def libraries(top: Path) -> list[Path]:
    """Every extension module of ours below a checkout."""
    return [path for room in ("milter", "policy") for path in (top / room).rglob("*.so")]


def environ(copy: Path) -> dict[str, str]:
    """This run's environment, with the copy's modules before the checkout's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return {**kept, "PYTHONPATH": f"{copy}/milter:{copy}/policy", "PYTHONDONTWRITEBYTECODE": "1"}


def said(copy: Path, command: Sequence[str | Path], code: int = 0) -> str:
    """What a command says that runs on the copy's modules and ends with `code`."""
    done = subprocess.run(
        command, cwd=copy, env=environ(copy), capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout, compiled: without optimization, which takes half as long."""
    top = tmp_path_factory.mktemp("compiled")
    for name in COPIED:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.so")
            shutil.copytree(ROOT / name, top / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, top)
    before = libraries(ROOT)
    done = subprocess.run(
        [sys.executable, ROOT / "tools/compiled.py", top],
        env={**os.environ, "CFLAGS": "-O0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "is missing" in done.stderr or "are missing" in done.stderr:
        rings.missing("milter", done.stderr.strip())
    assert done.returncode == 0, done.stderr
    assert libraries(ROOT) == before, "compiled in the checkout"
    return top


def program(name: str) -> Path:
    """A console script of this environment."""
    return Path(sys.executable).with_name(name)


def test_says_what_it_is(copy: Path) -> None:
    assert "(compiled)" in said(copy, [program("gatepost-milter"), "--version"])
    assert "(compiled)" in said(copy, [program("gatepost-policyd"), "--version"])
    store = ("--store", f"sqlite:///{copy}/store.sqlite")
    checked = said(copy, [program("milterctl"), *store, "check"], code=3)  # no service runs
    assert "modules: compiled\n" in checked


def test_says_where_a_part_is_missing(copy: Path) -> None:
    """`compiled` is said of the whole only; the finding names what is not there."""
    (lost,) = copy.glob("policy/gatepost_policy/dkim/body.*.so")
    away = lost.rename(copy / lost.name)
    try:
        told = said(copy, [program("gatepost-milter"), "--version"])
        assert re.search(r"\(compiled, but 1 of \d+ from sources\)\n", told)
        store = ("--store", f"sqlite:///{copy}/store.sqlite")
        checked = said(copy, [program("milterctl"), *store, "check"], code=3)
        assert "gatepost_policy.dkim.body: no compiled module beside the source" in checked
        assert "modules: compiled\n" not in checked
    finally:
        away.rename(lost)


def test_the_real_milter_gives_the_same(copy: Path) -> None:
    """The tests of both engines, in a run of their own on the copy."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--timeout=600"]
    told = said(copy, [*command, *PLAYED])
    assert " passed" in told and "skipped" not in told


def test_another_python_runs_the_sources(copy: Path, tmp_path: Path) -> None:
    """Libraries of another version are not looked at: nothing stands still after an upgrade."""
    other = tmp_path / "other"
    for room in ("milter", "policy"):
        shutil.copytree(copy / room, other / room)
    found = libraries(other)
    assert found
    for path in found:
        path.rename(path.with_name(path.name.replace(".cpython-", ".cpython-9")))
    assert "(pure Python)" in said(other, [program("gatepost-milter"), "--version"])
    imported = "import gatepost_milter.filter.session, gatepost_milter.engine.native as n"
    assert said(other, [sys.executable, "-c", f"{imported}; print(n.__file__)"]).endswith(".py\n")


def test_a_wheel_of_it_is_for_this_machine(copy: Path, tmp_path: Path) -> None:
    """And brings library and sources."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    said(copy, build)
    (wheel,) = tmp_path.glob("gatepost-*-cp3*-linux_*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    site = tmp_path / "site"
    names = {path.relative_to(copy).as_posix().split("/", 1)[1] for path in libraries(copy)}
    assert {path.relative_to(site).as_posix() for path in site.rglob("*.so")} == names
    assert (site / "gatepost_milter/engine/native.py").exists()
    path = {**environ(copy), "PYTHONPATH": str(site)}
    done = subprocess.run(
        [program("gatepost-milter"), "--version"],
        env=path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "(compiled)" in done.stdout
