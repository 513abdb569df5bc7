"""The name of a journal among all hosts of one store, kept in its directory."""

import secrets
from pathlib import Path

FILE = "host"


def read(directory: Path) -> str:
    """The name that this journal has, "" for none. Raises OSError."""
    try:
        name = (directory / FILE).read_bytes()[:100].decode("ascii").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return ""
    # Cut short by a full disk, or overwritten: then it has none.
    return name if name.isalnum() else ""


def of(directory: Path, known: str = "") -> str:
    """The name of this journal, made at first use. Raises OSError.

    `known` where this process has read it before, and the directory was taken away since.
    """
    name = read(directory)
    if not name:
        name = known or secrets.token_hex(8)
        aside = directory / f".{name}"
        aside.write_text(name, "ascii")
        aside.rename(directory / FILE)
    return name
