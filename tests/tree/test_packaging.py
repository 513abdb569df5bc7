"""Wheel and sdist: what a plain install gets is complete and runs without the checkout."""

import email
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
VERSIONS = {path.name for path in (ROOT / "migrations" / "versions").glob("*.py")}


def run(*command: str | Path, cwd: Path = ROOT, **env: str) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the sdist, and the wheel that was made from it and from nothing else."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", out)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(out / "source")  # Debian 12's Python knows no filter= yet
    (source,) = (out / "source").iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", out, cwd=source)
    return out


@pytest.fixture(scope="module")
def installed(built: Path) -> Path:
    """The wheel's files as an installation has them."""
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(built / "site")
    return built / "site"


def test_wheel_holds_migrations_and_configuration(installed: Path) -> None:
    policy = installed / "gatepost_policy"
    assert {p.name for p in (policy / "_migrations" / "versions").glob("*.py")} == VERSIONS
    sample = ROOT / "conf" / "gatepost.toml"
    assert (policy / "_conf" / "gatepost.toml").read_bytes() == sample.read_bytes()
    assert (policy / "py.typed").exists()
    names = {
        path.name for path in installed.iterdir() if path.suffix not in (".dist-info", ".data")
    }
    assert names == {"gatepost_milter", "gatepost_policy"}


def test_wheel_brings_manual_and_completion(installed: Path) -> None:
    """Where man(1) and the shells look, below the prefix of the installation."""
    (data,) = installed.glob("*.data")
    share = data / "data" / "share"
    pages = {page.name for page in (share / "man").rglob("*.[158]")}
    assert pages == {page.name for page in (ROOT / "docs" / "man").iterdir()}
    scripts = {path.name for path in share.rglob("*milterctl*") if path.suffix != ".1"}
    assert scripts == {path.name for path in (ROOT / "conf" / "completion").iterdir()}


def test_wheel_says_who_and_what(installed: Path) -> None:
    """Author, classifiers, extras; and no link that is dead on an index page."""
    (info,) = installed.glob("*.dist-info")
    said = email.message_from_bytes((info / "METADATA").read_bytes())
    assert said["Author"] and said.get_all("Classifier")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(said.get_all("Provides-Extra", [])) == set(extras["optional-dependencies"])
    page = said.get_payload()
    assert isinstance(page, str) and "# gatepost" in page
    assert re.findall(r"\]\((?!https?://)", page) == []


def test_repository_address_makes_links_absolute(tmp_path: Path) -> None:
    run(
        sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path,
        GATEPOST_URL="https://git.example/gatepost",
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
        said = email.message_from_bytes(archive.read(name))
    assert "Source, https://git.example/gatepost" in said.get_all("Project-URL", [])
    assert "](https://git.example/gatepost/blob/main/docs/install.md)" in str(said.get_payload())


def test_installed_files_run_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    """The wheel's files come first on the path, and the checkout is not the directory we are in."""
    env = {"PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    program = "import sys; from gatepost_milter.cli import main; main(sys.argv[1:])"
    where = run(
        sys.executable, "-c", "import gatepost_policy as p; print(p.__file__)", cwd=tmp_path, **env
    )
    assert where.startswith(str(installed))
    assert "report" in run(sys.executable, "-c", program, "--help", cwd=tmp_path, **env)
    store = tmp_path / "store.sqlite"
    milterctl = (sys.executable, "-c", program, "--store", f"sqlite:///{store}")
    run(*milterctl, "db", "upgrade", cwd=tmp_path, **env)
    assert store.exists()
    run(*milterctl, "db", "check", cwd=tmp_path, **env)


def test_sdist_holds_what_the_tests_need(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {"Makefile", "tools/setup.sh", ".ci/run", "requirements-dev.lock", "tests/conftest.py"}
    assert wanted <= names
    assert not [name for name in names if name.startswith((".venv", ".git/"))]
