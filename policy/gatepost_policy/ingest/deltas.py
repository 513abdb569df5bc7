"""What a message's row adds to every sum.

Pure. `Sums.add` with sign 1 gives what a new message adds, with sign -1 what its removal subtracts:
ingest, purge, erase and the merging of two sources' rows all use it, so that the sums always agree
with the rows.

A sum has one field for each column that it is added to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from gatepost_policy.ingest.rows import MessageRow, Row, SignatureRow
from gatepost_policy.mail.index_key import MAX_KEY, fit, reverse
from gatepost_policy.mail.results import DMARC_RESULTS as DMARC_RESULTS
from gatepost_policy.mail.results import RESULTS as RESULTS
from gatepost_policy.mail.results import SPF_RESULTS as SPF_RESULTS

DAY = 86_400  # seconds
# A result that is none of RFC 8601's counts as none.
_RESULT_FIELD = {result: f"dkim_{result}" for result in RESULTS}
_SPF_FIELD = {result: f"spf_{result}" for result in SPF_RESULTS}
_DMARC_FIELD = {result: f"dmarc_{result}" for result in DMARC_RESULTS}


# The primary keys of the tables of sums, in their columns' order. Plain tuples, because a dozen of
# them are looked up for every message; a reader of one part unpacks it into names.
DayKey = tuple[str, int, str, int]  # reversed, day (since 1970-01-01 UTC), family, shared
HostKey = tuple[str, str, int]  # reversed, host, shared
IdentityKey = tuple[str, str]  # kind, value
DkimKeyKey = tuple[str, str]  # reversed, selector


@dataclass(slots=True)
class DaySum:
    """What one `domain_day` row gains in one batch. Times are Unix seconds."""

    first_at: float
    last_at: float
    messages: int = 0
    trap_messages: int = 0
    trap_hits: int = 0
    dkim_pass: int = 0
    dkim_fail: int = 0
    dkim_policy: int = 0
    dkim_neutral: int = 0
    dkim_temperror: int = 0
    dkim_permerror: int = 0
    dkim_none: int = 0
    spf_none: int = 0
    spf_neutral: int = 0
    spf_pass: int = 0
    spf_fail: int = 0
    spf_softfail: int = 0
    spf_temperror: int = 0
    spf_permerror: int = 0
    dmarc_none: int = 0
    dmarc_pass: int = 0
    dmarc_fail: int = 0
    dmarc_temperror: int = 0
    dmarc_permerror: int = 0


@dataclass(slots=True)
class HostSum:
    """What one `domain_host` row gains in one batch."""

    family: str
    name: str | None
    last_at: float
    messages: int = 0


@dataclass(slots=True)
class IdentitySum:
    """What one `identity` row gains in one batch; `seen` are the days of its messages (since
    1970-01-01 UTC).

    `days`, and `learned` where it is 0, are set when it is written. Times are Unix seconds.
    """

    kind: str
    value: str
    reversed: str | None
    first_seen: float
    last_seen: float
    seen: set[int]
    messages: int = 0
    trap_messages: int = 0
    ipv4: int = 0
    ipv6: int = 0
    learned: float = 0.0
    days: int = 1
    repeat: bool = False
    note: None = None


@dataclass(slots=True)
class KeySum:
    """What one `dkim_key` row gains in one batch; `learned` is set when it is written."""

    reversed: str
    selector: str
    domain: str
    algorithm: str | None
    key_bits: int | None
    first_seen: float
    last_seen: float
    messages: int = 1
    learned: float = 0.0
    previous_bits: None = None
    changed: None = None


# The fields that are added when two sums of one key are merged; times are not.
_DAY_COUNTS = tuple(f.name for f in fields(DaySum) if f.name not in ("first_at", "last_at"))
_IDENTITY_COUNTS = ("messages", "trap_messages", "ipv4", "ipv6")


@dataclass(slots=True)
class Sums:
    """What a batch adds to (or takes from) every table of sums, folded by key."""

    identities: dict[IdentityKey, IdentitySum] = field(default_factory=dict)
    days: dict[DayKey, DaySum] = field(default_factory=dict)
    hosts: dict[HostKey, HostSum] = field(default_factory=dict)
    keys: dict[DkimKeyKey, KeySum] = field(default_factory=dict)

    def add(
        self,
        row: Row,
        names: Sequence[tuple[str, int]],
        sign: int = 1,
        *,
        identities: bool = True,
    ) -> None:
        """Count one message (with sign -1: subtract it). `names` are its domains as `Row.keys` has
        them: (reversed, shared).
        """
        message = row.message
        day = int(message.at // DAY)
        results = [_RESULT_FIELD.get(s.result, "dkim_none") for s in row.signatures]
        # At RCPT TO it is not known whether there are signatures.
        if not results and message.stage == "end":
            results = ["dkim_none"]
        if message.spf is not None:
            results.append(_SPF_FIELD.get(message.spf, "spf_none"))
        if message.dmarc is not None:
            results.append(_DMARC_FIELD.get(message.dmarc, "dmarc_none"))
        host = message.address if message.address is not None else message.prefix
        for reversed_name, shared in names:
            self._day(row, (reversed_name, day, message.family, shared), results, sign)
            if host is not None:
                self._host(
                    (reversed_name, host, shared),
                    message.family,
                    message.client_name,
                    message.at,
                    sign,
                )
        if identities and message.direction == "inbound":
            self._identities(row, day, sign)

    @property
    def since(self) -> float | None:
        """When the first of these identities was seen (Unix seconds); None where there is none."""
        return min((one.first_seen for one in self.identities.values()), default=None)

    def merge(self, later: "Sums") -> None:
        """Add the sums of a later batch, as if they were written after these."""
        for key, day in later.days.items():
            known = self.days.setdefault(key, day)
            if known is not day:
                known.first_at = min(known.first_at, day.first_at)
                known.last_at = max(known.last_at, day.last_at)
                for name in _DAY_COUNTS:
                    setattr(known, name, getattr(known, name) + getattr(day, name))
        for host_key, host in later.hosts.items():
            named = self.hosts.setdefault(host_key, host)
            if named is not host:
                named.messages += host.messages
                if host.name is not None and host.last_at >= named.last_at:
                    named.name = host.name
                named.last_at = max(named.last_at, host.last_at)
        for who, one in later.identities.items():
            seen = self.identities.setdefault(who, one)
            if seen is not one:
                seen.first_seen = min(seen.first_seen, one.first_seen)
                seen.last_seen = max(seen.last_seen, one.last_seen)
                seen.seen |= one.seen
                seen.learned = max(seen.learned, one.learned)
                for name in _IDENTITY_COUNTS:
                    setattr(seen, name, getattr(seen, name) + getattr(one, name))
        for key_key, key_sum in later.keys.items():
            used = self.keys.setdefault(key_key, key_sum)
            if used is not key_sum:
                used.first_seen = min(used.first_seen, key_sum.first_seen)
                used.messages += key_sum.messages
                used.last_seen = max(used.last_seen, key_sum.last_seen)
                used.learned = max(used.learned, key_sum.learned)
                # The later batch was learned later, so its values count.
                used.algorithm = key_sum.algorithm or used.algorithm
                if key_sum.key_bits is not None:
                    used.key_bits = key_sum.key_bits

    def move_host(self, row: Row, old: str, new: str) -> None:
        """Count `row` for the host `new` instead of `old`: retention has made its address
        coarser.
        """
        family, at = row.message.family, row.at
        for reversed_name, shared in row.keys()[1]:
            self._host((reversed_name, old, shared), family, None, at, -1)
            self._host((reversed_name, new, shared), family, None, at, 1)

    def _day(self, row: Row, key: DayKey, results: Sequence[str], sign: int) -> None:
        at, traps = row.message.at, row.message.traps
        found = self.days.get(key)
        if found is None:
            found = self.days[key] = DaySum(first_at=at, last_at=at)
        elif at < found.first_at:
            found.first_at = at
        elif at > found.last_at:
            found.last_at = at
        found.messages += sign
        if traps:
            found.trap_messages += sign
            found.trap_hits += sign * traps
        for result in results:
            setattr(found, result, getattr(found, result) + sign)

    def _host(self, key: HostKey, family: str, name: str | None, at: float, sign: int) -> None:
        found = self.hosts.get(key)
        if found is None:
            self.hosts[key] = HostSum(family, name, at, sign)
            return
        found.messages += sign
        if name is not None and at >= found.last_at:
            found.name, found.last_at = name, at

    def _identities(self, row: Row, day: int, sign: int) -> None:
        """The same identities as `facts.Facts.identities` (a test holds them together)."""
        message = row.message
        if message.prefix is not None:
            self._identity(message, ("prefix", message.prefix), None, day, sign)
        signers: set[str] = set()
        for signature in row.signatures:
            domain = signature.domain
            if not domain:
                continue
            if signature.proven and domain not in signers:
                signers.add(domain)
                self._identity(message, ("dkim", domain), reverse(domain), day, sign)
            # A signature may claim any selector: a key is recorded only after it verified one.
            if signature.selector and signature.crypto == "pass" and sign > 0:
                self._key(domain, signature.selector, signature, row.at)
        sender, author = row.sender, row.author
        # Not for bounces, as in `facts.Facts.spf_domain`.
        domain = message.spf_domain
        if domain and message.spf == "pass" and sender is not None:
            self._identity(message, ("spf", domain), reverse(domain), day, sign)
        if sender is not None and (sender.local or sender.domain):
            back = reverse(sender.domain) if sender.domain else None
            self._identity(message, ("sender", sender.key), back, day, sign)
            if back:
                self._identity(message, ("sender-domain", sender.domain), back, day, sign)
        if author is not None and author.domain:
            back = reverse(author.domain)
            self._identity(message, ("from-domain", author.domain), back, day, sign)

    def _identity(
        self, message: MessageRow, key: IdentityKey, back: str | None, day: int, sign: int
    ) -> None:
        kind, value = key
        if len(value) > MAX_KEY:
            value = fit(value)
            key = (kind, value)
        at = message.at
        found = self.identities.get(key)
        if found is None:
            back = back if back is None or len(back) <= MAX_KEY else fit(back)
            found = self.identities[key] = IdentitySum(kind, value, back, at, at, {day})
        else:
            if at < found.first_seen:
                found.first_seen = at
            elif at > found.last_seen:
                found.last_seen = at
            found.seen.add(day)
        found.messages += sign
        if message.traps:
            found.trap_messages += sign
        if message.family == "ipv4":
            found.ipv4 += sign
        elif message.family == "ipv6":
            found.ipv6 += sign

    def _key(self, domain: str, selector: str, signature: SignatureRow, at: float) -> None:
        key = (fit(reverse(domain)), fit(selector))
        found = self.keys.get(key)
        if found is None:
            self.keys[key] = KeySum(
                *key, domain, signature.algorithm, signature.key_bits, first_seen=at, last_seen=at
            )
            return
        if at < found.first_seen:
            found.first_seen = at
        if at >= found.last_seen:
            found.last_seen, found.algorithm = at, signature.algorithm
            if signature.key_bits is not None:
                found.key_bits = signature.key_bits
        found.messages += 1
