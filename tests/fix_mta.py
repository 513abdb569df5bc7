"""Fixtures of the postfix and exim rings, and the privacy matrix that a test run prints."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_unpack
import rings

REPORT = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def postfix_programs() -> Iterator[mta_unpack.Programs]:
    """Postfix, installed or unpacked, and its users for as long as the run lasts."""
    try:
        programs = mta_unpack.postfix()
    except mta_unpack.Unavailable as error:
        rings.missing("postfix", str(error))
    with mta_unpack.users("postfix", groups=("postdrop",)):
        yield programs


@pytest.fixture(scope="session")
def exim_programs() -> Iterator[mta_unpack.Programs]:
    """Exim, unpacked, and its user for as long as the run lasts."""
    try:
        programs = mta_unpack.exim()
    except mta_unpack.Unavailable as error:
        rings.missing("exim", str(error))
    with mta_unpack.users("Debian-exim"):
        yield programs


@pytest.fixture(scope="session")
def shown(request: pytest.FixtureRequest) -> list[str]:
    """Lines that are printed at the end of the run, whatever pytest captured."""
    lines: list[str] = request.config.stash.setdefault(REPORT, [])
    return lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what the tests want the reader of a run to see."""
    lines = terminalreporter.config.stash.get(REPORT, [])
    if lines:
        terminalreporter.section("mail that was really delivered")
        for line in lines:
            terminalreporter.write_line(line)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """The programs of `neighbours` take long to bring, so that ring has to be asked for."""
    if item.get_closest_marker("neighbours") and "neighbours" not in rings.required():
        pytest.skip("make neighbours runs this")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that other users may enter; pytest's own are private."""
    with tempfile.TemporaryDirectory(prefix="gatepost-neighbour-") as made:
        path = Path(made)
        path.chmod(0o755)
        yield path
