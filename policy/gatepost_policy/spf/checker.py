"""SPF of a message's two identities; results are cached while their DNS answers are valid.

How it works. `Checker.begin` looks both identities up by (client, domain). What is not cached is
evaluated by a `dns.Task`: at once where all DNS answers are cached, else while the message arrives.
`Running.finish` gives the outcome with the DNS answers that it used.

A verdict is cached until the first of its answers expires. One that depends on the local part or
the HELO name (macros %{s}, %{l}, %{h}) is not cached, nor is a time-out.
"""

import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from gatepost_policy.dns import Ask, Lookups, Share, Task
from gatepost_policy.mail.address import Address, canonical_domain
from gatepost_policy.mail.facts import Spf, SpfCheck
from gatepost_policy.mail.message_dataclass import dataclass
from gatepost_policy.spf.evaluate import Verdict, evaluate, is_domain

MAX_VERDICTS = 10_000
Client = IPv4Address | IPv6Address
Used = dict[tuple[str, str], Any]  # (name, type) -> the answer as `--dns` reads it
_NOTHING: Used = {}


@dataclass(frozen=True, slots=True)
class Outcome:
    """SPF of one message and the DNS answers that were used, of either identity."""

    spf: Spf
    used: tuple[Used, ...]


class Checker:
    """One for a process. `clock` gives monotonic seconds, as the answers' `until` does."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[tuple[Client, str], Verdict] = {}
        self._lock = threading.Lock()

    def begin(
        self,
        lookups: Lookups | Share,
        client: Client,
        sender: Address,
        helo: str | None,
        deadline: float,
    ) -> "Running":  # fmt: skip
        """Start the checks of one message: MAIL FROM `sender`, HELO name `helo` (None: none was
        given).

        `deadline` (monotonic seconds) is when waiting for DNS ends.
        """
        name = canonical_domain(helo or "")
        greeting = self._check(lookups, client, name, "postmaster", name, deadline)
        # RFC 7208 2.4: with the null reverse-path the identity is postmaster at the HELO name.
        if sender.null or not sender.domain:
            return Running(greeting, greeting)
        return Running(
            self._check(lookups, client, sender.domain, sender.local, name, deadline), greeting
        )

    def _check(
        self,
        lookups: Lookups | Share,
        client: Client,
        domain: str,
        local: str,
        helo: str,
        deadline: float,
    ) -> "Verdict | Task[Verdict]":  # fmt: skip
        verdict = self._known.get((client, domain))
        if verdict is not None and verdict.until > self._clock():
            return verdict
        if not is_domain(domain):
            return Verdict(SpfCheck("none", domain or None), 0.0, _NOTHING, False)

        def run(ask: Ask) -> Verdict:
            verdict = evaluate(ask, client, domain, local, helo)
            self._remember(client, domain, verdict)
            return verdict

        def nothing(reason: str) -> Verdict:
            return Verdict(SpfCheck("temperror", domain, None, reason), 0.0, _NOTHING, False)

        return Task(run, lookups, deadline, nothing)

    def _remember(self, client: Client, domain: str, verdict: Verdict) -> None:
        if verdict.personal or verdict.until <= self._clock():
            return
        with self._lock:
            known = self._known
            known.pop((client, domain), None)
            while len(known) >= MAX_VERDICTS:
                known.pop(next(iter(known)))
            known[client, domain] = verdict


class Running:
    """The checks of one message, under way."""

    __slots__ = ("_helo", "_mail_from")

    def __init__(self, mail_from: Verdict | Task[Verdict], helo: Verdict | Task[Verdict]) -> None:
        self._mail_from = mail_from
        self._helo = helo

    @property
    def waits(self) -> bool:
        """True where `finish` would wait for DNS."""
        sender, helo = self._mail_from, self._helo
        return (isinstance(sender, Task) and sender.waits) or (
            isinstance(helo, Task) and helo.waits
        )

    def finish(self) -> Outcome:
        """The outcome. Waits for DNS until the deadline at most. Never raises."""
        mail_from, helo = _result(self._mail_from), _result(self._helo)
        return Outcome(Spf(mail_from.check, helo.check), (helo.used, mail_from.used))


def _result(running: Verdict | Task[Verdict]) -> Verdict:
    return running.result() if isinstance(running, Task) else running
