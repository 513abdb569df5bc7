"""The traps: what can be one, keep them, import a published list."""

from gatepost_policy.traps.import_list import import_lines
from gatepost_policy.traps.names import classify
from gatepost_policy.traps.table import (
    Finding,
    InUse,
    Trap,
    add,
    check,
    count,
    domains_by_hand,
    hits,
    in_use,
    listing,
    live,
    remove,
    seen_live,
)

__all__ = [
    "Finding",
    "InUse",
    "Trap",
    "add",
    "check",
    "classify",
    "count",
    "domains_by_hand",
    "hits",
    "import_lines",
    "in_use",
    "listing",
    "live",
    "remove",
    "seen_live",
]
