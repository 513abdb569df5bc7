"""What was seen, on disk before the MTA is answered: records, segments, captured mail."""

from gatepost_policy.journal.segment import (
    Piece,
    abandoned,
    blank,
    encode,
    frame,
    is_torn,
    read,
    segments,
    size_of,
)
from gatepost_policy.journal.writer import POKE, Writer

__all__ = [
    "POKE",
    "Piece",
    "Writer",
    "abandoned",
    "blank",
    "encode",
    "frame",
    "is_torn",
    "read",
    "segments",
    "size_of",
]
