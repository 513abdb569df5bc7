"""Copies of a mail server's files, so that a change can be taken back byte for byte.

They lie beside the files, in a directory that only their owner reads: in gatepost's own state
directory the services' user could change what root would put back. Each `take` adds one copy, each
`put_back` uses up the newest. What a file was after the change is kept as well: where it has been
edited since, putting the old one back would lose that, so it is refused.
"""

import difflib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

FOLDER = "gatepost-undo"
BEFORE, AFTER = ".before", ".after"


class Edited(Exception):
    """The files are not what they were after the change; the text is the difference."""


class NoCopy(Exception):
    """There is nothing to put back."""


def newest(directory: Path) -> Path | None:
    """The newest copy, None where there is none."""
    found = sorted(_all(directory), key=lambda p: int(p.name))
    return found[-1] if found else None


def unfinished(copy: Path, names: tuple[str, ...]) -> bool:
    """True where the change that this copy was for was cut off."""
    return not all((copy / (name + AFTER)).exists() for name in names)


def take(directory: Path, names: tuple[str, ...]) -> Path:
    """Copy the files as they are. Raises OSError."""
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    last = newest(directory)
    copy = folder / str(1 if last is None else int(last.name) + 1)
    copy.mkdir(mode=0o700)
    for name in names:
        _write(copy / (name + BEFORE), (directory / name).read_bytes(), directory / name)
    return copy


def finish(copy: Path, names: tuple[str, ...]) -> None:
    """Remember what the files are now, after the change."""
    directory = copy.parent.parent
    for name in names:
        _write(copy / (name + AFTER), (directory / name).read_bytes(), directory / name)


def put_back(copy: Path, names: tuple[str, ...], check: bool = True) -> None:
    """The files as they were, and the copy is gone. Raises Edited, or OSError."""
    directory = copy.parent.parent
    if check and (text := "".join(difference(copy, names))):
        raise Edited(text)
    for name in names:
        old = copy / (name + BEFORE)
        _write(directory / name, old.read_bytes(), old)
    shutil.rmtree(copy)
    if not any(_all(directory)):
        shutil.rmtree(directory / FOLDER)


def difference(copy: Path, names: tuple[str, ...]) -> Iterator[str]:
    """What was edited since the change, as a unified diff; nothing where the change was cut off."""
    for name in names:
        after, now = copy / (name + AFTER), copy.parent.parent / name
        if after.exists() and after.read_bytes() != now.read_bytes():
            yield from difflib.unified_diff(
                _lines(after), _lines(now), f"{name} (as setup left it)", f"{name} (now)"
            )


def _lines(path: Path) -> list[str]:
    lines = path.read_text("utf-8", "backslashreplace").splitlines(keepends=True)
    return [line if line.endswith("\n") else line + "\n" for line in lines]


def _all(directory: Path) -> list[Path]:
    folder = directory / FOLDER
    if not folder.is_dir():
        return []
    return [p for p in folder.iterdir() if re.fullmatch(r"\d+", p.name)]


def _write(path: Path, data: bytes, like: Path) -> None:
    """Write whole or not at all, with owner and mode of `like`."""
    info = like.stat()
    new = path.with_name(f".{path.name}.new")
    handle = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chown(new, info.st_uid, info.st_gid)
        os.chmod(new, info.st_mode & 0o7777)
        os.replace(new, path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
