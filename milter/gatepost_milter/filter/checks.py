"""Everything that is verified about one inbound message while it arrives: DKIM, ARC and SPF.

`Checker` is one for a process. `begin` starts the checks of a message whose header is complete;
`Checks` is fed with the body and says in the end what came of it, as `Results`.
"""

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gatepost_milter.filter.transcript import Connection, Message, text
from gatepost_policy import spf
from gatepost_policy.config.settings import Settings
from gatepost_policy.dkim.outcome import Outcome
from gatepost_policy.dkim.verifier import Message as DkimMessage
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Lookups
from gatepost_policy.dns.recording import Used, recorded
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Arc, Dmarc, Signature, Spf


@dataclass(frozen=True, slots=True)
class Results:
    """What the checks came to. None: not evaluated."""

    signatures: tuple[Signature, ...] = ()
    arc: Arc | None = None
    spf: Spf | None = None
    dmarc: Dmarc | None = None
    texts: dict[str, Any] = field(default_factory=dict)  # the key records that DKIM used
    used: Used = field(default_factory=dict)  # the answers that SPF and DMARC used

    @property
    def dns(self) -> dict[str, Any]:
        """Every DNS answer that was used, as `replay --dns` reads them."""
        return recorded(self.texts, self.used)


class Checker:
    """What checks share in one process: the answers of DNS, and the verdicts that rest on them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lookups = Lookups(settings.dkim)
        self._verifier = Verifier(settings.dkim, self.lookups)
        self._spf = spf.Checker()

    def begin(self, connection: Connection, message: Message, dns: str | None = None) -> "Checks":
        """Start the checks of `message`, whose header is complete. `dns` plays answers back: JSON,
        or `@` and the name of a file."""
        lookups, checker = self.lookups, self._spf
        if dns is not None:
            # More than fits a milter packet comes in a file.
            played = Path(dns[1:]).read_text("utf-8") if dns.startswith("@") else dns
            # What is played back is this message's alone: nothing of it is remembered.
            lookups, checker = Lookups(self._settings.dkim, json.loads(played)), spf.Checker()
        dkim = self._verifier.begin(message.at, lookups)
        dkim.headers(message.fields)
        dkim.end_of_headers()
        running = None
        client = connection.client.address
        # A relay of our own forwards what others sent: its address is not the sender's.
        if self._settings.spf.check and client is not None and not message.trusted_relay:
            deadline = time.monotonic() + self._settings.dkim.message_timeout_ms / 1000
            sender = address.parse(text(message.sender))
            running = checker.begin(lookups, client, sender, connection.helo, deadline)
        return Checks(dkim, running)


class Checks:
    """The checks of one message, under way. `wants_body`: something depends on the body."""

    __slots__ = ("_dkim", "_spf", "wants_body")

    def __init__(self, dkim: DkimMessage, running: spf.Running | None) -> None:
        self._dkim = dkim
        self._spf = running
        self.wants_body = dkim.wants_body

    def body(self, chunk: bytes) -> None:
        """The next piece of the body, cut anywhere."""
        self._dkim.body(chunk)

    def finish(self) -> Results:
        """The message is complete: what came of each check."""
        outcome: Outcome = self._dkim.finish()
        checked = None if self._spf is None else self._spf.finish()
        return Results(
            signatures=outcome.signatures,
            arc=outcome.arc,
            spf=None if checked is None else checked.spf,
            texts=outcome.dns,
            used={} if checked is None else checked.used,
        )
