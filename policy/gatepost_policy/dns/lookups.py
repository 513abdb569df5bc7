"""Ask DNS: a bounded cache for the process, one look-up in flight for a name and type.

How it works. `ask(name, kind)` gives an `Answer` at once when the cache (or a replayed file) has
it, else a `Pending` whose look-up runs in a thread of its own; `Pending.wait` gives the answer or,
at the caller's deadline, a time-out.

There is a thread for each look-up, at most `dkim.max_lookups` at once: slow domains never delay
quick ones, and there is nothing to shut down. No thread and no socket is made before the first
look-up, so a process may make a `Lookups` and then fork. `fairness` divides those places between
the senders; cached answers and look-ups under way are shared by all.

TTLs are honoured up to `dkim.cache_ttl_max`, negative answers up to `dkim.cache_ttl_negative`
(RFC 2308); a failure is remembered for `FAILURE_SECONDS` (RFC 9520 3.2 wants at least one).
Only what DNS said is cached, with what was parsed from it: never a verdict.

Limits: DNSSEC is left to the resolver; the AD bit is not looked at.
"""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import dns.exception
import dns.message
import dns.name
import dns.nameserver
import dns.rdatatype
import dns.resolver

from gatepost_policy.config.settings import Dkim, nameserver
from gatepost_policy.dns.answer import BUSY, TIMEOUT, Answer, Why
from gatepost_policy.dns.fairness import Asker, Fairness, Place, place_of

FAILURE_SECONDS = 5.0
PLAIN_SECONDS = 300.0  # how long DNS is asked without EDNS after a server refused it
PLAYED_SECONDS = 3600.0  # how long a replayed answer is valid


class Pending:
    """A look-up under way."""

    __slots__ = ("answer", "done")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.answer: Answer = TIMEOUT

    @property
    def waits(self) -> bool:
        """True where the answer has not come yet."""
        return not self.done.is_set()

    def wait(self, seconds: float) -> Answer:
        """The answer, or `TIMEOUT` where there is none after `seconds`."""
        self.done.wait(max(seconds, 0.0))
        return self.answer


class Lookups:
    """The DNS cache and look-ups of this process. With `played` (name to a form that `Answer.of`
    reads) no query is sent. `clock` gives monotonic seconds.
    """

    def __init__(
        self,
        settings: Dkim,
        played: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.asked = 0  # look-ups sent out, for the metrics
        self._clock = clock
        self._played = None if played is None else {_name(k): v for k, v in played.items()}
        self._cache: dict[str, Answer] = {}
        self._bytes = 0
        self._flying: dict[str, Pending] = {}
        self._lock = threading.Lock()
        self._fair = Fairness(settings.max_lookups)
        self._resolvers: dict[bool, dns.resolver.Resolver] = {}  # with EDNS, without
        self._plain_until = 0.0

    def ask(
        self, name: str, kind: str = "TXT", asker: Asker | None = None, signer: str | None = None
    ) -> Answer | Pending:
        """What is known about the records of type `kind` at `name` (lower-case, no end dot), or the
        look-up that was started (or joined) for it.

        `asker` is the message that asks (None: no limits but `dkim.max_lookups`), `signer` the d=
        whose key it is. The answer is `BUSY` where no place is free. Never raises.
        """
        place = name if kind == "TXT" else f"{kind} {name}"
        answer = self._cache.get(place)
        if answer is not None and answer.until > self._clock():
            answer.used = True
            return answer
        if self._played is not None:
            return self._keep(place, Answer.of(self._played.get(name), kind), PLAYED_SECONDS)
        flying = self._flying.get(place)
        if flying is not None:
            return flying
        wanted = None if asker is None else place_of(asker, name, signer)
        with self._lock:
            flying = self._flying.get(place)
            if flying is not None:
                return flying
            if len(self._flying) >= self.settings.max_lookups:
                return BUSY
            seat = None
            if wanted is not None:
                seat = self._fair.take(wanted, self._clock())
                if seat is None:
                    return BUSY
            flying = self._flying[place] = Pending()
            self.asked += 1
        thread = threading.Thread(target=self._run, args=(name, kind, flying, seat), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no more threads: the limit of the process or the system
            self._landed(place, seat, failed=False)
            flying.answer = BUSY
            flying.done.set()
        return flying

    def on_behalf(self, asker: Asker) -> "Share":
        """DNS for SPF and DMARC of `asker`'s message, within the limits of `fairness`."""
        return Share(self, asker)

    def _landed(self, place: str, seat: Place | None, failed: bool) -> None:
        with self._lock:
            self._flying.pop(place, None)
            if seat is not None:
                self._fair.give_back(seat, failed, self._clock())

    def _run(self, name: str, kind: str, flying: Pending, seat: Place | None) -> None:
        place = name if kind == "TXT" else f"{kind} {name}"
        try:
            answer, seconds = self._resolve(name, kind)
        except Exception:  # whatever dnspython raises on hostile wire data: recorded as unusable
            answer, seconds = Answer(why=Why.UNUSABLE), FAILURE_SECONDS
        flying.answer = self._keep(place, answer, seconds)
        self._landed(place, seat, answer.why is Why.TIMEOUT)
        flying.done.set()

    def _keep(self, place: str, answer: Answer, seconds: float) -> Answer:
        answer.until = self._clock() + seconds
        with self._lock:
            cache = self._cache
            old = cache.pop(place, None)
            if old is not None:
                self._bytes -= old.size
            full = self.settings.cache_entries
            while cache and (len(cache) >= full or self._bytes > self.settings.cache_bytes):
                # Second chance: the oldest is dropped, unless it was asked for since.
                first = next(iter(cache))
                oldest = cache.pop(first)
                if oldest.used and oldest.until > self._clock():
                    oldest.used = False
                    cache[first] = oldest
                else:
                    self._bytes -= oldest.size
            cache[place] = answer
            self._bytes += answer.size
        return answer

    def _made(self, edns: bool) -> dns.resolver.Resolver:
        resolver = self._resolvers.get(edns)
        if resolver is None:
            resolver = dns.resolver.Resolver(configure=not self.settings.nameservers)
            if self.settings.nameservers:
                resolver.nameservers = [
                    dns.nameserver.Do53Nameserver(host, port)
                    for host, port in map(nameserver, self.settings.nameservers)
                ]
            resolver.lifetime = self.settings.lookup_timeout_ms / 1000
            # Each server is asked twice within the budget, so that one lost packet is no failure.
            resolver.timeout = resolver.lifetime / 2
            if edns:
                # DNS flag day 2020: answers up to this size pass everywhere without fragments.
                resolver.use_edns(0, 0, 1232)
            self._resolvers[edns] = resolver
        return resolver

    def _resolve(self, name: str, kind: str) -> tuple[Answer, float]:
        """Ask DNS now: the answer and for how many seconds it is valid."""
        edns = self._clock() >= self._plain_until
        try:
            return self._resolved(name, kind, edns)
        except dns.resolver.NoNameservers as error:
            if not edns or not _knows_no_edns(error):
                return Answer(why=_failure(error, Why.SERVFAIL)), FAILURE_SECONDS
        # RFC 6891 7: a server without EDNS says FORMERR, and is asked again without.
        self._plain_until = self._clock() + PLAIN_SECONDS
        try:
            return self._resolved(name, kind, False)
        except dns.resolver.NoNameservers as error:
            return Answer(why=_failure(error, Why.SERVFAIL)), FAILURE_SECONDS

    def _resolved(self, name: str, kind: str, edns: bool) -> tuple[Answer, float]:
        settings = self.settings
        try:
            found = self._made(edns).resolve(
                dns.name.from_text(name + "."), kind, search=False, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN as error:
            return Answer(why=Why.NO_NAME), self._negative(error)
        except dns.resolver.LifetimeTimeout as error:
            return Answer(why=_failure(error, Why.TIMEOUT)), FAILURE_SECONDS
        except dns.resolver.YXDOMAIN:
            return Answer(why=Why.UNUSABLE), FAILURE_SECONDS
        except dns.resolver.NoResolverConfiguration:
            return Answer(why=Why.SERVFAIL), FAILURE_SECONDS
        ttl = float(found.chaining_result.minimum_ttl)
        if found.rrset is None:
            return Answer(why=Why.NO_RECORD), min(ttl, settings.cache_ttl_negative)
        records = [self._text(rdata, kind) for rdata in found.rrset]
        return Answer(tuple(records)), min(max(ttl, 1.0), float(settings.cache_ttl_max))

    def _text(self, rdata: Any, kind: str) -> str:
        """One record as text."""
        if kind == "TXT":
            # RFC 6376 3.6.2.2, RFC 7208 3.3: the strings of one record are joined with nothing
            # between them. A longer text is cut to one octet over the limit, so that it is still
            # seen to be too long.
            joined = b"".join(rdata.strings)[: self.settings.max_record_bytes + 1]
            return joined.decode("utf-8", "surrogateescape")
        if kind == "MX":
            return f"{rdata.preference} {rdata.exchange.to_text(omit_final_dot=True).lower()}"
        if kind == "PTR":
            return str(rdata.target.to_text(omit_final_dot=True).lower())
        return str(rdata.address)

    def _negative(self, error: dns.resolver.NXDOMAIN) -> float:
        limit = float(self.settings.cache_ttl_negative)
        ttls = []
        for response in error.responses().values():  # type: ignore[no-untyped-call]
            try:
                ttls.append(float(response.resolve_chaining().minimum_ttl))
            except (dns.exception.DNSException, AttributeError):
                continue
        return min([limit, *ttls]) if ttls else min(limit, FAILURE_SECONDS)


class Share:
    """DNS for one message: every query counts against its client and its domain."""

    __slots__ = ("_asker", "_lookups")

    def __init__(self, lookups: Lookups, asker: Asker) -> None:
        self._lookups = lookups
        self._asker = asker

    def ask(self, name: str, kind: str = "TXT") -> Answer | Pending:
        """As `Lookups.ask`."""
        return self._lookups.ask(name, kind, self._asker)


def _knows_no_edns(error: Any) -> bool:
    """True where a server's answer shows that it knows no EDNS (RFC 6891 7)."""
    tries = error.kwargs.get("errors") or ()
    return any(attempt[3] in ("FORMERR", "NOTIMP", "BADVERS") for attempt in tries)


def _failure(error: Any, otherwise: Why) -> Why:
    """One reason for several failed attempts: the one that says most about the cause."""
    tries = error.kwargs.get("errors") or ()
    causes = [attempt[3] for attempt in tries]
    if any(isinstance(cause, dns.message.ChainTooLong) for cause in causes):
        return Why.LOOP
    if any(isinstance(cause, dns.message.Truncated) for cause in causes):
        return Why.TRUNCATED
    if any(isinstance(cause, str) for cause in causes):
        return Why.SERVFAIL
    if any(isinstance(cause, dns.exception.FormError) for cause in causes):
        return Why.UNUSABLE
    return otherwise


def _name(text: str) -> str:
    return text.rstrip(".").lower()
