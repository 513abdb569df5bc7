"""What was seen, written to disk before the MTA is answered: records, segments, captured mail."""

from gatepost_policy.journal.losses import LOSSES
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
from gatepost_policy.journal.writer import FULL, POKE, Writer, refused

__all__ = [
    "FULL",
    "LOSSES",
    "POKE",
    "Piece",
    "Writer",
    "abandoned",
    "blank",
    "encode",
    "frame",
    "is_torn",
    "read",
    "refused",
    "segments",
    "size_of",
]
