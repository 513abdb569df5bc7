"""What every process knows by heart: traps, listings and repeat senders, mapped from two files."""

from gatepost_policy.lookup.publisher import anew, publish
from gatepost_policy.lookup.state import KnownState

__all__ = ["KnownState", "anew", "publish"]
