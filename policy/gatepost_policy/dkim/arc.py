"""Validate the ARC chain of a message (RFC 8617 5.2).

How it works. The sets are read when the header is complete, and their keys are asked for at once;
the body hash of the newest set is computed while the body arrives, as for DKIM. So no message is
kept for ARC and every limit of `[dkim]` holds. dkimpy does not judge the chain, because it knows no
Ed25519 and no comment beside i=, compares times with the machine's clock and gives no reason.

Only the newest ARC-Message-Signature counts for the chain (5.2, step 4); older ones are not tried.
"""

import re
import time
from typing import Any

from dkim.util import InvalidTagValueList, parse_tag_value

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.answers import keys_of
from gatepost_policy.dkim.body import Body, Sink
from gatepost_policy.dkim.fields import Fields
from gatepost_policy.dkim.keys import Key, decode
from gatepost_policy.dkim.proof import proves
from gatepost_policy.dkim.reasons import ArcWhy, Why
from gatepost_policy.dkim.signature import (
    CANONICALIZATIONS,
    Canonicalization,
    domain_text,
    without_b,
)
from gatepost_policy.dns import TIMEOUT, Answer, Asker, Lookups, Pending
from gatepost_policy.mail.facts import Arc

AAR = b"arc-authentication-results"
AMS = b"arc-message-signature"
SEAL = b"arc-seal"
NAMES = (AAR, AMS, SEAL)
LENGTHS = frozenset(map(len, NAMES))
MAX_SETS = 50  # RFC 8617 4.2.1
# a= -> key type. RFC 8617 4.1.2: the algorithms of DKIM; SHA-1 was never among them.
ALGORITHMS = {b"rsa-sha256": "rsa", b"ed25519-sha256": "ed25519"}
_MANDATORY = {
    AMS: (b"i", b"a", b"b", b"bh", b"d", b"h", b"s"),
    SEAL: (b"i", b"a", b"b", b"cv", b"d", b"s"),
}
# RFC 8617 4.2.1: comments and folds may stand before and after i= where it comes first. One comment
# may stand in another. The groups are atomic, so that no text makes the expression backtrack.
_INNER = rb"(?:[^()\\]++|\\.)*"
_CFWS = rb"(?>(?:[ \t\r\n]++|\((?>(?:[^()\\]++|\\.|\((?>%s)\))*)\))*)" % _INNER
_INSTANCE = re.compile(rb"%(c)bi%(c)b=%(c)b([0-9]{1,3})%(c)b(?=;|\Z)" % {b"c": _CFWS}, re.S | re.I)
MAX_KEYS = 3  # of one name that are tried
_NUMBER = re.compile(rb"[0-9]{1,12}")
_LENGTH = re.compile(rb"[0-9]{1,76}")


class ArcField:
    """One ARC field: `index` in the header, its instance number (0 where it cannot be read), its
    tags.

    `tags` is None where they cannot be read, and for ARC-Authentication-Results. `lookup` is the
    DNS query for its key, None where no key is needed or none can be asked for.
    """

    __slots__ = ("index", "instance", "lookup", "tags")

    def __init__(self, index: int, name: bytes, value: bytes) -> None:
        self.index = index
        self.lookup: Answer | Pending | None = None
        self.tags: dict[bytes, bytes] | None = None
        found = _INSTANCE.match(value)
        self.instance = int(found[1]) if found else 0
        if name == AAR:
            return
        if found:
            value = b"i=" + found[1] + value[found.end() :]
        try:
            self.tags = parse_tag_value(value)
        except (InvalidTagValueList, IndexError, ValueError):
            return
        i = self.tags.get(b"i", b"")
        self.instance = int(i) if i.isdigit() and len(i) <= 3 else 0

    def tag(self, name: bytes) -> bytes:
        """The value of a tag; empty where it is missing."""
        return (self.tags or {}).get(name, b"")

    @property
    def kind(self) -> str | None:
        """The key type that a= needs (rsa, ed25519), or None for an unknown algorithm."""
        return ALGORITHMS.get(self.tag(b"a").lower())

    def key_name(self) -> str | None:
        """The DNS name of the key, or None where d= or s= is missing, invalid or too long."""
        if self.tags is None:
            return None
        domain = domain_text(self.tag(b"d"))
        selector = domain_text(self.tag(b"s"))
        if not domain or not selector or len(domain) + len(selector) > 241:
            return None
        return f"{selector}._domainkey.{domain}"


class Chain:
    """The ARC sets of one message. Made when the header is complete, asked when the body is.

    `at` is the time of receipt (Unix seconds). `sets` holds the fields by (lower-case name,
    instance), `newest` is the highest instance, 0 for no chain. `refused` says why the chain fails
    before any signature is checked.
    """

    __slots__ = ("_at", "_doubled", "_fields", "_settings", "_sinks", "newest", "refused", "sets")

    def __init__(self, fields: Fields, settings: Dkim, at: float) -> None:
        self._fields = fields
        self._settings = settings
        self._at = at
        self._sinks: dict[Canonicalization, Sink] = {}
        self._doubled = False
        self.refused: ArcWhy | None = None
        self.sets: dict[tuple[bytes, int], ArcField] = {}
        self.newest = 0
        where = fields.by_name()
        places = [(name, index) for name in NAMES for index in where.get(name, ())]
        sizes = {index: len(fields.all[index][1]) for _, index in places}
        signed = (sizes[index] for name, index in places if name != AAR)
        if len(places) > 3 * MAX_SETS:
            self.refused = ArcWhy.TOO_MANY_SETS
        elif sum(sizes.values()) > settings.arc_max_bytes:
            self.refused = ArcWhy.TOO_LONG
        elif max(signed, default=0) > settings.max_signature_bytes:
            self.refused = ArcWhy.TOO_LONG
        else:
            for name, index in places:
                found = ArcField(index, name, fields.all[index][1])
                first = self.sets.setdefault((name, found.instance), found)
                self._doubled = self._doubled or (first is not found and found.instance > 0)
            self.newest = max((i for _, i in self.sets), default=0)
            if self.newest > MAX_SETS:
                self.refused = ArcWhy.TOO_MANY_SETS
            elif self.newest:
                self.refused = self._structure()

    def start(self, lookups: Lookups, bodies: dict[bool, Body], asker: Asker | None = None) -> None:
        """Ask for the keys, and for the body hash of the newest set.

        `bodies` holds the `Body` for each canonicalization (True: relaxed), shared with DKIM; one
        that is missing is added.
        """
        if self.refused is not None or not self.newest:
            return
        for (name, instance), found in self.sets.items():
            if instance and (name == SEAL or (name == AMS and instance == self.newest)):
                key_name = found.key_name()
                if key_name is not None and found.kind is not None:
                    signer = domain_text(found.tag(b"d"))
                    found.lookup = lookups.ask(key_name, "TXT", asker, signer)
        newest = self.sets[AMS, self.newest]
        limit = newest.tag(b"l")
        if limit and not _LENGTH.fullmatch(limit):
            return
        for method in self._methods(newest):
            body = bodies.setdefault(method.body_relaxed, Body(method.body_relaxed))
            self._sinks[method] = body.sink("sha256", int(limit) if limit else None)

    def _methods(self, newest: ArcField) -> tuple[Canonicalization, ...]:
        """The canonicalizations to try. RFC 8617 4.1.2 takes over DKIM's default, simple/simple;
        but dkimpy, with which many servers seal, leaves c= out and signs relaxed/relaxed.
        """
        c = (newest.tags or {}).get(b"c")
        if c is not None:
            method = CANONICALIZATIONS.get(c.lower())
            return () if method is None else (method,)
        return CANONICALIZATIONS[b"simple"], CANONICALIZATIONS[b"relaxed/relaxed"]

    @property
    def waits(self) -> bool:
        """True where `finish` would have to wait for a key."""
        return any(isinstance(f.lookup, Pending) and f.lookup.waits for f in self.sets.values())

    def finish(self, deadline: float, used: dict[str, Any]) -> Arc:
        """The state of the chain, and why. Waits for keys until `deadline` (monotonic seconds) and
        adds the DNS answers to `used`, by name. Never raises.
        """
        if self.refused is not None:
            return Arc("fail", self.refused)
        if not self.newest:
            return Arc("none")  # ARC fields without an instance number make no chain
        for found in self.sets.values():
            name = found.key_name() if found.lookup is not None else None
            if name is not None:
                used[name] = self._answer(found, deadline).form
        why = self._signatures(deadline)
        return Arc("pass") if why is None else Arc("fail", why)

    def _structure(self) -> ArcWhy | None:
        """What is wrong with the chain before any arithmetic (RFC 8617 5.2, steps 2 and 3)."""
        newest = self.sets.get((SEAL, self.newest))
        if newest is not None and newest.tag(b"cv").lower() == b"fail":
            return ArcWhy.CHAIN_FAILED
        if self._doubled:
            return ArcWhy.MALFORMED
        for instance in range(self.newest, 0, -1):
            if any((name, instance) not in self.sets for name in NAMES):
                return ArcWhy.MALFORMED
            why = _unreadable(AMS, self.sets[AMS, instance]) or _unreadable(
                SEAL, self.sets[SEAL, instance]
            )
            if why is not None:
                return why
        return None

    def _signatures(self, deadline: float) -> Why | ArcWhy | None:
        """The reason of the first signature that fails, newest set first. Where all hold: STATUS if
        a seal's cv= does not fit its place in the chain.
        """
        why = self._wrong(AMS, self.sets[AMS, self.newest], deadline)
        seals = [self.sets[SEAL, instance] for instance in range(self.newest, 0, -1)]
        for seal in seals:
            why = why or self._wrong(SEAL, seal, deadline)
        if why is None:
            for seal in seals:
                wanted = b"none" if seal.instance == 1 else b"pass"
                if seal.tag(b"cv").lower() != wanted:
                    return ArcWhy.STATUS
        return why

    def _answer(self, found: ArcField, deadline: float) -> Answer:
        if isinstance(found.lookup, Pending):
            found.lookup = found.lookup.wait(deadline - time.monotonic())
        return found.lookup or TIMEOUT

    def _keys(self, found: ArcField, kind: str, deadline: float) -> tuple[Key, ...] | Why:
        """The keys of this field, under the same bounds as a DKIM-Signature's."""
        if found.lookup is None:
            return Why.DOMAIN
        keys = keys_of(self._answer(found, deadline), kind, self._settings)
        if isinstance(keys, Why):
            return keys
        usable = tuple(key for key in keys if self._unfit(key) is None)
        return usable[:MAX_KEYS] or self._unfit(keys[0]) or Why.KEY_TYPE

    def _unfit(self, key: Key) -> Why | None:
        if key.kind == "rsa" and key.bits < self._settings.min_key_bits:
            return Why.WEAK_KEY
        if key.hashes is not None and "sha256" not in key.hashes:
            return Why.KEY_HASH
        return None if key.service else Why.KEY_SERVICE

    def _wrong(self, name: bytes, found: ArcField, deadline: float) -> Why | None:
        """Why this seal or message signature is not right."""
        kind = found.kind
        if kind is None:
            return Why.ALGORITHM
        late = self._untimely(found)
        if late is not None:
            return late
        b, bh = decode(found.tag(b"b")), decode(found.tag(b"bh"))
        keys = self._keys(found, kind, deadline)
        if isinstance(keys, Why):
            return keys
        inputs: list[list[bytes]]
        if name == SEAL:
            inputs = [self._sealed(found)]
        else:
            methods = self._methods(found)
            if not methods:
                return Why.CANONICALIZATION
            if found.tag(b"h").count(b":") >= self._settings.max_signed_fields:
                return Why.FIELDS
            methods = tuple(m for m in methods if m in self._sinks and bh == self._sinks[m].digest)
            if not methods:
                return Why.BODY_HASH
            inputs = [self._signed(found, method.header_relaxed) for method in methods]
        sound = any(proves(key, "sha256", b, parts) for key in keys for parts in inputs)
        return None if sound else Why.BAD_SIGNATURE

    def _sealed(self, found: ArcField) -> list[bytes]:
        """What a seal covers. RFC 8617 5.1.1: the sets in increasing order, this seal last and
        without its b=."""
        parts = []
        for instance in range(1, found.instance + 1):
            for kind in NAMES if instance < found.instance else (AAR, AMS):
                parts.append(self._fields.canonical(self.sets[kind, instance].index, True))
        return [*parts, self._own(found, True)]

    def _signed(self, found: ArcField, relaxed: bool) -> list[bytes]:
        """What a message signature covers, its own field last."""
        names = [text.strip() for text in found.tag(b"h").lower().split(b":")]
        if b"from" in names:
            names.append(b"from")  # a From added after signing must not pass (RFC 6376 8.15)
        return [*self._fields.signed(names, relaxed, found.index), self._own(found, relaxed)]

    def _own(self, found: ArcField, relaxed: bool) -> bytes:
        name, value = self._fields.all[found.index]
        return self._fields.one(name, without_b(value), relaxed)

    def _untimely(self, found: ArcField) -> Why | None:
        """Times are compared with that of receipt (RFC 6376 3.5, t= and x=)."""
        for tag in (b"t", b"x"):
            text = (found.tags or {}).get(tag)
            if text is None:
                continue
            if not _NUMBER.fullmatch(text):
                return Why.TIMESTAMP
            if tag == b"t" and int(text) > self._at + self._settings.clock_ahead:
                return Why.FUTURE
            if tag == b"x" and int(text) < self._at - self._settings.clock_skew:
                return Why.EXPIRED
        return None


def _unreadable(name: bytes, found: ArcField) -> ArcWhy | None:
    """MALFORMED where a mandatory tag is missing or a tag is wrong (RFC 8617 4.1.2, 4.1.3), else
    None.
    """
    tags = found.tags
    if tags is None or any(not tags.get(tag) for tag in _MANDATORY[name]):
        return ArcWhy.MALFORMED
    if tags.get(b"v", b"1") != b"1":
        return ArcWhy.MALFORMED
    if name == SEAL:
        if b"h" in tags or tags[b"cv"].lower() not in (b"none", b"pass", b"fail"):
            return ArcWhy.MALFORMED
    elif SEAL in [text.strip().lower() for text in tags[b"h"].split(b":")]:
        return ArcWhy.MALFORMED  # 4.1.2: a message signature must not cover seals
    try:
        decode(tags[b"b"])
        decode(tags.get(b"bh", b""))
    except ValueError:
        return ArcWhy.MALFORMED
    return None
