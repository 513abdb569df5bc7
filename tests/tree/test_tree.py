"""The tree itself: nothing that shadows pymilter, names one machine, or grows past reading."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest

from gatepost_policy.config import problems

ROOT = Path(__file__).parents[2]
MAX_LINES = 400

# Put together here so that this file does not find itself.
HOSTS = r"py" r"pi\.org|python" r"hosted\.|deb\." r"debian\.org|/simp" r"le/"
PATHS = r"/wo" r"rk/|/ro" r"ot/\.|bash_" r"jobs"


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the repository, or of the unpacked source where there is no repository."""
    asked = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        capture_output=True,
        check=False,
    )
    if asked.returncode == 0:
        names = [ROOT / name for name in asked.stdout.decode().split("\0") if name]
        return tuple(path for path in names if path.is_file())
    return tuple(p for p in ROOT.rglob("*") if p.is_file() and ".venv" not in p.parts)


def texts() -> list[tuple[Path, str]]:
    """The tracked files that are text."""
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" not in data[:8192]:
            found.append((path, data.decode("utf-8", "replace")))
    return found


def hits(pattern: str, files: list[tuple[Path, str]]) -> list[str]:
    """FILE:LINE: TEXT for each line that matches."""
    wanted = re.compile(pattern)
    return [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path, text in files
        for number, line in enumerate(text.splitlines(), 1)
        if wanted.search(line)
    ]


def shadows(paths: tuple[Path, ...]) -> list[Path]:
    """Packages that would be imported instead of pymilter's C module `milter` or `Milter`."""
    return [
        path
        for path in paths
        if (path.name == "__init__.py" and path.parent.name.lower() == "milter")
        or path.name.lower() == "milter.py"
    ]


def test_nothing_shadows_pymilter() -> None:
    assert shadows((ROOT / "milter" / "__init__.py", ROOT / "tests" / "milter.py")) != []
    assert shadows(tracked()) == []


def test_no_index_addresses_and_no_machine_paths() -> None:
    bait = [(ROOT / "bait", "index-url = https://py" + "pi.org/simp" + "le/\ncd /wo" + "rk/x\n")]
    assert len(hits(HOSTS, bait)) == 1 and len(hits(PATHS, bait)) == 1
    assert hits(HOSTS, texts()) == []
    assert hits(PATHS, texts()) == []


@pytest.mark.parametrize("lock", sorted(p.name for p in ROOT.glob("requirements*.lock")))
def test_locks_name_neither_address_nor_path(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "--hash=sha256:" in text
    assert "://" not in text and "file:" not in text and " /" not in text
    unpinned = [
        line for line in text.splitlines() if line[:1].isalnum() and not re.match(r"\S+==", line)
    ]
    assert unpinned == []


def test_locks_cover_the_project() -> None:
    """Each dependency of pyproject.toml is pinned: `make lock` was run after the last change."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = {
        "requirements.lock": document["project"]["dependencies"],
        "requirements-build.lock": document["dependency-groups"]["build"],
        "requirements-dev.lock": document["dependency-groups"]["dev"],
        "requirements-compile.lock": document["dependency-groups"]["compile"],
    }
    for lock, wanted in groups.items():
        pinned = set(re.findall(r"^([a-z0-9.-]+)==", (ROOT / lock).read_text(), re.M))
        names = {re.split(r"[\[<>=!~ ;]", entry)[0].lower().replace("_", "-") for entry in wanted}
        assert names <= pinned, lock


def test_modules_can_be_read() -> None:
    """A module over 400 lines holds two ideas: split it."""
    long = {
        str(path.relative_to(ROOT)): text.count("\n")
        for path, text in texts()
        if path.suffix == ".py" and text.count("\n") > MAX_LINES
    }
    assert long == {}


def rooms() -> set[str]:
    """The packages below both import packages: each a room of its own."""
    packages = ("milter/gatepost_milter", "policy/gatepost_policy")
    return {path.parent.name for top in packages for path in (ROOT / top).glob("*/__init__.py")}


def test_tests_lie_where_what_they_test_lies() -> None:
    """A room's tests are in the folder of its name; what needs no room has a folder of its own.

    `auth` keeps the rooms whose names are libraries' as well: a folder of tests with the name
    `dkim` would hide the library from the type checkers.
    """
    own = {"auth", "tree", "postfix", "exim"}
    for path in (ROOT / "tests").rglob("test_*.py"):
        room, *below = path.relative_to(ROOT / "tests").parts[:-1] or ("",)
        assert room in rooms() | own, path
        assert room != "auth" or set(below) <= rooms(), path


def test_no_test_imports_another() -> None:
    """What two tests share is in a module that pytest does not collect: it would run twice."""
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text()
        if not re.search(r"^\s*(import|from)\b.*\btest_", text, re.MULTILINE):
            continue  # to parse all of them takes seconds
        for node in ast.walk(ast.parse(text)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split(".")[-1].startswith("test_")], path


def test_markers_are_checked() -> None:
    """A misspelt marker would take its test out of every ring."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    assert "--strict-markers" in options["addopts"]
    rings = re.search(r"^RINGS = (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert rings is not None
    known = {line.partition(":")[0] for line in options["markers"]}
    assert set(rings.group(1).split(" or ")) <= known


def test_no_build_products_are_tracked() -> None:
    bad = re.compile(r"(^|/)(\.venv|__pycache__|\.pytest_cache)/|\.(db|sqlite3?|pyc|log)$")
    assert bad.search("bench/__pycache__/run.py") and bad.search("gatepost.sqlite")
    asked = subprocess.run(
        ["git", "-C", ROOT, "ls-files"], capture_output=True, check=False, text=True
    )
    assert [name for name in asked.stdout.splitlines() if bad.search(name)] == []


def test_every_key_does_something() -> None:
    """A key that nothing reads is a promise that nobody keeps."""
    code = "\n".join(
        text
        for path, text in texts()
        if path.suffix == ".py"
        and path.parts[len(ROOT.parts)] in ("milter", "policy")
        and path.name != "settings.py"
    )
    read = set(re.findall(r"\.(\w+)", code))
    unread = [
        f"{table}.{key}"
        for table, names in problems.tables().items()
        for key in names
        if key not in read
    ]
    assert unread == []


# Where a suppression could hide that a column was read under another's name.
DATA_ROOMS = ("store", "ingest", "journal", "recorder", "retention", "report", "listings/table.py")
SUPPRESSED = r"#\s*(type|pyright):\s*ignore"


def test_no_suppressed_types_where_rows_are_read_and_written() -> None:
    assert (
        len(hits(SUPPRESSED, [(ROOT / "bait.py", "x = row[6]  # type" + ": ignore[index]\n")])) == 1
    )
    rooms = tuple(ROOT / "policy" / "gatepost_policy" / room for room in DATA_ROOMS)
    files = [
        (path, text)
        for path, text in texts()
        if path.suffix == ".py" and any(room in (path, *path.parents) for room in rooms)
    ]
    assert len(files) > 30
    assert hits(SUPPRESSED, files) == []
