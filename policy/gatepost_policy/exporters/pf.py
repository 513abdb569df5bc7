"""A table file for pf (pf.conf(5), "Tables"): `table <gatepost> persist file "/etc/gatepost.pf"`.

pf has no expiry for entries of a file: load it again after each export, as a whole
(`pfctl -t gatepost -T replace -f FILE`).
"""

from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp


def lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """An address or network a line, comments after `#`."""
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    for one in blocked:
        yield f"{one.text} # until {one.until}: {one.evidence()}"
