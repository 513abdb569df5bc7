"""The traps: what can be one, how they are kept, and the import of a published list."""

from gatepost_policy.traps.import_list import import_lines
from gatepost_policy.traps.names import classify
from gatepost_policy.traps.past import Past, past
from gatepost_policy.traps.table import (
    USE_DAYS,
    Finding,
    InUse,
    Trap,
    add,
    check,
    count,
    domains_by_hand,
    hits,
    in_use,
    is_live,
    listing,
    live,
    remove,
    seen_live,
)

__all__ = [
    "USE_DAYS",
    "Finding",
    "InUse",
    "Past",
    "Trap",
    "add",
    "check",
    "classify",
    "count",
    "domains_by_hand",
    "hits",
    "import_lines",
    "in_use",
    "is_live",
    "listing",
    "live",
    "past",
    "remove",
    "seen_live",
]
