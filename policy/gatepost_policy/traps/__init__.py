"""The traps: what can be one, keep them, import a published list."""

from gatepost_policy.traps.import_list import import_lines
from gatepost_policy.traps.names import classify
from gatepost_policy.traps.table import (
    Finding,
    Trap,
    add,
    check,
    count,
    domains_by_hand,
    hits,
    listing,
    live,
    remove,
    seen_live,
)

__all__ = [
    "Finding",
    "Trap",
    "add",
    "check",
    "classify",
    "count",
    "domains_by_hand",
    "hits",
    "import_lines",
    "listing",
    "live",
    "remove",
    "seen_live",
]
