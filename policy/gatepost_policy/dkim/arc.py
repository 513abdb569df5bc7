"""Validate the ARC chain of a message (RFC 8617 5.2): dkimpy judges the chain, the guard feeds it.

How it works. dkimpy wants the whole message, hashes the body itself and computes RSA in Python.
Here it sees the ARC fields alone, rewritten with i= first and without t= and x= (it would compare
them with the machine's clock), and it asks `_Chain.verify_sig` for each signature. That one takes
the body hash that streamed by, the keys of `Lookups` and OpenSSL. So no message is kept for ARC's
sake and every bound of `[dkim]` holds.

Only the newest ARC-Message-Signature counts for the chain (5.2, step 4); older ones are not tried.
"""

import logging
import re
import time
from typing import Any

import dkim
from dkim.util import InvalidTagValueList, parse_tag_value

from gatepost_policy.config.settings import Dkim
from gatepost_policy.dkim.answers import key_of
from gatepost_policy.dkim.body import Body, Sink
from gatepost_policy.dkim.fields import Fields
from gatepost_policy.dkim.keys import Key, decode
from gatepost_policy.dkim.proof import proves
from gatepost_policy.dkim.reasons import ArcWhy, Why
from gatepost_policy.dkim.signature import CANONICALIZATIONS, domain_text, without_b
from gatepost_policy.dns import TIMEOUT, Answer, Lookups, Pending
from gatepost_policy.mail.facts import Arc

AAR = b"arc-authentication-results"
AMS = b"arc-message-signature"
SEAL = b"arc-seal"
NAMES = (AAR, AMS, SEAL)
LENGTHS = frozenset(map(len, NAMES))
# dkimpy would log what strangers wrote.
_SILENT = logging.Logger("gatepost.arc", logging.CRITICAL + 1)
MAX_SETS = 50  # RFC 8617 4.2.1
_INSTANCE = re.compile(rb"\A[ \t\r\n]*i[ \t\r\n]*=[ \t\r\n]*([0-9]{1,3})[ \t\r\n]*(?:;|\Z)")
_NUMBER = re.compile(rb"[0-9]{1,12}")


class ArcField:
    """One ARC field: where it stands, its instance, its tags (None where they cannot be read)."""

    __slots__ = ("index", "instance", "lookup", "tags")

    def __init__(self, index: int, name: bytes, value: bytes) -> None:
        self.index = index
        self.lookup: Answer | Pending | None = None
        self.tags: dict[bytes, bytes] | None = None
        found = _INSTANCE.match(value)
        self.instance = int(found[1]) if found else 0
        if name == AAR:
            return
        try:
            self.tags = parse_tag_value(value)
        except (InvalidTagValueList, IndexError, ValueError):
            return
        i = self.tags.get(b"i", b"")
        self.instance = int(i) if i.isdigit() and len(i) <= 3 else 0

    def key_name(self) -> str | None:
        """Where the key is, or None where d= or s= name nothing."""
        if self.tags is None:
            return None
        domain = domain_text(self.tags.get(b"d", b""))
        selector = domain_text(self.tags.get(b"s", b""))
        if not domain or not selector or len(domain) + len(selector) > 242:
            return None
        return f"{selector}._domainkey.{domain}"


class Chain:
    """The ARC sets of one message. Made when the header is complete, asked when the body is."""

    __slots__ = ("_at", "_fields", "_settings", "_sink", "newest", "refused", "sets")

    def __init__(self, fields: Fields, settings: Dkim, at: float) -> None:
        self._fields = fields
        self._settings = settings
        self._at = at
        self._sink: Sink | None = None
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
                self.sets.setdefault((name, found.instance), found)
            self.newest = max((i for _, i in self.sets), default=0)
            if self.newest > MAX_SETS:
                self.refused = ArcWhy.TOO_MANY_SETS

    def start(self, lookups: Lookups, bodies: dict[bool, Body]) -> None:
        """Ask for the keys and for the body hash that the newest set wants."""
        if self.refused is not None:
            return
        for (name, instance), found in self.sets.items():
            if name == SEAL or (name == AMS and instance == self.newest):
                key_name = found.key_name()
                if key_name is not None:
                    found.lookup = lookups.ask(key_name)
        newest = self.sets.get((AMS, self.newest))
        if newest is None or newest.tags is None:
            return
        method = CANONICALIZATIONS.get(newest.tags.get(b"c", b"relaxed/relaxed"))
        limit = newest.tags.get(b"l")
        if method is None or (limit is not None and not re.fullmatch(rb"[0-9]{1,76}", limit)):
            return
        body = bodies.setdefault(method[1], Body(method[1]))
        self._sink = body.sink("sha256", None if limit is None else int(limit))

    def finish(self, deadline: float, used: dict[str, Any]) -> Arc:
        """The state of the chain, and why. Adds the DNS answers to `used`. Never raises."""
        if self.refused is not None:
            return Arc("fail", self.refused)
        for found in self.sets.values():
            name = found.key_name() if found.lookup is not None else None
            if name is not None:
                used[name] = self._answer(found, deadline).form
        judge = _Chain(self, deadline)
        try:
            cv, results, _ = judge.verify()
            return Arc(*_verdict(cv, results, self.newest, judge.trouble))
        except Exception:  # dkimpy raises IndexError, ValueError and more on hostile fields
            return Arc("fail", ArcWhy.MALFORMED)

    def _answer(self, found: ArcField, deadline: float) -> Answer:
        if isinstance(found.lookup, Pending):
            found.lookup = found.lookup.wait(deadline - time.monotonic())
        return found.lookup or TIMEOUT

    def key(self, found: ArcField, deadline: float) -> Key | Why:
        """The key of this field, under the same bounds as a DKIM-Signature's."""
        if found.lookup is None:
            return Why.DOMAIN
        key = key_of(self._answer(found, deadline), "rsa", self._settings)
        if isinstance(key, Why):
            return key
        if key.bits < self._settings.min_key_bits:
            return Why.WEAK_KEY
        if key.hashes is not None and "sha256" not in key.hashes:
            return Why.KEY_HASH
        return key if key.service else Why.KEY_SERVICE

    def signing_input(self, name: bytes, found: ArcField) -> list[bytes] | None:
        """The canonical fields that this signature covers, its own last; None: not acceptable."""
        fields = self._fields
        tags = found.tags or {}
        method = CANONICALIZATIONS.get(tags.get(b"c", b"relaxed/relaxed"))
        if method is None or not self._in_time(tags):
            return None
        relaxed = method[0]
        if name == SEAL:
            # RFC 8617 5.1.1: the sets in increasing order, this seal last and without its b=.
            parts = []
            for instance in range(1, found.instance + 1):
                for kind in NAMES if instance < found.instance else (AAR, AMS):
                    field = self.sets.get((kind, instance))
                    if field is None:
                        return None
                    parts.append(fields.canonical(field.index, True))
            relaxed = True
        else:
            h = tags.get(b"h", b"").lower()
            if h.count(b":") >= self._settings.max_signed_fields:
                return None
            names = [text.strip() for text in h.split(b":")]
            if b"from" in names:
                names.append(b"from")  # one that was added later must not ride along
            parts = fields.signed(names, relaxed, found.index)
        own_name, own_value = fields.all[found.index]
        parts.append(fields.one(own_name, without_b(own_value), relaxed))
        return parts

    def _in_time(self, tags: dict[bytes, bytes]) -> bool:
        settings = self._settings
        for tag, late in ((b"t", True), (b"x", False)):
            text = tags.get(tag)
            if text is None:
                continue
            if not _NUMBER.fullmatch(text):
                return False
            moment = int(text)
            if late:
                wrong = moment > self._at + settings.clock_ahead
            else:
                wrong = moment < self._at - settings.clock_skew
            if wrong:
                return False
        return True

    def body_matches(self, bh: bytes) -> bool:
        """True where the body that streamed by is the one that the newest set signed."""
        return self._sink is not None and bh == self._sink.digest


class _Chain(dkim.ARC):  # type: ignore[misc]
    """dkimpy's judge of chains, with our hashes, keys and arithmetic under it."""

    def __init__(self, chain: Chain, deadline: float) -> None:
        super().__init__(None, logger=_SILENT)
        self.chain = chain
        self.deadline = deadline
        self.trouble: Why | None = None  # why the first signature that failed did
        fields = chain._fields
        for (name, _), found in sorted(chain.sets.items(), key=lambda item: item[1].index):
            self.headers.append([name, _as_dkimpy_reads(found, fields.all[found.index][1])])
        # A second field of one set is kept out of `sets`; dkimpy refuses the chain for it.
        shown = {found.index for found in chain.sets.values()}
        for name in NAMES:
            for index in fields.by_name().get(name, ()):
                if index not in shown:
                    self.headers.append([name, fields.all[index][1] + b"\r\n"])

    def verify_sig(self, sig: Any, include_headers: Any, sig_header: Any, dnsfunc: Any) -> bool:
        """Whether this AMS or AS is right. `sig` are its tags as dkimpy read them."""
        name = sig_header[0].lower()
        found = self.chain.sets.get((name, int(sig[b"i"])))
        if found is None or (name == AMS and found.instance != self.chain.newest):
            return False
        why = self._wrong(name, found)
        self.trouble = self.trouble or why
        return why is None

    def _wrong(self, name: bytes, found: ArcField) -> Why | None:
        tags = found.tags or {}
        try:
            b, bh = decode(tags.get(b"b", b"")), decode(tags.get(b"bh", b""))
        except ValueError:
            return Why.BASE64
        key = self.chain.key(found, self.deadline)
        if isinstance(key, Why):
            return key
        if (name == AMS or b"bh" in tags) and not self.chain.body_matches(bh):
            return Why.BODY_HASH
        parts = self.chain.signing_input(name, found)
        if parts is None:
            return Why.SYNTAX
        return None if proves(key, "sha256", b, parts) else Why.BAD_SIGNATURE


def _as_dkimpy_reads(found: ArcField, value: bytes) -> bytes:
    tags = found.tags
    if tags is None or b"i" not in tags:
        return value.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n"
    rest = [k + b"=" + v for k, v in tags.items() if k not in (b"i", b"t", b"x")]
    return b" i=" + tags[b"i"] + b"; " + b"; ".join(rest) + b"\r\n"


def _verdict(
    cv: bytes | None, results: list[dict[str, Any]], sets: int, trouble: Why | None
) -> tuple[str, str | None]:
    """cv and reason from what dkimpy found, without reading its prose."""
    if cv == dkim.CV_Pass:
        return "pass", None
    if cv == dkim.CV_None:
        return "none", None
    if cv is None:
        # A seal says that the chain had failed already: it has ended, and says nothing of us.
        return "none", ArcWhy.CHAIN_FAILED
    if not results or len(results) < sets:
        return "fail", ArcWhy.MALFORMED
    if not results[0]["ams-valid"] or not all(r["as-valid"] for r in results):
        return "fail", trouble or ArcWhy.MALFORMED
    return "fail", ArcWhy.STATUS
