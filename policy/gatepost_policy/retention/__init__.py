"""Forget in time, and on request: purge, export and erase a person."""

from gatepost_policy.retention.purger import Purger, purge

__all__ = ["Purger", "purge"]
