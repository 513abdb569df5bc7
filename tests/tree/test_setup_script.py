"""tools/setup.sh says in one line why it cannot go on, on the terminal and not in a file alone."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import ports

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
NOBODY = 65534
TOOLS = "sh id grep sed tr cat head tail cksum dirname python3 env rm"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads of a checkout, in a path with blanks, owned by nobody where we are root."""
    # pytest's own directories are closed to other users.
    home = Path(os.path.realpath(tmp_path)) / "my mail filter"
    home.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, home)
    for lock in ROOT.glob("requirements*.lock"):
        shutil.copy(lock, home)
    shutil.copytree(ROOT / "tools", home / "tools")
    return home


def run(home: Path, environ: dict[str, str]) -> tuple[int, str]:
    """(exit code, all that was said) of set-up in an environment of nothing else."""
    done = subprocess.run(
        [home / "tools" / "setup.sh", "run"],
        env={"HOME": str(home), "LANG": "C", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=110,
    )
    return done.returncode, done.stdout + done.stderr


def test_without_sudo_it_says_what_root_has_to_do(checkout: Path, tmp_path: Path) -> None:
    """No compiler, no sudo, not root: the reason and the command, on the terminal."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in TOOLS.split():
        path = shutil.which(name, path="/usr/bin:/bin")
        assert path is not None, name
        (programs / name).symlink_to(path)
    (programs / "apt-get").symlink_to("/bin/true")
    (programs / "id").unlink()
    (programs / "id").write_text("#!/bin/sh\necho 1000\n")  # where the tests are root, it is not
    (programs / "id").chmod(0o755)
    code, said = run(checkout, {"PATH": str(programs)})
    assert code == 2
    assert "root is needed, and there is no sudo; as root: apt-get install" in said
    # Alone, or with whatever else this machine lacks.
    assert re.search(r" gcc[ ;]", said), said
    assert ".log" not in said


def test_wrong_proxy_is_called_one(checkout: Path) -> None:
    """It is named without its password; nothing speaks of a network that is not there."""
    if not Path("/usr/include/libmilter/mfapi.h").exists():
        pytest.skip("set-up would stop before, at the system's libraries")
    proxy = f"http://me:secret@127.0.0.1:{ports.free_port()}"
    environ = {"PATH": os.environ["PATH"], "https_proxy": proxy, "http_proxy": proxy}
    code, said = run(checkout, environ)
    assert code == 2
    assert "the proxy did not let the Python packages through: https_proxy=http://...@127" in said
    assert "no network" not in said and "secret" not in said
