r"""Sets for nftables, loaded as one transaction: `nft -f FILE`.

The file replaces the contents of `inet gatepost listed_v4` and `listed_v6` and changes no rule;
each element has its own time-out, so that a listing ends even if there is no further export. A rule
uses a set like this: `ip saddr @listed_v4 tcp dport 25 reject`.
"""

import math
from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

# nft(8): a comment of a set element holds at most 128 characters.
MAX_COMMENT = 120
BATCH = 500


def lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """The commands of one nft file, as of `now` (Unix seconds), without line ends."""
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    yield "add table inet gatepost"
    for version, kind in ((4, "ipv4_addr"), (6, "ipv6_addr")):
        name = f"inet gatepost listed_v{version}"
        yield f"add set {name} {{ type {kind}; flags interval, timeout; }}"
        yield f"flush set {name}"
        mine = [b for b in blocked if b.network.version == version]
        for start in range(0, len(mine), BATCH):
            yield f"add element {name} {{"
            for one in mine[start : start + BATCH]:
                # At least a second: an element without time-out would stay for ever.
                left = max(1, math.ceil(one.entry.until - now))
                comment = one.evidence(forbidden='"\\')[:MAX_COMMENT]
                yield f'\t{one.text} timeout {left}s comment "{comment}",'
            yield "}"
