"""The name of a journal among all hosts of one store, kept in its directory, and who may use it.

What a host has read is kept in the store under this name, so two journals of one name would forget
each other's marks and read their records twice. A machine that was cloned has a copy of the file:
so it says on which machine the name was made, and on another one a new name is made. What was read
under the old one is found by the names of the segments (`store.journal_mark`).
"""

import fcntl
import os
import secrets
from hashlib import blake2b
from pathlib import Path

FILE = "host"
# machine-id(5): unique to a machine; whoever clones one has to empty it.
MACHINE_ID = Path("/etc/machine-id")


def machine() -> str:
    """This machine, as 16 hexadecimal digits that tell nothing about it."""
    try:
        number = MACHINE_ID.read_bytes().strip()
    except OSError:
        number = b""  # a container may have none: its host name is left
    told = number + b" " + os.uname().nodename.encode("utf-8", "surrogateescape")
    return blake2b(told, digest_size=8, person=b"gatepost host").hexdigest()


def read(directory: Path) -> str:
    """The name that this journal has on this machine, "" for none. Raises OSError."""
    words = _words(directory)
    return words[0] if words[1:] in ([], [machine()]) and words else ""


def of(directory: Path, known: str = "") -> str:
    """The name of this journal, made at first use. Raises OSError.

    `known` where this process has read it before, and the directory was taken away since.
    """
    name = read(directory)
    if not name or len(_words(directory)) == 1:  # of a release that did not write the machine
        name = name or known or secrets.token_hex(8)
        aside = directory / f".{name}"
        aside.write_text(f"{name} {machine()}", "ascii")
        aside.rename(directory / FILE)
    return name


def locked(handle: int) -> bool:
    """Lock the open file; False, and it is closed, where another process has the lock."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    return True


def under(handle: int, directory: Path, known: str) -> str:
    """`of`, for who holds the lock `handle`, which is closed on an error. Raises OSError."""
    try:
        return of(directory, known)
    except OSError:
        os.close(handle)
        raise


def _words(directory: Path) -> list[str]:
    """What the file says; nothing where it was cut short by a full disk, or overwritten."""
    try:
        words = (directory / FILE).read_bytes()[:100].decode("ascii").split()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return words if all(word.isalnum() for word in words) else []
