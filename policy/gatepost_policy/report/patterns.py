"""Find low-and-slow senders: many hosts with few messages each and one thing in common.

Only trap mail is read, which is indexed. What hosts can have in common: a sender's domain, a HELO
name, a network (IPv4 /24, IPv6 /56 or /48), the owner of their verified host names, or hits that
go through the traps in alphabetical order (several hosts working through one list). Rates do not
matter, only how many hosts share the value.

Limits: the newest ROWS_MAX trap hits of the selected time; a value that differs in every message is
not found.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from ipaddress import ip_network

from sqlalchemy import Connection, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import walks
from gatepost_policy.mail.address import within_any
from gatepost_policy.mail.organisation import is_public_suffix, organisation
from gatepost_policy.mail.walks import Step
from gatepost_policy.report.overview_values import Pattern
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import Message, MessageRecipient
from gatepost_policy.text.times import timestamp

ROWS_MAX = 50_000
PATTERNS_MAX = 20
MIN_HOSTS = 5
MAX_PER_HOST = 4.0  # messages per host; more is an ordinary sender with several hosts


@dataclass(frozen=True, slots=True)
class Hit:
    """One message to one trap. `at`: Unix seconds; `message`: its id; `prefix`: the client's."""

    at: float
    message: int
    prefix: str
    helo: str | None
    domain: str | None
    trap: str
    name: str | None = None  # the client's verified host name


@dataclass(slots=True)
class _Group:
    hosts: set[str] = field(default_factory=set)
    messages: set[int] = field(default_factory=set)
    first: float = 0.0
    last: float = 0.0

    def add(self, hit: Hit) -> None:
        """Count one hit."""
        if not self.messages:
            self.first = self.last = hit.at
        self.first, self.last = min(self.first, hit.at), max(self.last, hit.at)
        self.hosts.add(hit.prefix)
        self.messages.add(hit.message)


def low_and_slow(
    connection: Connection, selection: Selection, settings: Settings
) -> tuple[Pattern, ...]:
    """The patterns in the trap mail of the selected time, those with most hosts first."""
    return find(_hits(connection, selection), settings)


def _hits(connection: Connection, selection: Selection) -> list[Hit]:
    """The newest ROWS_MAX trap hits of the selected time, oldest first."""
    query = (
        select(
            Message.at,
            Message.id,
            Message.prefix,
            Message.client_name,
            Message.helo,
            Message.sender_key,
            Message.from_key,
            MessageRecipient.trap_key,
        )
        .join(MessageRecipient, MessageRecipient.message_id == Message.id)
        .where(
            Message.traps > 0,
            MessageRecipient.trap,
            Message.prefix.is_not(None),
            Message.direction == "inbound",
        )
        .order_by(Message.at.desc())
        .limit(ROWS_MAX)
    )
    if selection.since is not None:
        query = query.where(Message.at >= selection.since)
    if selection.until is not None:
        query = query.where(Message.at < selection.until)
    if selection.family is not None:
        query = query.where(Message.family == selection.family)
    found = [
        Hit(
            at=at,
            message=number,
            prefix=prefix or "",
            helo=helo.lower() if helo else None,
            domain=(sender or author or "").rpartition("@")[2] or None,
            trap=trap,
            name=name.rstrip(".").lower() if name else None,
        )
        for at, number, prefix, name, helo, sender, author, trap in connection.execute(query)
    ]
    found.reverse()
    return found


def find(hits: Sequence[Hit], settings: Settings) -> tuple[Pattern, ...]:
    """The patterns among `hits`, which come oldest first. Pure."""
    crowd = within_any(settings.sender.never_list)

    def domain(hit: Hit) -> str | None:
        # A freemail service's users write from many hosts: no pattern.
        if hit.domain is None or of_crowd(hit.domain):
            return None
        return hit.domain

    # Thousands of hits have a few hundred names, and each is looked up in long lists.
    @cache
    def of_crowd(name: str) -> bool:
        return crowd(name)

    @cache
    def owner_of(name: str) -> str | None:
        top = organisation(name)
        return None if of_crowd(name) or is_public_suffix(top) else top

    def owner(hit: Hit) -> str | None:
        return None if hit.name is None else owner_of(hit.name)

    def network(bits_v4: int, bits_v6: int) -> Callable[[Hit], str | None]:
        def of(hit: Hit) -> str | None:
            if hit.name is not None and of_crowd(hit.name):
                return None
            return _network(hit.prefix, bits_v4, bits_v6)

        return of

    narrow = list(_joined("network", hits, network(24, 56)))
    seen = {(p.hosts, p.messages, p.first_seen, p.last_seen) for p in narrow}
    patterns = [
        *_joined("domain", hits, domain),
        *_joined("helo", hits, lambda hit: hit.helo),
        *_joined("host-name", hits, owner),
        *narrow,
        # A /48 whose hits all lie in one /56 of it is not repeated.
        *(
            p
            for p in _joined("network", hits, network(0, 48))
            if (p.hosts, p.messages, p.first_seen, p.last_seen) not in seen
        ),
        *_walks(hits),
    ]
    patterns.sort(key=lambda p: (p.hosts, p.messages, p.last_seen), reverse=True)
    return tuple(patterns[:PATTERNS_MAX])


@lru_cache(maxsize=8_192)
def _network(prefix: str, bits_v4: int, bits_v6: int) -> str | None:
    """The network of so many bits around a client's prefix; None where bits are 0 or not wider."""
    if not prefix:
        return None
    if prefix.endswith("/32"):  # IPv4, the usual case: an ip_network for each would cost seconds
        return f"{prefix.rpartition('.')[0]}.0/24" if bits_v4 == 24 else None
    own = ip_network(prefix)
    bits = bits_v4 if own.version == 4 else bits_v6
    return str(own.supernet(new_prefix=bits)) if 0 < bits < own.prefixlen else None


def _joined(kind: str, hits: Iterable[Hit], key: Callable[[Hit], str | None]) -> Iterable[Pattern]:
    """Groups of many hosts with few messages each that share `key`."""
    groups: dict[str, _Group] = {}
    for hit in hits:
        value = key(hit)
        if value:
            groups.setdefault(value, _Group()).add(hit)
    words = {
        "domain": "write as",
        "helo": "say HELO",
        "network": "are in",
        "host-name": "have names below",
    }
    for value, group in groups.items():
        hosts, messages = len(group.hosts), len(group.messages)
        if hosts >= MIN_HOSTS and messages <= MAX_PER_HOST * hosts:
            yield Pattern(
                kind=kind,
                value=value,
                hosts=hosts,
                messages=messages,
                first_seen=group.first,
                last_seen=group.last,
                sentence=f"{hosts} hosts {words[kind]} {value}, {messages} messages to traps "
                f"from {_day(group.first)} to {_day(group.last)}",
            )


def _walks(hits: Sequence[Hit]) -> Iterable[Pattern]:
    """Runs of hits whose traps come in alphabetical order, from several hosts."""
    steps = (Step(hit.at, hit.prefix, hit.trap, hit.message) for hit in hits)
    for run in walks.walks(steps):
        hosts = len({step.host for step in run})
        first, last = run[0], run[-1]
        yield Pattern(
            kind="trap-sequence",
            value=f"{first.name} .. {last.name}",
            hosts=hosts,
            messages=len({step.message for step in run}),
            first_seen=first.at,
            last_seen=last.at,
            sentence=f"{hosts} hosts worked through {len(run)} traps in alphabetical order, "
            f"{first.name} to {last.name}, from {_day(first.at)} to {_day(last.at)}",
        )


def _day(at: float) -> str:
    return timestamp(at)[:10]
