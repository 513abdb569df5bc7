"""One person's data outside of the database: captured messages, quarantine, journal.

Files are searched for the address as text, in any case, with any `+tag`; captured messages also
for what is encoded in them.
"""

import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from pathlib import Path
from typing import Any

import idna
from sqlalchemy import Engine

from gatepost_policy import journal, store
from gatepost_policy.mail.parsed import parsed
from gatepost_policy.store import journal_mark

VOID = b'{"v":1,"kind":"void"}'
VOID_BYTES = len(journal.blank(len(VOID), VOID))
# Large files are read in pieces; an address with its tag is shorter than OVERLAP.
PIECE = 1_048_576
OVERLAP = 1_024


def pattern(local: str, domain: str) -> re.Pattern[bytes]:
    """A pattern that finds `local@domain` in octets, but not `xlocal@domain` or
    `local@domain.example`.

    Also as a part of another address: VERP (`list+local=domain@...`), BATV
    (`prvs=1234567890=local@domain`) and SRS (`SRS0=hash=day=domain=local@...`); and with its `@` as
    `%` of a source route, or escaped as in quoted-printable text and links.
    """
    name = re.escape(local.encode("utf-8", "surrogateescape"))
    places = {domain.encode("utf-8", "surrogateescape"), _u_labels(domain)}
    place = rb"(?:" + rb"|".join(re.escape(one) for one in sorted(places)) + rb")"
    # RFC 5322 3.2.3: what an atom is made of.
    before = rb"(?<![A-Za-z0-9.!#$%&'*+/=?^_`{|}~-])"
    after = rb"(?![A-Za-z0-9-]|\.[A-Za-z0-9])"
    tag = rb"(?:\+[^@\s<>]{0,200})?"
    return re.compile(
        # BATV: draft-levine-smtp-batv 4; btv1 is Barracuda's.
        rb"(?:" + before + rb"|(?<![A-Za-z0-9])(?:prvs=|btv1==)[0-9A-Za-z]{1,20}==?)"
        + name + tag + rb"@" + place + after
        + rb"|(?<![A-Za-z0-9.])" + name + tag + rb"(?:=40|%40|=3D|=|%)" + place + after
        # The closing hash and time come before the domain.
        + rb"|(?<![A-Za-z0-9])SRS[01][^@\s<>]{1,200}?=" + place + rb"=" + name + tag + rb"@",
        re.I,
    )  # fmt: skip


def without(text: str, wanted: re.Pattern[bytes], instead: str) -> str:
    """`text` with the address `instead` wherever `wanted` (a `pattern`) is found."""
    octets = text.encode("utf-8", "surrogatepass")
    return wanted.sub(instead.encode(), octets).decode("utf-8", "surrogatepass")


def _u_labels(domain: str) -> bytes:
    """The domain as people write it (RFC 5890 2.3.2.1)."""
    try:
        return idna.decode(domain).encode()
    except (idna.IDNAError, UnicodeError):
        return domain.encode("utf-8", "surrogateescape")


def _contains(path: Path, wanted: re.Pattern[bytes]) -> bool:
    kept = b""
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            if wanted.search(kept + piece):
                return True
            kept = piece[-OVERLAP:]
    return False


def _decoded(path: Path, wanted: re.Pattern[bytes]) -> bool:
    """True where a message contains the address in an encoded word of its header or in a text that
    is encoded (RFC 2045 6, RFC 2047)."""
    for part in parsed(path.read_bytes()).walk():
        for value in part.values():
            with suppress(HeaderParseError, LookupError, ValueError):
                text = str(make_header(decode_header(str(value))))
                if wanted.search(text.encode("utf-8", "surrogateescape")):
                    return True
        body = part.get_payload(decode=True)
        if isinstance(body, bytes) and wanted.search(body):
            return True
    return False


def captures(directory: Path, wanted: re.Pattern[bytes]) -> Iterator[Path]:
    """Captured messages that contain the address, and their sidecars. Raises OSError."""
    stems = {
        path.stem
        for path in _files(directory)
        if path.suffix in (".eml", ".json")
        and (_contains(path, wanted) or (path.suffix == ".eml" and _decoded(path, wanted)))
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
