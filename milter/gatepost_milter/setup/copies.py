"""Copies of a mail server's configuration files, so that a change can be undone byte for byte.

They are kept beside the files, in a directory that only its owner can read; in gatepost's state
directory, gatepost's own user could change what root would later put back. Each `take` adds one
copy, each `put_back` removes the one that it used. The files after the change are kept as well:
where a file was edited since, an undo would lose that edit, so it is refused.
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
    """The directory of the newest copy of files in `directory`; None where there is none."""
    found = sorted(_all(directory), key=lambda p: int(p.name))
    return found[-1] if found else None


def unfinished(copy: Path, names: tuple[str, ...]) -> bool:
    """True where the change after this copy was interrupted (`finish` was not called)."""
    return not all((copy / (name + AFTER)).exists() for name in names)


def take(directory: Path, names: tuple[str, ...]) -> Path:
    """Copy the files before a change; returns the copy's directory. Raises OSError."""
    folder = directory / FOLDER
    folder.mkdir(mode=0o700, exist_ok=True)
    last = newest(directory)
    copy = folder / str(1 if last is None else int(last.name) + 1)
    copy.mkdir(mode=0o700)
    for name in names:
        _write(copy / (name + BEFORE), (directory / name).read_bytes(), directory / name)
    return copy


def finish(copy: Path, names: tuple[str, ...]) -> None:
    """Keep the files after the change too, to see later edits. Raises OSError."""
    directory = copy.parent.parent
    for name in names:
        _write(copy / (name + AFTER), (directory / name).read_bytes(), directory / name)


def put_back(copy: Path, names: tuple[str, ...], check: bool = True) -> None:
    """Put the files back as they were and remove the copy. Raises OSError, and Edited (unless
    `check` is False) where a file was edited since."""
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
    """The edits since the change as a unified diff; nothing where the change was interrupted."""
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
    """Write `path` atomically, with owner and mode of `like`."""
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
