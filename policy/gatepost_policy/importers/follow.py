"""Follow a log file while it is written, from a saved position, over both kinds of rotation.

How it works: a position is the file's inode, an offset after a whole line, and a digest of the
octets before that offset. A renamed file is read to its end, with the lines that its writer still
adds, before the next file is begun. Where a file was emptied in place (copytruncate), the digest
does not match any more: the rest is looked for in the copies beside it, also compressed ones.
Rotated files that were changed after the newest one that was read are read before the log itself,
so any number of rotations may happen between two looks.

Limits: lines that logrotate loses between copying and emptying are lost. A rotated file whose
modification time changes is read again: the caller must recognise lines that it has already.
"""

import bz2
import gzip
import lzma
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any, cast

from gatepost_policy.importers.log_file import without_holes

CHUNK_BYTES = 1 << 20
MAX_LINE_BYTES = 1 << 16
# Octets before a position that its digest covers.
LOOK_BACK = 1024
# A renamed file is left after this many looks at which it had nothing new.
QUIET_LOOKS = 3
_PACKED = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\0", lzma.open))


@dataclass(slots=True)
class Position:
    """How far a log has been read. `inode` 0: nothing has been read yet.

    `after`: when the newest rotated file that was read was changed, in nanoseconds since 1970.
    """

    device: int = 0
    inode: int = 0
    offset: int = 0
    digest: str = ""
    after: int = 0

    def json(self) -> dict[str, Any]:
        """As a dict that JSON can hold, with these field names."""
        return asdict(self)


class Follower:
    """One log. `read` gives new lines; `position` is after the last line that it gave."""

    def __init__(self, path: Path, position: Position | None = None) -> None:
        self.path = path
        self.position = position or Position()
        self.begun = False  # the lines given last are the first of a file
        self.lost = ""  # why lines may be missing; the caller logs it and sets it to ""
        self._file: IO[bytes] | None = None
        self._quiet = 0
        self._returning = position is not None and position.inode != 0
        if position is None:
            # Files rotated before the first run are not read: they are for `milterctl import`.
            self.position.after = max((at for at, _ in self._siblings()), default=0)

    def close(self) -> None:
        """Close the open file."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def read(self) -> Iterator[list[str]]:
        """The new whole lines, at most CHUNK_BYTES at a time, until there are no more.

        Raises OSError where the log cannot be read; one that does not exist yet has no lines.
        """
        while True:
            if self._file is None and not self._open():
                return
            at = self.position.offset
            lines = self._next()
            if lines is None:
                continue  # another file is to be read first
            if lines:
                self._quiet = 0
                self.begun = at == 0
                yield lines
            elif not self._turn():
                return

    def _open(self) -> bool:
        """Open the next file to read; False where there is none."""
        if self._returning:
            self._returning = False
            self._find_back()
            if self._file is not None:
                return True
        for _, path in self._unread():
            with suppress(
                FileNotFoundError
            ):  # compressed and renamed just now: the next look finds it
                self._begin(path)
                return True
        with suppress(FileNotFoundError):
            self._begin(self.path)
            return True
        return False

    def _begin(self, path: Path) -> None:
        self._file = _opened(path)
        found = os.fstat(self._file.fileno())
        self.position = Position(found.st_dev, found.st_ino, after=self.position.after)

    def _next(self) -> list[str] | None:
        """The next lines of the open file; None where another one comes first."""
        file, position = self._file, self.position
        assert file is not None
        if not self._fits(file):
            self._emptied()
            return None
        if not position.offset and self._older(file):
            # Since the last look the file was written, copied and emptied: read the copy first.
            self.close()
            return None
        file.seek(position.offset)
        data = file.read(CHUNK_BYTES)
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) > MAX_LINE_BYTES:
            cut = len(data)  # too long for a log line: give it in pieces, to bound the memory
        data = data[:cut]
        if not data or not self._fits(file):
            return []  # emptied while it was read: the next look finds that
        end = position.offset + cut
        before = data[-LOOK_BACK:]
        if len(before) < LOOK_BACK:
            start = max(0, end - LOOK_BACK)
            file.seek(start)
            before = file.read(end - start)
        self.position = replace(position, offset=end, digest=_digest(before))
        return _lines(data)

    def _fits(self, file: IO[bytes]) -> bool:
        """True where the octets before the position still have its digest."""
        offset = self.position.offset
        start = max(0, offset - LOOK_BACK)
        try:
            file.seek(start)
            before = file.read(offset - start)
        except (OSError, EOFError, ValueError):
            return False
        return len(before) == offset - start and (
            not offset or _digest(before) == self.position.digest
        )

    def _emptied(self) -> None:
        """The file was emptied in place: go on in the copy, or say that lines may be lost."""
        self.close()
        copy = self._search(inode=False)
        if copy is None:
            self._say_lost()
            self.position = Position(after=self.position.after)
            return
        self._file = _opened(copy)

    def _older(self, file: IO[bytes]) -> bool:
        """True where rotated files that are not read yet come before `file`."""
        mine = os.fstat(file.fileno())
        until = None if self._is_log(file) else mine.st_mtime_ns
        return any(until is None or at < until for at, _ in self._unread())

    def _is_log(self, file: IO[bytes]) -> bool:
        """True where `file` is the one that has the log's name."""
        with suppress(FileNotFoundError):
            now, mine = self.path.stat(), os.fstat(file.fileno())
            return (now.st_dev, now.st_ino) == (mine.st_dev, mine.st_ino)
        return False

    def _turn(self) -> bool:
        """At the end of the open file: close it if another one is to be read. True if so."""
        file = self._file
        assert file is not None
        if self._is_log(file):
            return False
        mine = os.fstat(file.fileno())
        after = self.position.after
        if mine.st_size:
            self.position.after = max(after, mine.st_mtime_ns)
        unread = bool(self._unread())
        # Its writer may still have it open and add lines.
        self._quiet += 1
        if not unread and (not self.path.exists() or (_plain(file) and self._quiet <= QUIET_LOOKS)):
            self.position.after = after
            return False
        self._quiet = 0
        self.close()
        return True

    def _find_back(self) -> None:
        """Find the file that the position is of: the log itself, renamed, copied or packed."""
        position = self.position
        for path in (self.path, self._search(inode=True), self._search(inode=False)):
            if path is None or not path.exists():
                continue
            file = _opened(path)
            found = os.fstat(file.fileno())
            same = (found.st_dev, found.st_ino) == (position.device, position.inode)
            if (same or path != self.path) and self._fits(file):
                self._file = file
                self._quiet = QUIET_LOOKS  # after a restart its writer had time enough
                return
            file.close()
        if position.offset:
            self._say_lost()
        self.position = Position(after=position.after)

    def _say_lost(self) -> None:
        self.lost = (
            "what was read last is in no file any more: lines before this one may be missing"
        )

    def _siblings(self) -> list[tuple[int, Path]]:
        """(modification time in nanoseconds, path) of this log's rotated files, oldest first."""
        name = self.path.name
        stem, suffix = self.path.stem, self.path.suffix
        aged: list[tuple[int, Path]] = []
        with suppress(OSError):
            for entry in os.scandir(self.path.parent):
                rotated = entry.name.startswith((f"{name}.", f"{name}-")) or (
                    suffix and entry.name.startswith((f"{stem}-", f"{stem}."))
                )
                with suppress(OSError):
                    if rotated and entry.name != name and entry.is_file():
                        status = entry.stat()
                        # Not empty ones: one that was emptied and renamed is as old as its copy.
                        if status.st_size:
                            aged.append((status.st_mtime_ns, Path(entry.path)))
        return sorted(aged)

    def _unread(self) -> list[tuple[int, Path]]:
        """Rotated files that are not read yet, as from `_siblings`."""
        return [(at, path) for at, path in self._siblings() if at > self.position.after]

    def _search(self, *, inode: bool) -> Path | None:
        """The rotated file that the position belongs to, by inode, or by its digest."""
        for _, path in reversed(self._siblings()):
            with suppress(OSError, EOFError, ValueError):
                if inode:
                    found = path.stat()
                    wanted = (self.position.device, self.position.inode)
                    if (found.st_dev, found.st_ino) == wanted:
                        return path
                elif self.position.offset:
                    with _opened(path) as file:
                        if self._fits(file):
                            return path
        return None


def _opened(path: Path) -> IO[bytes]:
    raw = path.open("rb", buffering=0)
    magic = raw.read(6)
    raw.seek(0)
    for start, opener in _PACKED:
        if magic.startswith(start):
            raw.close()
            return cast("IO[bytes]", opener(path, "rb"))
    return cast("IO[bytes]", raw)


def _plain(file: IO[bytes]) -> bool:
    return not isinstance(file, gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile)


def _digest(data: bytes) -> str:
    return blake2b(data, digest_size=12).hexdigest()


def _lines(data: bytes) -> list[str]:
    text = without_holes(data).replace(b"\r\n", b"\n").decode("utf-8", "surrogateescape")
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return lines
