"""What a message's row adds to every sum.

Pure. `Sums.add` with sign 1 says what a new message adds, with sign -1 what taking it out again
subtracts: ingest, purge, erase and the merging of two doors' rows all go through here, so that
sums always equal what the rows say.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import Signature
from gatepost_policy.mail.index_key import MAX_KEY, fit, reverse

DAY = 86_400
RESULTS = ("pass", "fail", "policy", "neutral", "temperror", "permerror", "none")
_RESULT_AT = {name: 5 + n for n, name in enumerate(RESULTS)}

# (domain or None, selector, algorithm, key bits, crypto, result, proven)
SignatureSum = tuple[str | None, str | None, str | None, int | None, str | None, str, bool]


@lru_cache(maxsize=16_384)
def proven(
    crypto: str | None,
    domain: str | None,
    algorithm: str | None,
    key_bits: int | None,
    body_limit: int | None,
    unsigned_bytes: int | None,
    flags: tuple[str, ...],
) -> bool:
    """`facts.Signature.proven` of a signature with these fields."""
    return Signature(
        domain=domain,
        algorithm=algorithm,
        key_bits=key_bits,
        body_limit=body_limit,
        unsigned_bytes=unsigned_bytes,
        crypto=crypto,
        flags=flags,
    ).proven


@dataclass(slots=True)
class IdentitySum:
    """What one identity gains in one batch."""

    reversed: str | None
    first: float
    last: float
    days: set[int]
    messages: int = 0
    traps: int = 0
    ipv4: int = 0
    ipv6: int = 0


@dataclass(slots=True)
class KeySum:
    """What one DKIM key gains in one batch."""

    domain: str
    algorithm: str | None
    key_bits: int | None
    first: float
    last: float
    messages: int = 0


@dataclass(slots=True)
class Sums:
    """What a batch adds to (or takes from) every table of sums, folded by key."""

    identities: dict[tuple[str, str], IdentitySum] = field(default_factory=dict)
    # (reversed, day, family, shared): [messages, trap messages, trap hits, first, last, RESULTS]
    days: dict[tuple[str, int, str, int], list[float]] = field(default_factory=dict)
    # (reversed, host, shared): [family, name, messages, last]
    hosts: dict[tuple[str, str, int], list[object]] = field(default_factory=dict)
    keys: dict[tuple[str, str], KeySum] = field(default_factory=dict)

    def add(
        self,
        *,
        at: float,
        stage: str,
        direction: str,
        family: str,
        prefix: str | None,
        host: str | None,
        name: str | None,
        sender: Address | None,
        author: Address | None,
        signatures: Sequence[SignatureSum],
        traps: int,
        names: Sequence[tuple[str, int]],
        sign: int = 1,
        identities: bool = True,
    ) -> None:
        """One message. `names` are its domains as `search_keys` gives them, `traps` its hits."""
        day = int(at // DAY)
        for reversed_name, shared in names:
            self._domain(reversed_name, shared, day, at, stage, family, signatures, traps, sign)
            if host is not None:
                self._host(reversed_name, shared, host, family, name, at, sign)
        if identities and direction == "inbound":
            self._identities(at, day, family, prefix, sender, author, signatures, traps, sign)

    def move_host(
        self,
        names: Sequence[tuple[str, int]],
        old: str,
        new: str,
        *,
        family: str,
        at: float,
    ) -> None:
        """One message's client is known by another name now: retention made it coarser."""
        for reversed_name, shared in names:
            self._host(reversed_name, shared, old, family, None, at, -1)
            self._host(reversed_name, shared, new, family, None, at, 1)

    def _domain(
        self,
        reversed_name: str,
        shared: int,
        day: int,
        at: float,
        stage: str,
        family: str,
        signatures: Sequence[SignatureSum],
        traps: int,
        sign: int,
    ) -> None:
        key = (reversed_name, day, family, shared)
        row = self.days.get(key)
        if row is None:
            row = self.days[key] = [0, 0, 0, at, at, 0, 0, 0, 0, 0, 0, 0]
        elif at < row[3]:
            row[3] = at
        elif at > row[4]:
            row[4] = at
        row[0] += sign
        if traps:
            row[1] += sign
            row[2] += sign * traps
        for signature in signatures:
            row[_RESULT_AT.get(signature[5], 11)] += sign
        # At RCPT TO nobody has seen whether there are signatures.
        if not signatures and stage == "end":
            row[11] += sign

    def _host(
        self,
        reversed_name: str,
        shared: int,
        host: str,
        family: str,
        name: str | None,
        at: float,
        sign: int,
    ) -> None:
        row = self.hosts.get((reversed_name, host, shared))
        if row is None:
            self.hosts[reversed_name, host, shared] = [family, name, sign, at]
            return
        row[2] += sign  # type: ignore[operator]
        if name is not None and at >= row[3]:  # type: ignore[operator]
            row[1], row[3] = name, at

    def _identities(
        self,
        at: float,
        day: int,
        family: str,
        prefix: str | None,
        sender: Address | None,
        author: Address | None,
        signatures: Sequence[SignatureSum],
        traps: int,
        sign: int,
    ) -> None:
        """The same identities as `facts.Facts.identities` (a test holds them together)."""
        if prefix is not None:
            self._identity("prefix", prefix, None, at, day, family, traps, sign)
        signers: set[str] = set()
        for domain, selector, algorithm, bits, crypto, _, is_proven in signatures:
            if not domain:
                continue
            if is_proven and domain not in signers:
                signers.add(domain)
                self._identity("dkim", domain, reverse(domain), at, day, family, traps, sign)
            # Anybody may claim any selector: a key is known once it was fetched and used.
            if selector and crypto == "pass" and sign > 0:
                self._key(domain, selector, algorithm, bits, at)
        if sender is not None and (sender.local or sender.domain):
            back = reverse(sender.domain) if sender.domain else None
            self._identity("sender", sender.key, back, at, day, family, traps, sign)
            if back:
                self._identity("sender-domain", sender.domain, back, at, day, family, traps, sign)
        if author is not None and author.domain:
            back = reverse(author.domain)
            self._identity("from-domain", author.domain, back, at, day, family, traps, sign)

    def _identity(
        self,
        kind: str,
        value: str,
        back: str | None,
        at: float,
        day: int,
        family: str,
        traps: int,
        sign: int,
    ) -> None:
        key = (kind, value if len(value) <= MAX_KEY else fit(value))
        row = self.identities.get(key)
        if row is None:
            back = back if back is None or len(back) <= MAX_KEY else fit(back)
            row = self.identities[key] = IdentitySum(back, at, at, {day})
        else:
            if at < row.first:
                row.first = at
            elif at > row.last:
                row.last = at
            row.days.add(day)
        row.messages += sign
        if traps:
            row.traps += sign
        if family == "ipv4":
            row.ipv4 += sign
        elif family == "ipv6":
            row.ipv6 += sign

    def _key(
        self, domain: str, selector: str, algorithm: str | None, bits: int | None, at: float
    ) -> None:
        key = (fit(reverse(domain)), fit(selector))
        row = self.keys.get(key)
        if row is None:
            self.keys[key] = KeySum(domain, algorithm, bits, at, at, 1)
            return
        if at < row.first:
            row.first = at
        if at >= row.last:
            row.last, row.algorithm = at, algorithm
            row.key_bits = bits if bits is not None else row.key_bits
        row.messages += 1
