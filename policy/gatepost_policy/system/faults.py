"""Faults for the crash tests to switch on: $GATEPOST_FAULT names points, comma-separated.

Nothing happens without the variable. A point named `kill:WHERE` ends the process by SIGKILL when
execution gets there; `kill:WHERE:N` on the N-th time.
"""

import errno
import os
import signal

_passed: dict[str, int] = {}


def _armed() -> dict[str, int]:
    """Point -> on which passage it fires."""
    found: dict[str, int] = {}
    for word in filter(None, os.environ.get("GATEPOST_FAULT", "").split(",")):
        name, _, number = word.rpartition(":")
        if number.isdigit():
            found[name] = int(number)
        else:
            found[word] = 1
    return found


# Read once, at import: the reply path must not pay for a switch that is never on.
ARMED = _armed()


def point(where: str) -> None:
    """A place where a test may kill the process."""
    if ARMED and f"kill:{where}" in ARMED:
        _passed[where] = _passed.get(where, 0) + 1
        if _passed[where] >= ARMED[f"kill:{where}"]:
            os.kill(os.getpid(), signal.SIGKILL)


def disk_full(where: str) -> None:
    """A place where a test may say that the disk is full. Raises OSError (ENOSPC)."""
    if ARMED and f"full:{where}" in ARMED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
