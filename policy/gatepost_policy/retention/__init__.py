"""Forget in time, and on request: purge, export and erase a person."""

from gatepost_policy.retention.pace import Pace, by_hand, learned, remember, steady
from gatepost_policy.retention.purger import Purger, due, purge

__all__ = ["Pace", "Purger", "by_hand", "due", "learned", "purge", "remember", "steady"]
