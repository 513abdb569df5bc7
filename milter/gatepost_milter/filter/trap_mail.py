"""What is kept of a message for a trap while its body is heard: a copy, and what its parts say."""

from pathlib import Path
from typing import Any

from gatepost_policy.journal.capture import Capture
from gatepost_policy.mail import marks


class TrapMail:
    """`copy`: where copies of trap mail are kept. `opening`: where the headers of the message's
    parts may say what it is, the first octets of its body go there."""

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
        """Keep the copy; where it lies, if there is one."""
        return None if self._copy is None else self._copy.finish(sidecar)

    def abandon(self) -> None:
        """Nothing is kept."""
        if self._copy is not None:
            self._copy.abandon()
