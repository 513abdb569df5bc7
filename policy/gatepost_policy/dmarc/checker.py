"""DMARC of one message: the DNS tree walks start while it arrives; they are cached while their DNS
answers are valid.
"""

import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from gatepost_policy.dmarc.evaluate import Why, evaluate
from gatepost_policy.dmarc.tree_walk import Walk, walk
from gatepost_policy.dns import Ask, Lookups, Share, Task
from gatepost_policy.dns import Why as DnsWhy
from gatepost_policy.dns.task import BROKEN
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import Dmarc, Signature, Spf

# that are cached; also the limit for cached results of whole messages (`_found`)
MAX_WALKS = 10_000
# What can be looked up in DNS; the domain in a From may hold anything.
_NAME = re.compile(
    r"[^\x00-\x20.\\\x7f-\U0010ffff]{1,63}(?:\.[^\x00-\x20.\\\x7f-\U0010ffff]{1,63})*"
)
K = TypeVar("K")
V = TypeVar("V")
Used = dict[tuple[str, str], Any]


class _Found:
    """The walks of one message: the author's, and the others' by domain.

    `exists`: the author's domain exists. `until` (monotonic seconds): how long the answers are
    valid. `used`: the DNS answers behind them, by (name, type).
    """

    __slots__ = ("author", "exists", "others", "until", "used")

    def __init__(
        self, author: Walk, others: dict[str, Walk], exists: bool, until: float, used: Used
    ) -> None:
        self.author = author
        self.others = others
        self.exists = exists
        self.until = until
        self.used = used


class Checker:
    """One for a process. `clock` gives monotonic seconds, as the answers' `until` does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, Walk] = {}
        # Keyed by the author's domain, then the others: a sender's next message mostly has the
        # same.
        self._found: dict[tuple[str, ...], _Found] = {}
        self._lock = threading.Lock()

    def begin(
        self, lookups: Lookups | Share, author: Address | None, others: Iterable[str | None],
        deadline: float,
    ) -> "Running":  # fmt: skip
        """Start the walks for mail of `author`. `others` are the domains that may still pass: each
        d=, the MAIL FROM's, the HELO name. `deadline` is in monotonic seconds.
        """
        domain = "" if author is None else author.domain
        alike = (domain, *(name for name in others if name))
        found = self._found.get(alike)
        if found is not None and found.until > self._clock():
            return Running(domain, found)
        if len(domain) > 253 or domain[:1] == "[" or not _NAME.fullmatch(domain):
            return Running(domain, None)
        names = [name for name in dict.fromkeys(alike) if name != domain]

        def run(ask: Ask) -> _Found:
            found = self._find(ask, domain, names)
            if found.until > self._clock():
                with self._lock:
                    _keep(self._found, alike, found)
            return found

        def nothing(reason: str) -> _Found:
            return _Found(Walk(domain, (), reason, 0.0, {}), {}, True, 0.0, {})

        return Running(domain, Task(run, lookups, deadline, nothing))

    def _find(self, ask: Ask, domain: str, names: Sequence[str]) -> _Found:
        author = self._walk(ask, domain)
        used, until = dict(author.used), author.until
        others: dict[str, Walk] = {}
        applies = author.applies
        exists = True
        if applies is not None:
            place, record = applies
            if place != domain and record.np is not None:
                # RFC 8020: a name that does not exist has no record of any type.
                answer = ask(domain, "TXT")
                used[domain, "TXT"] = answer.form
                until = min(until, answer.until)
                exists = answer.why is not DnsWhy.NO_NAME
            top = author.organisation
            for name in names:
                # A domain outside the author's organisation cannot be aligned: it is not walked.
                if top is None or name == top or name.endswith("." + top):
                    found = others[name] = self._walk(ask, name)
                    used |= found.used
                    until = min(until, found.until)
        return _Found(author, others, exists, until, used)

    def _walk(self, ask: Ask, domain: str) -> Walk:
        found = self._known.get(domain)
        if found is not None and found.until > self._clock():
            return found
        found = walk(ask, domain)
        if found.until > self._clock():
            with self._lock:
                _keep(self._known, domain, found)
        return found


def _keep(known: dict[K, V], key: K, value: V) -> None:
    """Cache `value` as the newest entry; the oldest are dropped."""
    known.pop(key, None)
    while len(known) >= MAX_WALKS:
        known.pop(next(iter(known)))
    known[key] = value


class Running:
    """DMARC of one message, under way."""

    __slots__ = ("_domain", "_task")

    def __init__(self, domain: str, task: Task[_Found] | _Found | None) -> None:
        self._domain = domain
        self._task = task

    @property
    def waits(self) -> bool:
        """True where `finish` would wait for DNS."""
        return isinstance(self._task, Task) and self._task.waits

    def finish(self, signatures: Sequence[Signature], spf: Spf | None) -> tuple[Dmarc, Used]:
        """The result, from those of DKIM and SPF, and the DNS answers it used, by (name, type).
        Never raises.
        """
        if self._task is None:
            return Dmarc("none", self._domain, reason=str(Why.NO_AUTHOR)), {}
        found = self._task.result() if isinstance(self._task, Task) else self._task
        try:
            result = evaluate(found.author, found.others, found.exists, signatures, spf)
        except Exception:  # a bug of ours must not stop the message
            result = Dmarc("temperror", self._domain, reason=BROKEN)
        return result, found.used
