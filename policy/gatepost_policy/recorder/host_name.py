"""The name of a journal among all hosts of one store, kept in its directory, and its lock.

The store keeps the watermarks of each host under this name, so two journals with one name would
delete each other's marks and read records twice. A cloned machine has a copy of the file: so the
file says on which machine the name was made, and another machine makes a new one. Marks under the
old name are found by the names of the segments (`store.journal_mark`).
"""

import fcntl
import os
import secrets
from hashlib import blake2b
from pathlib import Path

FILE = "host"
# machine-id(5): unique to a machine; it must be emptied in a clone.
MACHINE_ID = Path("/etc/machine-id")


def machine() -> str:
    """This machine, as 16 hexadecimal digits of a hash, which reveal nothing about it."""
    try:
        number = MACHINE_ID.read_bytes().strip()
    except OSError:
        number = b""  # a container may have none: then only its host name counts
    told = number + b" " + os.uname().nodename.encode("utf-8", "surrogateescape")
    return blake2b(told, digest_size=8, person=b"gatepost host").hexdigest()


def read(directory: Path) -> str:
    """The name that this journal has on this machine, "" for none. Raises OSError."""
    words = _words(directory)
    return words[0] if words[1:] in ([], [machine()]) and words else ""


def of(directory: Path, known: str = "") -> str:
    """The name of this journal, made at first use. Raises OSError.

    `known` is the name that this process read before, in case the directory was removed since.
    """
    name = read(directory)
    if not name or len(_words(directory)) == 1:  # written by a release that did not add the machine
        name = name or known or secrets.token_hex(8)
        aside = directory / f".{name}"
        aside.write_text(f"{name} {machine()}", "ascii")
        aside.rename(directory / FILE)
    return name


def locked(handle: int) -> bool:
    """Lock the open file; where another process has the lock, close it and return False."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    return True


def under(handle: int, directory: Path, known: str) -> str:
    """`of`, for the holder of the lock `handle`, which is closed on an error. Raises OSError."""
    try:
        return of(directory, known)
    except OSError:
        os.close(handle)
        raise


def _words(directory: Path) -> list[str]:
    """The words in the file; none where it was overwritten or damaged."""
    try:
        words = (directory / FILE).read_bytes()[:100].decode("ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return words if all(word.isalnum() for word in words) else []
