"""Limit how much of DNS each sender uses, so that dead domains of one do not fail the others'
checks.

A look-up that is not answered holds its place for `dkim.lookup_timeout_ms`. A sender of signatures
with dead domains would soon hold every place, so the places are divided:

* one client (IPv4 /32, IPv6 /64) and one registered domain get a tenth of them each;
* a message's own need comes first: one signature of its author's domain may take any place, its SPF
  and DMARC two fifths of them together with those of others;
* all else has a fifth: signatures that are not the author's, the author's second one, and all that
  a client asks for whose look-ups have failed lately. An attacker can use any number of dead
  domains, and perhaps many clients, but each client soon has more than FAILURES.

Pure except for its own counts; `Lookups` calls `take` and `give_back` under its lock. `now` is
monotonic time in seconds.
"""

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from gatepost_policy.mail.address import is_within
from gatepost_policy.mail.facts import client_prefix
from gatepost_policy.mail.organisation import organisation

FAILURES = 3  # how many more failures than answers put a client into REST
FAILURES_SECONDS = 60.0  # after the last failure a client is forgotten
MAX_KNOWN = 10_000  # clients whose failures are remembered
AUTHOR, POLICY, REST = "author", "policy", "rest"


class Asker:
    """One message that asks DNS: its client, and the domain of its From.

    `address` is None where the client is not the sender (a relay of our own): then only the domain
    counts. `author` gives the domain of From, '' where there is none; it is called only when it is
    needed.
    """

    __slots__ = ("_author", "_had_its_own", "address")

    def __init__(
        self, address: IPv4Address | IPv6Address | None, author: Callable[[], str]
    ) -> None:
        self.address = address
        self._author = author
        self._had_its_own = False

    def share(self, signer: str | None) -> str:
        """AUTHOR, POLICY or REST: whose part of the places the look-up uses. `signer` is the d=
        whose key is looked up, None for SPF and DMARC. The first signature of the author's domain
        is AUTHOR.
        """
        if signer is None:
            return POLICY
        author = "" if self._had_its_own else self._author()
        if author and (is_within(author, signer) or is_within(signer, author)):
            self._had_its_own = True
            return AUTHOR
        return REST


@dataclass(frozen=True, slots=True)
class Place:
    """Where one look-up is counted: its client's prefix, its registered domain, its share."""

    client: str | None
    domain: str
    share: str


def place_of(asker: Asker, name: str, signer: str | None) -> Place:
    """The place that the look-up of `name` wants (`signer` as in `Asker.share`)."""
    client = None if asker.address is None else client_prefix(asker.address)
    # All three are keys of one dict: the dot keeps a domain apart from a client and a share.
    return Place(client, "." + organisation(name), asker.share(signer))


class Fairness:
    """The places of one process. `total` is `dkim.max_lookups`."""

    def __init__(self, total: int) -> None:
        self.each = max(2, total // 10)
        self.most = {AUTHOR: total, POLICY: max(1, total * 2 // 5), REST: max(1, total // 5)}
        self._taken: dict[str, int] = {}
        self._failed: dict[str, tuple[int, float]] = {}  # client: how often, when last

    def take(self, wanted: Place, now: float) -> Place | None:
        """The place that was taken, or None where there is none free: then it is not looked up."""
        client, domain, share = wanted.client, wanted.domain, wanted.share
        if client is not None and share != REST and self._suspect(client, now):
            share = REST
        taken = self._taken
        if taken.get(share, 0) >= self.most[share] or taken.get(domain, 0) >= self.each:
            return None
        if client is not None and taken.get(client, 0) >= self.each:
            return None
        for key in (client, domain, share):
            if key is not None:
                taken[key] = taken.get(key, 0) + 1
        return Place(client, domain, share)

    def give_back(self, place: Place, failed: bool, now: float) -> None:
        """The look-up is over; `failed`: it was not answered in time."""
        taken = self._taken
        for key in (place.client, place.domain, place.share):
            if key is not None:
                left = taken.get(key, 1) - 1
                if left:
                    taken[key] = left
                else:
                    taken.pop(key, None)
        client = place.client
        if client is None or not (failed or client in self._failed):
            return
        count, last = self._failed.pop(client, (0, now))
        count = count if now - last <= FAILURES_SECONDS else 0
        if not failed:
            if count > 1:
                self._failed[client] = count - 1, last
            return
        while len(self._failed) >= MAX_KNOWN:
            self._failed.pop(next(iter(self._failed)))
        self._failed[client] = min(count + 1, 2 * FAILURES), now

    def _suspect(self, client: str, now: float) -> bool:
        count, last = self._failed.get(client, (0, 0.0))
        return count >= FAILURES and now - last <= FAILURES_SECONDS
