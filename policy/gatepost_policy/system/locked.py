"""Whether a process holds the lock of a file: a segment's writer, this host's recorder."""

import fcntl
import os
from pathlib import Path


def is_locked(path: Path) -> bool:
    """True where somebody has the file locked for himself alone (flock(2)). Raises OSError."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False
