"""Verify every DKIM signature of a message while it arrives; nothing of the body is kept.

How it works. The caller feeds a `Message`: `header` for each field (a DKIM-Signature is read at
once and its key look-up started), `end_of_headers` (the body hashes that are wanted are set up),
`body` for each chunk, `finish`. Most keys have arrived by then; those still missing are waited for,
within `dkim.message_timeout_ms` of the first look-up.

The result of each signature is one of RFC 8601 2.7.1, with a reason (`Why`); `crypto` is the result
of the arithmetic alone. Never raises, whatever a sender wrote.

Not thread-safe within one `Message`; callbacks of one connection never overlap.
"""

import time
from collections.abc import Iterable
from typing import Any

import dns.rdata
import dns.rdataclass
import dns.rdatatype

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim import blanks
from gatepost_policy.dkim.answers import keys_of
from gatepost_policy.dkim.arc import LENGTHS as ARC_LENGTHS
from gatepost_policy.dkim.arc import NAMES as ARC_NAMES
from gatepost_policy.dkim.arc import Chain
from gatepost_policy.dkim.body import Body
from gatepost_policy.dkim.fields import Fields
from gatepost_policy.dkim.keys import Key
from gatepost_policy.dkim.outcome import Outcome, recorded, refusal
from gatepost_policy.dkim.proof import proves
from gatepost_policy.dkim.reasons import Why
from gatepost_policy.dkim.signature import Claim, read, without_b
from gatepost_policy.dns import TIMEOUT, Answer, Asker, Lookups, Pending
from gatepost_policy.mail import address
from gatepost_policy.mail.address import is_within
from gatepost_policy.mail.addressed import addresses
from gatepost_policy.mail.facts import Signature
from gatepost_policy.mail.organisation import is_registry_suffix

MAX_KEYS = 3  # of one name that are tried for a signature


def preload(*, numpy: bool = True) -> None:
    """Load now what the first message would load (0.1 s, 3 MB), so that forked workers share it.
    `numpy`: with numpy, where it is installed."""
    is_registry_suffix("com")
    address.header_from([b"a (comment) <a@sender.example>"])  # the parser of the `email` package
    if numpy:
        blanks.load()
    for kind in ("TXT", "A", "AAAA", "MX", "PTR", "CNAME", "SOA", "OPT"):
        kind_of = dns.rdatatype.from_text(kind)
        dns.rdata.get_rdata_class(dns.rdataclass.IN, kind_of)  # type: ignore[no-untyped-call]


class Verifier:
    """One for a process: the settings and where keys come from. Starts no thread, opens no
    socket.
    """

    __slots__ = ("lookups", "settings")

    def __init__(self, settings: Dkim, lookups: Lookups) -> None:
        self.settings = settings
        self.lookups = lookups

    def begin(
        self, at: float, lookups: Lookups | None = None, asker: Asker | None = None
    ) -> "Message":
        """Start a message received at `at` (Unix seconds).

        `lookups` replaces the usual DNS for this message alone, to replay recorded answers; `asker`
        is the message as the limits of `dns.fairness` count it (None: no limit but
        `dkim.max_lookups`).
        """
        return Message(self.settings, lookups or self.lookups, at, asker)


class Message:
    """One message while it arrives. `wants_body` is False where nothing depends on the body; it is
    known after `end_of_headers`.
    """

    __slots__ = ("_arc", "_asker", "_bodies", "_chain", "_claims", "_deadline", "_fields",
                 "_lookups", "_settings", "at", "wants_body")  # fmt: skip

    def __init__(
        self, settings: Dkim, lookups: Lookups, at: float, asker: Asker | None = None
    ) -> None:
        self.at = at
        self.wants_body = True
        self._settings = settings
        self._lookups = lookups
        self._asker = asker
        self._fields = Fields()
        self._claims: list[Claim] = []
        self._bodies: dict[bool, Body] = {}
        self._deadline = 0.0
        self._arc = False
        self._chain: Chain | None = None

    def header(self, name: bytes, value: bytes) -> None:
        """The next field: `value` as the MTA hands it over, leading space kept."""
        fields = self._fields.all
        fields.append((name, value))
        length = len(name)
        if length == 14 and name.lower() == b"dkim-signature":
            self._signature(len(fields) - 1, value)
        elif length in ARC_LENGTHS and name.lower() in ARC_NAMES:
            self._arc = True

    def headers(self, fields: Iterable[tuple[str, bytes]]) -> dict[str, list[bytes]]:
        """All fields of a message at once: what `header` does one by one. Returns their values, as
        `Fields.take`."""
        values = self._fields.take(fields)
        found = self._fields.by_name()
        every = self._fields.all
        for index in found.get(b"dkim-signature", ()):
            name, value = every[index]
            # a name with blanks at its end is not read as a signature, as in `header`
            if len(name) == 14:
                self._signature(index, value)
        self._arc = any(
            len(every[index][0]) in ARC_LENGTHS
            for name in ARC_NAMES
            for index in found.get(name, ())
        )
        return values

    def _signature(self, index: int, value: bytes) -> None:
        claims = self._claims
        # Beyond a multiple of the limit a field is not even read: it will be recorded as skipped.
        if len(claims) >= 10 * self._settings.max_signatures:
            claim = Claim(index, value)
            claim.why = Why.SKIPPED
        else:
            claim = read(index, value, self.at, self._settings)
            if claim.why is None and len(claims) < self._settings.max_signatures:
                self._ask(claim)
        claims.append(claim)

    def _ask(self, claim: Claim) -> None:
        self._start_clock()
        claim.lookup = self._lookups.ask(claim.name, "TXT", self._asker, claim.domain)

    def _start_clock(self) -> None:
        """`dkim.message_timeout_ms` counts from the first look-up."""
        if not self._deadline:
            self._deadline = time.monotonic() + self._settings.message_timeout_ms / 1000

    def end_of_headers(self) -> None:
        """The header is complete: choose which signatures are verified and set up their hashes."""
        for claim in self._chosen():
            if claim.lookup is None:
                self._ask(claim)
            body = self._bodies.get(claim.body_relaxed)
            if body is None:
                body = self._bodies[claim.body_relaxed] = Body(claim.body_relaxed)
            claim.sink = body.sink(claim.hash, claim.limit)
        if self._arc and self._settings.arc:
            self._start_clock()
            self._chain = Chain(self._fields, self._settings, self.at)
            self._chain.start(self._lookups, self._bodies, self._asker)
        self.wants_body = bool(self._bodies)

    def _chosen(self) -> list[Claim]:
        """The claims worth verifying, at most `max_signatures`, the author's domain first."""
        good = [claim for claim in self._claims if claim.why is None]
        most = self._settings.max_signatures
        if len(good) <= most:
            return good
        places = self._fields.by_name().get(b"from", [])
        author = address.header_from([self._fields.all[i][1] for i in places])
        domain = "" if author is None else author.domain
        # Stable: within each part the order of the header stays. What cannot pass comes last.
        good.sort(key=lambda c: (c.fault is not None, not _aligned(c, domain)))
        for claim in good[most:]:
            claim.why = claim.fault or Why.SKIPPED
        return good[:most]

    def domains(self) -> list[str]:
        """Each d= whose signature may still pass. Call it after `end_of_headers`."""
        return [c.domain for c in self._claims if c.why is None and c.domain]

    def body(self, chunk: bytes) -> None:
        """Take the next piece of the body; it may be cut anywhere."""
        for body in self._bodies.values():
            body.update(chunk)

    @property
    def waits(self) -> bool:
        """True where `finish` would have to wait for a key."""
        for claim in self._claims:
            if claim.why is None and isinstance(claim.lookup, Pending) and claim.lookup.waits:
                return True
        return self._chain is not None and self._chain.waits

    def finish(self) -> Outcome:
        """The message is complete: what became of each signature. May wait for keys; never
        raises.
        """
        if not self._claims and self._chain is None:
            return Outcome()
        for body in self._bodies.values():
            body.close()
        used: dict[str, Any] = {}
        signatures = tuple([self._judged(claim, used) for claim in self._claims])
        chain = self._chain
        arc = None if chain is None else chain.finish(self._deadline, used)
        return Outcome(signatures=signatures, arc=arc, dns=used)

    def _judged(self, claim: Claim, used: dict[str, Any]) -> Signature:
        if claim.why is not None:
            return recorded(claim, claim.why)
        try:
            return self._verified(claim, used)
        except Exception:  # a bug of ours must not lose the other signatures' results
            return recorded(claim, Why.INTERNAL)

    def _verified(self, claim: Claim, used: dict[str, Any]) -> Signature:
        answer = self._answer(claim.lookup)
        used[claim.name] = answer.form
        keys = keys_of(answer, claim.kind, self._settings)
        if isinstance(keys, Why):
            return recorded(claim, claim.fault or keys)
        refused = refusal(claim, keys[0])
        usable = [key for key in keys if refusal(claim, key) is None]
        if not usable:
            # The record's h= forbids this hash, but the arithmetic can be done for `crypto`.
            usable = [key for key in keys if refusal(claim, key) is Why.KEY_HASH]
            if not usable:
                return recorded(claim, claim.fault or refused, key=keys[0])
            refused = Why.KEY_HASH
        else:
            refused = None
        size = self._bodies[claim.body_relaxed].size
        if claim.limit is not None and claim.limit > size:
            # RFC 6376 3.5: l= MUST NOT be larger than the body.
            return recorded(claim, claim.fault or refused or Why.BODY_SHORT, key=usable[0])
        key, why = self._tried(claim, usable[:MAX_KEYS])
        crypto = "pass" if why is None else "fail"
        # RFC 8301 3.1, 3.2: these two are not accepted, even where the arithmetic is right.
        if claim.hash == "sha1":
            why = Why.WEAK_HASH
        elif key.kind == "rsa" and key.bits < self._settings.min_key_bits:
            why = Why.WEAK_KEY
        signed_to = addresses(self._fields.covered(claim.names, (b"to", b"cc")))
        why = claim.fault or refused or why
        return recorded(claim, why, key=key, crypto=crypto, size=size, signed_to=signed_to)

    def _answer(self, lookup: Answer | Pending | None) -> Answer:
        if not isinstance(lookup, Pending):
            return lookup or TIMEOUT
        return lookup.wait(self._deadline - time.monotonic())

    def _tried(self, claim: Claim, keys: list[Key]) -> tuple[Key, Why | None]:
        """The key that proves the signature, and None; else the first one, and what is wrong.

        RFC 6376 6.1.2 (4): the next key of the name is tried before the verdict is fail.
        """
        if claim.sink is None or claim.bh != claim.sink.digest:
            return keys[0], Why.BODY_HASH
        fields = self._fields
        parts = fields.signed(claim.names, claim.header_relaxed, claim.index)
        name = fields.all[claim.index][0]
        parts.append(fields.one(name, without_b(claim.value), claim.header_relaxed))
        for key in keys:
            if proves(key, claim.hash, claim.b, parts):
                return key, None
        return keys[0], Why.BAD_SIGNATURE


def _aligned(claim: Claim, author: str) -> bool:
    return bool(claim.domain) and is_within(author, claim.domain or "")
