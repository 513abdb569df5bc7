"""One person's data outside of the database: captured messages, quarantine, journal.

Files are searched for the address as text, in any case, with any `+tag`.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine

from gatepost_policy import journal, store
from gatepost_policy.store import journal_mark

VOID = b'{"v":1,"kind":"void"}'
VOID_BYTES = len(journal.blank(len(VOID), VOID))
# Large files are read in pieces; an address with its tag is shorter than OVERLAP.
PIECE = 1_048_576
OVERLAP = 1_024


def pattern(local: str, domain: str) -> re.Pattern[bytes]:
    """A pattern that finds `local@domain` in octets, but not `xlocal@domain` or
    `local@domain.example`.
    """
    name, place = (re.escape(t.encode("utf-8", "surrogateescape")) for t in (local, domain))
    # RFC 5322 3.2.3: what an atom is made of.
    before = rb"(?<![A-Za-z0-9.!#$%&'*+/=?^_`{|}~-])"
    return re.compile(
        before + name + rb"(?:\+[^@\s<>]*)?@" + place + rb"(?![A-Za-z0-9-]|\.[A-Za-z0-9])", re.I
    )


def _contains(path: Path, wanted: re.Pattern[bytes]) -> bool:
    kept = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            if wanted.search(kept + piece):
                return True
            kept = piece[-OVERLAP:]
    return False


def captures(directory: Path, wanted: re.Pattern[bytes]) -> Iterator[Path]:
    """Captured messages that contain the address, and their sidecars. Raises OSError."""
    stems = {
        path.stem
        for path in _files(directory)
        if path.suffix in (".eml", ".json") and _contains(path, wanted)
    }
    for path in _files(directory):
        if path.stem in stems:
            yield path


def quarantined(directory: Path, wanted: re.Pattern[bytes]) -> Iterator[Path]:
    """Records in quarantine that contain the address. Raises OSError."""
    for path in _files(directory):
        if _contains(path, wanted):
            yield path


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(p for p in directory.iterdir() if p.is_file())
    except FileNotFoundError:
        return []


def blank(
    engine: Engine, directory: Path, is_same: Callable[[str], bool], wanted: re.Pattern[bytes]
) -> int:
    """Overwrite the person's records in segments that are still there; returns how many.

    Only what is before the watermark, so already ingested: it is not read again, and the writer
    only appends. Raises StoreError, OSError.
    """
    with store.reading(engine) as connection:
        marks = journal_mark.read(connection)
    blanked = 0
    for segment in journal.segments(directory):
        limit = marks.get(segment.name, 0)
        if not limit:
            continue
        found = [
            piece
            for piece in journal.read(segment, 0, limit)
            if piece.end <= limit
            and (
                _names(piece.data, is_same, wanted)
                if piece.data is not None
                # Damage, of which quarantine has a copy too. A valid record must fit in its place.
                else wanted.search(piece.raw) and len(piece.raw) > VOID_BYTES
            )
        ]
        if not found:
            continue
        handle = os.open(segment, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for piece in found:
                os.pwrite(handle, journal.blank(piece.end - piece.start, VOID), piece.start)
                blanked += 1
            os.fsync(handle)
        finally:
            os.close(handle)
    return blanked


def _names(data: dict[str, Any], is_same: Callable[[str], bool], wanted: re.Pattern[bytes]) -> bool:
    texts = [data.get("sender"), data.get("header_from")]
    texts += [r.get("address") for r in data.get("recipients") or ()]
    if any(isinstance(t, str) and is_same(t) for t in texts):
        return True
    return wanted.search(json.dumps(data).encode()) is not None
