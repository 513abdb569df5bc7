"""One prefix or domain that is to be blocked, and the comment that gives its evidence."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from gatepost_policy.listings.dossier import Entry
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

MAX_NOTE = 60


class _Listed:
    """What every format says of a listing: until when, and why."""

    __slots__ = ()
    entry: Entry

    @property
    def until(self) -> str:
        """When the listing ends, in UTC."""
        return timestamp(self.entry.until)

    def evidence(self, *, forbidden: str = "") -> str:
        """Why, in one short line of ASCII without the characters `forbidden`.

        The traps themselves are not named, because such files are passed on to others.
        """
        entry = self.entry
        said = [entry.reason, plural(entry.hits, "hit")]
        if entry.evidence:
            said.append(f"last {timestamp(max(p.at for p in entry.evidence))}")
            known = [p.queue_id for p in entry.evidence if p.queue_id]
            if known:
                said.append(f"message {known[-1]}")
        if entry.note:
            said.append(entry.note[:MAX_NOTE])
        line = shown(", ".join(said)).encode("ascii", "backslashreplace").decode("ascii")
        return "".join("." if c in forbidden else c for c in line)


@dataclass(frozen=True, slots=True)
class Blocked(_Listed):
    """A prefix and the listing behind it."""

    network: IPv4Network | IPv6Network
    entry: Entry

    @property
    def text(self) -> str:
        """The prefix in CIDR notation; of a single host only the address."""
        if self.network.prefixlen == self.network.max_prefixlen:
            return str(self.network.network_address)
        return str(self.network)


@dataclass(frozen=True, slots=True)
class BlockedDomain(_Listed):
    """A domain, which stands for the names below it too, and the listing behind it."""

    name: str
    entry: Entry
