"""What each process has in memory: traps, listings and repeat senders, from published files."""

from gatepost_policy.lookup.publisher import anew, publish, take_over, touched
from gatepost_policy.lookup.state import KnownState

__all__ = ["KnownState", "anew", "publish", "take_over", "touched"]
