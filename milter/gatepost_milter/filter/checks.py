"""Everything that is verified about one inbound message while it arrives: DKIM, ARC, SPF, DMARC.

There is one `Checker` per process. `begin` starts the checks of a message whose header is complete;
the `Checks` that it returns is fed with the body, and `finish` gives the `Results`.
"""

import json
import time
from dataclasses import field
from pathlib import Path
from typing import Any

from gatepost_milter.filter.transcript import Connection, Message, text
from gatepost_policy import dmarc, spf
from gatepost_policy.config.settings import Settings
from gatepost_policy.dkim.body import Body
from gatepost_policy.dkim.outcome import Outcome
from gatepost_policy.dkim.verifier import Message as DkimMessage
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Asker, Lookups
from gatepost_policy.dns.recording import Used, recorded
from gatepost_policy.mail import address
from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.facts import Arc, Dmarc, Signature, Spf
from gatepost_policy.mail.message_dataclass import dataclass
from gatepost_policy.tracing import body_hash, new_body


@dataclass(frozen=True, slots=True)
class Results:
    """The results of all checks of one message. None: not evaluated."""

    signatures: tuple[Signature, ...] = ()
    arc: Arc | None = None
    spf: Spf | None = None
    dmarc: Dmarc | None = None
    texts: dict[str, Any] = field(default_factory=dict)  # the key records that DKIM used
    used: tuple[Used, ...] = ()  # the answers that SPF and DMARC used
    body: bytes | None = None  # the body's hash, where one is wanted

    @property
    def dns(self) -> dict[str, Any]:
        """Every DNS answer that was used, as `replay --dns` reads them."""
        merged: Used = {}
        for used in self.used:
            merged |= used
        return recorded(self.texts, merged)


class Checker:
    """What the checks of one process share: caches of DNS answers and of results based on them."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.lookups = Lookups(settings.dkim)
        self._verifier = Verifier(settings.dkim, self.lookups)
        self._spf = spf.Checker()
        self._dmarc = dmarc.Checker()

    def begin(
        self,
        connection: Connection,
        message: Message,
        dns: str | None = None,
        keys_only: bool = False,
    ) -> "Checks":
        """Start the checks of `message`, whose header is complete.

        `dns` (replay only): recorded DNS answers to use, as JSON, or `@` and the name of a file.
        `keys_only`: only DKIM keys were recorded in it, so SPF and DMARC are not evaluated.
        """
        lookups, of_spf, of_dmarc = self.lookups, self._spf, self._dmarc
        if dns is not None:
            # Answers too long for one milter packet come in a file.
            played = Path(dns[1:]).read_text("utf-8") if dns.startswith("@") else dns
            lookups = Lookups(self._settings.dkim, json.loads(played))
            # Recorded answers belong to this message alone: they must not get into the caches.
            of_spf, of_dmarc = spf.Checker(), dmarc.Checker()
        client = connection.client.address
        whose = message.whose
        relayed = whose.trusted_relay or whose.unknown_client

        def author() -> str:
            return "" if message.author is None else message.author.domain

        # Many clients send through a trusted relay: its address tells nothing about any of them.
        asker = Asker(None if relayed else client, author)
        dkim = self._verifier.begin(message.at, lookups, asker)
        message.sorted_by_name(dkim.headers(message.fields))
        dkim.end_of_headers()
        deadline = time.monotonic() + self._settings.dkim.message_timeout_ms / 1000
        sender = address.parse(text(message.sender))
        # What a trusted relay may send back is known again by its body (`OwnResults.unproven`).
        relays = self._settings.submission.trusted_relays
        checks = Checks(dkim, new_body(relaxed=False) if relays else None)
        share = lookups.on_behalf(asker)
        # SPF needs the sender's own client; a trusted relay only forwards what others sent.
        known = not (relayed or client is None or keys_only)
        if self._settings.spf.check and client is not None and known:
            checks.spf = of_spf.begin(share, client, sender, connection.helo, deadline)
        if self._settings.dmarc.check and known:
            others = [*dkim.domains(), sender.domain or canonical_domain(connection.helo or "")]
            checks.dmarc = of_dmarc.begin(share, message.author, others, deadline)
        return checks


class Checks:
    """The checks of one message, under way. `wants_body`: something depends on the body."""

    __slots__ = ("_dkim", "_hashed", "dmarc", "spf", "wants_body")

    def __init__(self, dkim: DkimMessage, hashed: Body | None) -> None:
        self._dkim = dkim
        self._hashed = hashed
        self.spf: spf.Running | None = None
        self.dmarc: dmarc.Running | None = None
        self.wants_body = dkim.wants_body or hashed is not None

    def body(self, chunk: bytes) -> None:
        """The next octets of the body; a chunk may end anywhere, also within a line."""
        self._dkim.body(chunk)
        if self._hashed is not None:
            self._hashed.update(chunk)

    @property
    def waits(self) -> bool:
        """True where `finish` would have to wait for DNS."""
        return (
            self._dkim.waits
            or (self.spf is not None and self.spf.waits)
            or (self.dmarc is not None and self.dmarc.waits)
        )

    def finish(self) -> Results:
        """The results; call it once the whole body was fed. Waits for DNS (see `waits`)."""
        outcome: Outcome = self._dkim.finish()
        found_spf, found_dmarc = None, None
        used: tuple[Used, ...] = ()
        if self.spf is not None:
            checked = self.spf.finish()
            found_spf, used = checked.spf, checked.used
        if self.dmarc is not None:
            found_dmarc, more = self.dmarc.finish(outcome.signatures, found_spf)
            used = (*used, more)
        return Results(
            signatures=outcome.signatures,
            arc=outcome.arc,
            spf=found_spf,
            dmarc=found_dmarc,
            texts=outcome.dns,
            used=used,
            body=None if self._hashed is None else body_hash(self._hashed),
        )
