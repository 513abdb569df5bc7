"""What files need of the directory that they are in."""

import os
from pathlib import Path


def sync(directory: Path) -> None:
    """Write the directory's names to the disk: a file that was made, renamed or removed in it is so
    after a power cut as well (fsync(2)). Raises OSError."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
