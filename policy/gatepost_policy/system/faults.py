"""Faults that crash tests switch on: $GATEPOST_FAULT names points, comma-separated.

Nothing happens without the variable. `kill:WHERE` ends the process by SIGKILL at the point WHERE,
`kill:WHERE:N` at the N-th time; `full:WHERE` raises ENOSPC there.
"""

import errno
import os
import signal

_passed: dict[str, int] = {}


def _armed() -> dict[str, int]:
    """{point: at which time it fires, from 1}."""
    found: dict[str, int] = {}
    for word in filter(None, os.environ.get("GATEPOST_FAULT", "").split(",")):
        name, _, number = word.rpartition(":")
        if number.isdigit():
            found[name] = int(number)
        else:
            found[word] = 1
    return found


# Read once, at import: answering a message must not cost more for a switch of tests.
ARMED = _armed()


def point(where: str) -> None:
    """The point `where`, at which a test may kill the process."""
    if ARMED and f"kill:{where}" in ARMED:
        _passed[where] = _passed.get(where, 0) + 1
        if _passed[where] >= ARMED[f"kill:{where}"]:
            os.kill(os.getpid(), signal.SIGKILL)


def disk_full(where: str) -> None:
    """The point `where`, at which a test may make the disk full. Raises OSError (ENOSPC)."""
    if ARMED and f"full:{where}" in ARMED:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
