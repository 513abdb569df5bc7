"""Delete what is older than the `[retention]` periods; export and erase a person on request."""

from gatepost_policy.retention.pace import Pace, by_hand, learned, remember, steady
from gatepost_policy.retention.purger import Purger, due, purge

__all__ = ["Pace", "Purger", "by_hand", "due", "learned", "purge", "remember", "steady"]
