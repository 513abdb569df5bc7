"""Judge one message: Facts and what is known about them in, one Decision out. Pure."""

from gatepost_policy.rules.known import Good, Known, Listed, Past
from gatepost_policy.rules.rules import judge

__all__ = ["Good", "Known", "Listed", "Past", "judge"]
