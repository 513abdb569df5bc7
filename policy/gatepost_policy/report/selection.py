"""Which messages a report is about: the selectors of `milterctl report`, parsed.

Pure. Selectors are compared, never used as patterns: `%`, `_` and `*` are no wildcards.
"""

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from gatepost_policy.mail.address import Address, canonical_domain, parse, reversed_domain
from gatepost_policy.mail.client_address import unmapped_network
from gatepost_policy.mail.facts import Family
from gatepost_policy.mail.index_key import clean
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp


@dataclass(frozen=True, slots=True)
class Selection:
    """The messages a report counts. Selectors are joined by "and"; None does not narrow.

    `since` is included, `until` is not (Unix seconds). `limit` cuts the listing of messages,
    newest first, and never what is counted.
    """

    sender: str | None = None  # an address, a domain (with its subdomains), or `<>`
    host: IPv4Network | IPv6Network | None = None
    trap: Address | None = None
    since: float | None = None
    until: float | None = None
    family: Family | None = None
    limit: int = 100
    name: str | None = None  # a client's verified host name, with those below it
    queue_id: str | None = None
    message_id: str | None = None
    # Filters by result and decision; `report.filters` parses these.
    dkim: str | None = None  # the result of one signature; `none`: seen whole, and unsigned
    spf: str | None = None  # of MAIL FROM
    dmarc: str | None = None
    decision: str | None = None  # an action
    reason: str | None = None
    source: str | None = None
    trapped: bool | None = None  # True: only messages to a trap
    # The ids of the selected messages, newest first, looked up once; see `holding`.
    only: tuple[int, ...] | None = None

    @property
    def everything(self) -> bool:
        """True for the overview: no selector but the time and the family."""
        return self.sender is None and not self.by_rows

    @property
    def by_rows(self) -> bool:
        """True where neither the sums nor the index of senders can answer, whatever the time."""
        return any(getattr(self, name) is not None for name in _ROWS_ALONE)

    @property
    def narrowed(self) -> bool:
        """True where the sums by day and family cannot answer, so that rows are read."""
        return self.by_rows or self.since is not None or self.until is not None

    @property
    def domain(self) -> str | None:
        """The canonical domain asked for, None where `sender` is an address or not given.

        Without an `@` it is a domain, in brackets a local user (`<postmaster>`).
        """
        if self.sender is None or (self.sender.startswith("<") and "@" not in self.sender):
            return None
        local, _, domain = self.sender.strip("<>").rpartition("@")
        return None if local else canonical_domain(domain) or None

    @property
    def address(self) -> Address | None:
        """The address asked for (the null sender included), None where it is a domain."""
        return None if self.sender is None or self.domain is not None else parse(self.sender)

    def query(self) -> dict[str, Any]:
        """The selectors as in the report's `query`; those not given are left out."""
        given = {
            "sender": self.sender,
            "host": None if self.host is None else _host_text(self.host),
            "trap": None if self.trap is None else self.trap.raw,
            "since": None if self.since is None else timestamp(self.since),
            "until": None if self.until is None else timestamp(self.until),
            "family": self.family,
            **{name: getattr(self, name) for name in _TEXTS},
        }
        return {key: value for key, value in given.items() if value is not None}


_TEXTS = (
    "name", "queue_id", "message_id", "dkim", "spf", "dmarc", "decision", "reason", "source",
)  # fmt: skip
_ROWS_ALONE = ("host", "trap", "trapped", "only", *_TEXTS)


def _host_text(network: IPv4Network | IPv6Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)


def sender(text: str) -> str:
    """A `--sender` value, cleaned. Raises ValueError where it is no address, domain or `<>`."""
    text = clean(text).strip()
    if text.strip("<>@. ") or text == "<>":
        return text
    raise ValueError('want an address, a domain, or "<>" for the null sender')


def host(text: str) -> IPv4Network | IPv6Network:
    """An IP address or a prefix; an IPv4-mapped address is IPv4. Raises ValueError."""
    try:
        return unmapped_network(ip_network(text.strip().strip("[]"), strict=False))
    except ValueError:
        raise ValueError(f"want an IP address or a prefix, got {text!r}") from None


def key_range(domain: str) -> tuple[str, str]:
    """(first, end) of the index keys of `domain` and all domains below it; `end` is not included.

    Keys are reversed domains with a trailing dot; `/` follows the dot in ASCII.
    """
    start = reversed_domain(domain)
    return start, start[:-1] + "/"
