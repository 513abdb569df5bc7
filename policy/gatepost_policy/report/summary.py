"""Counts over all selected messages. Pure."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any

from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Host:
    """One client that delivered messages. Retention shortens `address` to its prefix."""

    host: str | None
    address: str | None
    family: str
    messages: int

    def json(self) -> Json:
        """As in `summary.hosts`."""
        return {
            "host": self.host,
            "address": self.address,
            "family": self.family,
            "messages": self.messages,
        }


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts over all selected messages. `dkim` counts signatures by result, and unsigned messages
    as `none`. Times are Unix seconds.

    For one sender `dkim_own` counts its own signatures, `dkim_others` those of others on the same
    messages (a list's, a mail service's). None: whose they are was not evaluated.
    """

    messages: int = 0
    first_seen: float | None = None
    last_seen: float | None = None
    families: Mapping[str, int] = field(default_factory=dict)
    dkim: Mapping[str, int] = field(default_factory=dict)
    dkim_own: Mapping[str, int] | None = None
    dkim_others: Mapping[str, int] | None = None
    spf: Mapping[str, int] = field(default_factory=dict)  # of MAIL FROM; those evaluated
    dmarc: Mapping[str, int] = field(default_factory=dict)  # those evaluated
    trap_hits: int = 0  # message x trap recipient
    median_gap_days: float | None = None
    hosts: tuple[Host, ...] = ()  # most messages first

    def json(self) -> Json:
        """As in the report's `summary`."""
        return {
            "messages": self.messages,
            "first_seen": None if self.first_seen is None else timestamp(self.first_seen),
            "last_seen": None if self.last_seen is None else timestamp(self.last_seen),
            "families": dict(self.families),
            "dkim": dict(self.dkim),
            "dkim_own": None if self.dkim_own is None else dict(self.dkim_own),
            "dkim_others": None if self.dkim_others is None else dict(self.dkim_others),
            "spf": dict(self.spf),
            "dmarc": dict(self.dmarc),
            "trap_hits": self.trap_hits,
            "median_gap_days": self.median_gap_days,
            "hosts": [host.json() for host in self.hosts],
        }


@dataclass(frozen=True, slots=True)
class Held:
    """Only the newest `messages` of the selection were counted, from `since` (Unix seconds) on,
    and of the older ones `hits` to a trap.

    `of`: how many there are in all; None where counting them would mean reading them. `all_hits`:
    there are no more older ones to a trap."""

    messages: int
    of: int | None
    since: float
    hits: int = 0
    all_hits: bool = True

    def json(self) -> dict[str, Any]:
        """As in the report's `held`."""
        return {
            "messages": self.messages,
            "of": self.of,
            "since": timestamp(self.since),
            "hits": self.hits,
            "all_hits": self.all_hits,
        }
