"""For programs that block by domain: a response policy zone, rbldnsd's dnset, rspamd's multimap.

A listed domain covers the names below it. So do the names in a zone and in a dnset; for rspamd
that depends on its settings (`rspamd_lines`).
"""

from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import BlockedDomain
from gatepost_policy.exporters.rbldnsd import MAX_TEXT, TTL_S, stamp
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp


def rpz_lines(domains: Sequence[BlockedDomain], now: float, settings: Settings) -> Iterator[str]:
    """A response policy zone (draft-vixie-dnsop-dns-rpz): a listed name does not exist.

    Names are relative to the zone's name, which the loading name server's settings choose. `now`:
    Unix seconds; the lines have no line ends.
    """
    yield f"; gatepost: {plural(len(domains), 'listed domain')}, {timestamp(now)}"
    yield f"$TTL {TTL_S}"
    # The serial is the time, so it grows if exports are at least a second apart. It has 32 bits
    # (RFC 1035 3.3.13): Unix time fits until 2106.
    yield f"@ IN SOA localhost. root.localhost. {int(now)} 300 60 86400 {TTL_S}"
    yield "@ IN NS localhost."
    for one in domains:
        yield f"; until {one.until}: {one.evidence()}"
        yield f"{one.name} IN CNAME ."
        yield f"*.{one.name} IN CNAME ."


def dnset_lines(domains: Sequence[BlockedDomain], now: float, settings: Settings) -> Iterator[str]:
    """A `dnset` of rbldnsd(8): `.name` is the name and all names below it. `now`: Unix seconds; the
    lines have no line ends."""
    yield f"# gatepost: {plural(len(domains), 'listed domain')}, {timestamp(now)}"
    ends = max((d.entry.until for d in domains), default=now + 86_400)
    yield f"$TIMESTAMP {stamp(now)} {stamp(max(ends, now + TTL_S))}"
    yield f"$TTL {TTL_S}"
    yield ":127.0.0.2:listed by gatepost"
    for one in domains:
        text = f"until {one.until}: {one.evidence(forbidden='$')}"[:MAX_TEXT]
        yield f".{one.name} :127.0.0.2:{text}"


def rspamd_lines(domains: Sequence[BlockedDomain], now: float, settings: Settings) -> Iterator[str]:
    """A map for rspamd's multimap module: one name on each line, `#` starts a comment. `now`: Unix
    seconds; the lines have no line ends.

    `type = "dkim"` (or `type = "from"; filter = "email:domain:tld"`); a map of names matches the
    name alone, so `filter = "top"` or the tld filter is what covers the names below it.
    """
    yield f"# gatepost: {plural(len(domains), 'listed domain')}, {timestamp(now)}"
    for one in domains:
        yield f"# until {one.until}: {one.evidence()}"
        yield one.name
