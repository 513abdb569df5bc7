"""What every process knows by heart: traps, listings and repeat senders, read from files."""

from gatepost_policy.lookup.publisher import anew, publish, take_over, touched
from gatepost_policy.lookup.state import KnownState

__all__ = ["KnownState", "anew", "publish", "take_over", "touched"]
