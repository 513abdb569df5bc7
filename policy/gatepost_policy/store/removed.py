"""A SQLite file that is missing or empty, but was there before: no command makes a new store."""

import os
import time
from pathlib import Path

from gatepost_policy.config.paths import KNOWN, RECORDER_LOCK
from gatepost_policy.system.locked import is_locked

# The lock of a migration, which is made after the database and stays beside it.
MIGRATE_END = ".migrate"
# A recorder that has just become one makes the file within this.
START_S = 3.0


def is_there(path: Path | str) -> bool:
    """True where there is a file at `path` that has something in it. SQLite takes an empty one
    (`> gatepost.sqlite`) for a new database."""
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False
    except OSError:
        return True


def was_there(path: Path, journal: Path | None = None) -> bool:
    """True where there is no store at `path`, but one was made there before, or (with its
    `journal`) a recorder works with one."""
    if Path(f"{path}{MIGRATE_END}").exists() or path.with_name(KNOWN).exists():
        return not is_there(path)
    if journal is None:
        return False
    deadline = time.monotonic() + START_S
    while recording(journal):
        if is_there(path):
            return False
        if time.monotonic() >= deadline:
            return True
        time.sleep(0.02)
    return False


def recording(journal: Path) -> bool:
    """True where a recorder holds the lock of this journal."""
    try:
        return is_locked(journal / RECORDER_LOCK)
    except OSError:
        return False
