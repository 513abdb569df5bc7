"""A test run leaves the machine as it found it: the default state directory is nobody's scratch.

A service or `milterctl` that was told no store takes the default one, as root /var/lib/gatepost.
Where that directory was not there before the run and is there afterwards, the run fails.
"""

import os
from pathlib import Path

import pytest

from gatepost_policy import config

NEW = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Note the directory that must not appear. With xdist only the controller looks."""
    where = default_state_dir()
    if not hasattr(config, "workerinput") and not where.exists():
        config.stash[NEW] = where


def default_state_dir() -> Path:
    """Where state goes in this run that no test placed."""
    return config.default_state_dir(os.environ)


def left_behind(config: pytest.Config) -> Path | None:
    """The directory, where the run has made it."""
    where = config.stash.get(NEW, None)
    return where if where is not None and where.exists() else None


@pytest.hookimpl(trylast=True)  # the workers have ended
def pytest_sessionfinish(session: pytest.Session) -> None:
    """A run that left it there has failed, whatever its tests say."""
    if left_behind(session.config) is not None:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Say what is wrong."""
    where = left_behind(config)
    if where is not None:
        terminalreporter.write_sep("=", "left behind", red=True)
        terminalreporter.write_line(
            f"{where} was not there before this run: a test used the default store. "
            "Give its service a store of its own, then remove the directory."
        )
