"""What an operator did by hand, as a value. Pure."""

from dataclasses import dataclass
from typing import Any

from gatepost_policy.text.times import timestamp

NAMES = {
    "list": "listed",
    "forgive": "forgiven",
    "trap": "made a trap",
    "untrap": "no trap any more",
    "note": "noted",
}


@dataclass(frozen=True, slots=True)
class Done:
    """One act. Times are Unix seconds; an empty `actor` is not known."""

    id: int
    at: float
    actor: str
    name: str  # a key of NAMES
    value: str
    note: str
    undone: float | None = None
    undone_by: str = ""

    def json(self) -> dict[str, Any]:
        """As in the report's `acts`."""
        return {
            "at": timestamp(self.at),
            "actor": self.actor or None,
            "act": self.name,
            "object": self.value,
            "note": self.note or None,
            "undone": None if self.undone is None else timestamp(self.undone),
            "undone_by": self.undone_by or None,
        }
