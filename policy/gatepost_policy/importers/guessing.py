"""Who guesses addresses and logins: gathered in memory, and recorded only when it is certain.

Refused recipients are recorded as they come. Failed logins are not: a user who mistypes must not be
recorded, neither by name nor by address.

* A name that may be a password is dropped at once (`name_shape`).
* A host with a successful login belongs to a user, and so does the name: neither is recorded. Only
  keyed hashes of them are kept, in memory: for an import, or for a day (`DAY_S`).
* A host is recorded once it tried two names that do not exist, or where it took part in a walk:
  many hosts try one name each, in an alphabetical order that cannot be chance.
* A name that exists, or differs in one character from one that exists, does not count for this.

In a log that is followed live, an attempt waits for an hour (`WAIT_S`), because a user mostly types
the right password soon after, and is kept in memory for a week. What waits at the end of the
process is forgotten.

Limits: at most MAX_NAMES names wait; later ones are only counted (`left_out`).
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers.login_lines import Login
from gatepost_policy.importers.name_shape import may_be_kept
from gatepost_policy.journal.record import VERSION, Json
from gatepost_policy.mail import address, client_address, walks
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import client_prefix
from gatepost_policy.rules.whose_mail import INBOUND, whose_mail

Ip = IPv4Address | IPv6Address

WAIT_S = 3_600.0
DAY_S = 86_400.0
HOLD_S = 7 * DAY_S
MAX_NAMES = 300_000
MAX_HOSTS = 16  # most hosts that are kept for one address
MAX_CLIENTS = 16_384  # most clients in a cache
SAME_S = 10.0  # lines of two programs within this time are about the same attempt
NAMES = 2  # names that do not exist, tried before a host is recorded

# Returns those of the given names that exist, or nearly (one edit away).
Exist = Callable[[Iterable[str]], set[str]]


@dataclass(slots=True)
class _Refused:
    first: float
    last: float
    hits: int
    hosts: dict[str, list[float]]


@dataclass(slots=True)
class _Tried:
    """One name that one host tried. `untold`: attempts that are not recorded yet; `teller`: the
    program whose line it was."""

    first: float
    last: float
    untold: int
    teller: str


@dataclass(slots=True)
class _Host:
    names: dict[str, _Tried] = field(default_factory=dict)
    told: bool = False


class Guessing:
    """The guesses in one followed log, or in one import."""

    def __init__(self, ours: Submission | None = None) -> None:
        self.left_out = 0
        self._ours = ours or Submission()
        self._clients: dict[Ip, tuple[str, bool]] = {}
        self._texts: dict[str, tuple[str, bool]] = {}  # the same, as a log writes them
        self._refused: dict[tuple[str, str], _Refused] = {}
        self._hosts: dict[str, _Host] = {}
        self._waiting = 0
        # A new key in every process, so that the hashes are useless outside of it.
        self._key = secrets.token_bytes(16)
        self._good: dict[bytes, float] = {}
        self._void: list[Json] = []

    @property
    def many_refused(self) -> int:
        """How many refused addresses wait for `take_refused`."""
        return len(self._refused)

    def refused(self, at: float, to: Address, client: Ip, *, bounce: bool) -> None:
        """An unknown recipient was refused at RCPT TO. `at`: Unix seconds; `bounce`: the sender was
        null."""
        prefix, stranger = self._who(client)
        if not stranger or not may_be_kept(to.raw):
            return
        key = (to.trap_key, "backscatter" if bounce else "rcpt")
        row = self._refused.get(key)
        if row is None:
            self._refused[key] = _Refused(at, at, 1, {prefix: [at, at]})
            return
        row.hits += 1
        row.first, row.last = min(row.first, at), max(row.last, at)
        _span(row.hosts, prefix, at)

    def login(self, at: float, told: Login) -> None:
        """A line about a login. `at` in Unix seconds."""
        known = self._texts.get(told.ip)
        if known is None:
            ip = client_address.parse(told.ip)
            if ip is None:
                return
            if len(self._texts) >= MAX_CLIENTS:
                self._texts.clear()
            known = self._texts[told.ip] = self._who(ip)
        prefix, stranger = known
        if told.success:
            self.succeeded(at, told.name, prefix)
        elif stranger and may_be_kept(told.name):
            self._failed(at, address.parse(told.name).trap_key, prefix, told.teller)

    def succeeded(self, at: float, name: str, prefix: str) -> None:
        """A successful login as `name` ("" where not known) from `prefix`. `at`: Unix seconds."""
        self._good[self._hash(prefix)] = at
        key = address.parse(name).trap_key if name else ""
        if key:
            self._good[self._hash(key)] = at
        host = self._hosts.pop(prefix, None)
        if host is None:
            return
        self._waiting -= len(host.names)
        if host.told:
            self._void.append({"v": VERSION, "kind": "no-guess", "at": at, "prefix": prefix})
            if key in host.names:
                self._void[-1]["address"] = key

    def is_user(self, client: Ip | None) -> bool:
        """True where this client has logged in with success, as far as is remembered."""
        return (
            bool(self._good)
            and client is not None
            and self._hash(client_prefix(client)) in self._good
        )

    def take_refused(self) -> Iterator[Json]:
        """Journal records of the refused addresses since the last call."""
        refused, self._refused = self._refused, {}
        for (name, kind), row in refused.items():
            hosts = [[prefix, first, last] for prefix, (first, last) in row.hosts.items()]
            yield {
                "v": VERSION, "kind": "guess", "what": kind, "at": row.last, "first": row.first,
                "address": name, "hits": row.hits, "hosts": hosts,
            }  # fmt: skip

    def take_logins(self, exist: Exist, now: float | None = None) -> Iterator[Json]:
        """Journal records of failed logins that are certain by now. `now`: Unix seconds; None: the
        log is read to its end, so nothing waits any more."""
        yield from self._void
        self._void = []
        if now is not None:
            self._forget(now)
        if not self._hosts:
            return
        until = None if now is None else now - WAIT_S
        there = self._existing(exist)
        told = self._told(there, until)
        for prefix in told:
            yield from self._tell(prefix, there, until)

    def waits(self) -> bool:
        """True where `take_logins` might give records."""
        return bool(self._void) or any(
            tried.untold for host in self._hosts.values() for tried in host.names.values()
        )

    def _who(self, client: Ip) -> tuple[str, bool]:
        """(prefix, stranger). `stranger`: False for our own webmail, relay or filter, which only
        forward what others have typed."""
        known = self._clients.get(client)
        if known is None:
            if len(self._clients) >= MAX_CLIENTS:
                self._clients.clear()
            stranger = whose_mail(self._ours, address=client) is INBOUND
            known = self._clients[client] = client_prefix(client), stranger
        return known

    def _failed(self, at: float, name: str, prefix: str, teller: str) -> None:
        if self._good and self._hash(prefix) in self._good:
            return
        host = self._hosts.get(prefix)
        tried = host.names.get(name) if host is not None else None
        if tried is not None:
            if tried.teller != teller and at - tried.last < SAME_S:
                return
            tried.untold += 1
            tried.first, tried.last = min(tried.first, at), max(tried.last, at)
            return
        if self._waiting >= MAX_NAMES:
            self.left_out += 1
            return
        self._waiting += 1
        if host is None:
            host = self._hosts[prefix] = _Host()
        host.names[name] = _Tried(at, at, 1, teller)

    def _forget(self, now: float) -> None:
        """Forget successes after a day, failures after a week. `now`: Unix seconds."""
        self._good = {key: at for key, at in self._good.items() if now - at < DAY_S}
        for prefix, host in list(self._hosts.items()):
            if now - max(tried.last for tried in host.names.values()) >= HOLD_S:
                self._waiting -= len(host.names)
                del self._hosts[prefix]

    def _existing(self, exist: Exist) -> set[str]:
        names = {name for host in self._hosts.values() for name in host.names}
        known = {name for name in names if self._hash(name) in self._good}
        return known | exist(names - known)

    def _told(self, there: set[str], until: float | None) -> list[str]:
        """The prefixes of hosts that certainly do not belong to a user, sorted."""
        sure: set[str] = set()
        steps: list[walks.Step] = []
        single: list[walks.Step] = []
        for prefix, host in self._hosts.items():
            fresh = [
                walks.Step(tried.first, prefix, name)
                for name, tried in host.names.items()
                if name not in there and (until is None or tried.first <= until)
            ]
            if host.told or len(fresh) >= NAMES:
                sure.add(prefix)
            elif fresh:
                single += fresh
            steps += fresh
        for some in (steps, single):
            some.sort(key=lambda step: step.at)
            for run in walks.walks(some):
                sure.update(step.host for step in run)
        for prefix in sure:
            self._hosts[prefix].told = True
        return sorted(sure)

    def _tell(self, prefix: str, there: set[str], until: float | None) -> Iterator[Json]:
        host = self._hosts[prefix]
        first = last = None
        attempts = 0
        for name, tried in host.names.items():
            if not tried.untold or (until is not None and tried.last > until):
                continue
            attempts += tried.untold
            first = tried.first if first is None else min(first, tried.first)
            last = tried.last if last is None else max(last, tried.last)
            hits, tried.untold = tried.untold, 0
            if name not in there:
                yield {
                    "v": VERSION, "kind": "guess", "what": "login", "at": tried.last,
                    "first": tried.first, "address": name, "hits": hits,
                    "hosts": [[prefix, tried.first, tried.last]],
                }  # fmt: skip
        if first is not None:
            yield {
                "v": VERSION, "kind": "groper", "at": last, "first": first, "prefix": prefix,
                "attempts": attempts, "names": len(host.names),
            }  # fmt: skip

    def _hash(self, text: str) -> bytes:
        return blake2b(
            text.encode("utf-8", "surrogateescape"), digest_size=12, key=self._key
        ).digest()


def _span(hosts: dict[str, list[float]], prefix: str, at: float) -> None:
    span = hosts.get(prefix)
    if span is not None:
        span[0], span[1] = min(span[0], at), max(span[1], at)
    elif len(hosts) < MAX_HOSTS:
        hosts[prefix] = [at, at]
