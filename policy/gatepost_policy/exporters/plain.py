"""One prefix on each line, as published lists have it; the first line says when it was made."""

from collections.abc import Iterator, Sequence

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp


def lines(blocked: Sequence[Blocked], now: float, settings: Settings) -> Iterator[str]:
    """The prefixes, each with its end and evidence after `#`, as of `now` (Unix seconds)."""
    yield f"# gatepost: {plural(len(blocked), 'listing')}, {timestamp(now)}"
    for one in blocked:
        yield f"{one.text}\t# until {one.until}: {one.evidence()}"
