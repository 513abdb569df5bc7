"""Judge one message: Facts and what is known about them in, one Decision out. Pure."""

from gatepost_policy.rules.known import Known, Listed
from gatepost_policy.rules.rules import judge

__all__ = ["Known", "Listed", "judge"]
