"""Judge one message: from its Facts and what the store knows, to one Decision. Pure."""

from gatepost_policy.rules.known import Good, Known, Listed, Past
from gatepost_policy.rules.rules import judge

__all__ = ["Good", "Known", "Listed", "Past", "judge"]
