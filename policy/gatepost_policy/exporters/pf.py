"""A table file for pf (pf.conf(5), "Tables"): `table <gatepost> persist file "/etc/gatepost.pf"`.

The entries of such a file do not expire: after each export replace the whole table
(`pfctl -t gatepost -T replace -f FILE`).
"""

from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp


def lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """One address or network on each line, comments after `#`, as of `now` (Unix seconds)."""
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    for one in blocked:
        yield f"{one.text} # until {one.until}: {one.evidence()}"
