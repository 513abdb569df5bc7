"""SPF and DMARC of the messages that Exim reports, as the milter evaluates them.

DNS look-ups run beside the event loop; `Running.finish` waits for them in a thread. Their time is
shorter than `policy.timeout_ms`, so that mail to a trap is refused in time even if DNS is down.
"""

import time
from dataclasses import replace

from gatepost_policy import dmarc, spf
from gatepost_policy.config.settings import Settings
from gatepost_policy.dns import Asker, Lookups
from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.facts import Direction, Facts, Stage

SHARE = 0.75  # of policy.timeout_ms


class Checker:
    """Starts the checks of messages; one for each process, with its caches of DNS answers."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lookups = Lookups(settings.dkim)
        self._spf = spf.Checker()
        self._dmarc = dmarc.Checker()

    def inherit(self, old: "Checker") -> None:
        """Take over the DNS caches of `old`, after the configuration was read again."""
        self._lookups, self._spf, self._dmarc = old._lookups, old._spf, old._dmarc

    def begin(self, facts: Facts) -> "Running | None":
        """Start the checks of a whole message; None where there is nothing to check."""
        client, settings = facts.client.address, self._settings
        if facts.stage is not Stage.END or facts.direction is not Direction.INBOUND:
            return None
        # SPF needs the sender's own client; a trusted relay only forwards what others sent.
        if client is None or facts.trusted_relay:
            return None
        if not settings.spf.check and not settings.dmarc.check:
            return None
        most = min(settings.dkim.message_timeout_ms, SHARE * settings.policy.timeout_ms)
        deadline = time.monotonic() + most / 1000
        running = Running(facts)
        share = self._lookups.on_behalf(Asker(client, lambda: ""))
        if settings.spf.check:
            running.spf = self._spf.begin(share, client, facts.sender, facts.client.helo, deadline)
        if settings.dmarc.check:
            sender = facts.sender.domain or canonical_domain(facts.client.helo or "")
            others = [*(s.domain for s in facts.signatures), sender]
            running.dmarc = self._dmarc.begin(share, facts.header_from, others, deadline)
        return running


class Running:
    """The checks of one message, under way."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.spf: spf.Running | None = None
        self.dmarc: dmarc.Running | None = None

    @property
    def waits(self) -> bool:
        """True where `finish` would wait for DNS."""
        running = (self.spf, self.dmarc)
        return any(one is not None and one.waits for one in running)

    def finish(self) -> Facts:
        """The facts with the results of the checks. Waits for DNS (see `waits`)."""
        found_spf = None if self.spf is None else self.spf.finish().spf
        found_dmarc = None
        if self.dmarc is not None:
            found_dmarc, _ = self.dmarc.finish(self._facts.signatures, found_spf)
        return replace(self._facts, spf=found_spf, dmarc=found_dmarc)
