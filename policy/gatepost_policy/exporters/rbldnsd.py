"""A zone for rbldnsd, both families in one file: `rbldnsd ... ZONE:combined:FILE`.

Each listing is an A record 127.0.0.2 and a TXT record with its end and evidence. `$TIMESTAMP`
makes rbldnsd stop serving the zone when the last listing has ended, if there is no further export.
"""

import time
from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

TTL_S = 300
# RFC 1035 3.3.14: a character-string holds 255 octets.
MAX_TEXT = 200


def lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """The lines of a `combined` data set, as of `now` (Unix seconds).

    A text has no `$`: rbldnsd would replace it by the address that was asked for.
    """
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    ends = max((b.entry.until for b in blocked), default=now + 86_400)
    yield f"$TIMESTAMP {stamp(now)} {stamp(max(ends, now + TTL_S))}"
    yield f"$TTL {TTL_S}"
    for version, kind in ((4, "ip4set"), (6, "ip6trie")):
        yield f"$DATASET {kind}:gatepost{version} @"
        yield ":127.0.0.2:listed by gatepost"
        for one in blocked:
            if one.network.version == version:
                text = f"until {one.until}: {one.evidence(forbidden='$')}"[:MAX_TEXT]
                yield f"{one.text} :127.0.0.2:{text}"


def stamp(at: float) -> str:
    """`at` (Unix seconds) as rbldnsd(8) reads a time: `YYYY:MM:DD:hh:mm:ss`, in UTC."""
    return time.strftime("%Y:%m:%d:%H:%M:%S", time.gmtime(at))
