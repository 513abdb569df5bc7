"""What is kept of a message for a trap while its body comes: a copy, and the start of its parts."""

from pathlib import Path
from typing import Any

from gatepost_policy.journal.capture import Capture
from gatepost_policy.mail import marks


class TrapMail:
    """`copy`: the file that gets the whole mail, None where copies are not kept. `opening`: gets
    the first octets of a multipart body, whose parts' headers may tell what kind of mail it is."""

    __slots__ = ("_copy", "_opening")

    def __init__(self, copy: Capture | None, opening: bytearray | None) -> None:
        self._copy = copy
        self._opening = opening

    def body(self, chunk: bytes) -> None:
        """The next octets of the body."""
        if self._copy is not None:
            self._copy.body(chunk)
        if self._opening is not None and len(self._opening) < marks.MAX_BODY:
            self._opening += chunk[: marks.MAX_BODY - len(self._opening)]

    def finish(self, sidecar: dict[str, Any]) -> Path | None:
        """Keep the copy, with `sidecar` beside it; returns its path, None where there is none."""
        return None if self._copy is None else self._copy.finish(sidecar)

    def abandon(self) -> None:
        """Remove the copy."""
        if self._copy is not None:
            self._copy.abandon()
