"""A file system of a few octets, to be filled: a real full disk, for tests that say what then."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rings


@contextmanager
def mounted(place: Path, size: int) -> Iterator[Path]:
    """A tmpfs of `size` octets at `place`, which is made. Belongs to the ring `tools`."""
    place.mkdir()
    with over(place, size):
        yield place


@contextmanager
def over(place: Path, size: int) -> Iterator[None]:
    """The same over what is at `place` already, which nobody finds by name until the end."""
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        rings.missing("tools", f"no file system can be mounted: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


@contextmanager
def read_only(place: Path) -> Iterator[None]:
    """The file system at `place` takes no changes; no file of it may be open for writing."""
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(place)], check=True)


def fill(place: Path) -> Path:
    """Write until nothing goes in any more; the file that holds all the room."""
    filler = place / "filler"
    handle = os.open(filler, os.O_CREAT | os.O_WRONLY)
    try:
        for step in (65_536, 1):
            try:
                while os.write(handle, bytes(step)):
                    pass
            except OSError:
                continue
    finally:
        os.close(handle)
    return filler
