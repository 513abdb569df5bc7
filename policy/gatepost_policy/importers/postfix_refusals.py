"""What smtpd, postscreen and cleanup refused, recorded once it is known whose it was.

A refusal of a message that is under way ends it, or one of its recipients. Any other of smtpd waits
for the end of its session (`postfix_sessions`).
"""

from collections.abc import Iterable
from dataclasses import replace

from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import Ordinals, Tally, line_key
from gatepost_policy.importers.guessing import Guessing
from gatepost_policy.importers.postfix_line import (
    STAGES,
    WHOLE,
    Refusal,
    named,
    read_client,
    read_refusal,
)
from gatepost_policy.importers.postfix_open import Open, tell
from gatepost_policy.importers.postfix_owners import Owners
from gatepost_policy.importers.postfix_sessions import Judged, Sessions, Verdict
from gatepost_policy.importers.syslog import Entry
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Client, Direction, client_prefix
from gatepost_policy.rules.whose_mail import INBOUND, SUBMITTED, Ownership

# Longer lines are cut, so that a hostile one does not keep a pattern busy; real ones are shorter.
MAX_REFUSAL = 4096


class Refusals:
    """The refusals of one importer, which shares its parts with this. `clock`: of the log that is
    being read."""

    def __init__(
        self,
        tally: Tally,
        under_way: dict[tuple[str, str], Open],
        guessing: Guessing,
        owners: Owners,
    ) -> None:
        self.sessions = Sessions()
        self.ordinals = Ordinals()
        self.clock: Clock | None = None
        self._tally, self._under_way = tally, under_way
        self._guessing, self._owners = guessing, owners

    def refused(self, entry: Entry, queue_id: str, text: str, submission: bool) -> Iterable[Seen]:
        """Read a line with a queue id (or NOQUEUE) that may be a refusal, and what it completes.
        `submission`: it is of a service that only users come to."""
        told = read_refusal(text[:MAX_REFUSAL])
        if told is None or told.stage not in STAGES:
            self._tally.kinds["other"] += 1
            return ()
        self._tally.kinds["refused"] += 1
        key = (entry.host, queue_id)
        found = self._under_way.get(key)
        whose = self._owners.of(told.peer, submission or told.logged_in)
        service = named(entry.program)[0]
        if found is None and whose is INBOUND and service == "smtpd":
            return self.judged(self.sessions.hold(entry, queue_id, told))
        if found is None and service == "cleanup" and self.sessions.logins_at(entry.host):
            self._tally.kinds["without arrival"] += 1  # the line that could show a login is missing
            return ()
        if told.logged_in and not submission:
            self.sessions.takes_logins(entry)
        if found is not None and told.stage not in WHOLE:
            # One of several recipients: the message goes on without it.
            if told.recipient:
                found.recipients.setdefault(told.recipient, False)
                found.refusal = told.decision
            if found.whose.direction is Direction.INBOUND:
                self._guessed(entry, told)
            return ()
        if not submission and not told.logged_in:
            self._guessed(entry, told)
        return self._recorded(entry, queue_id, told, whose, found)

    def judged(self, judged: Iterable[Judged]) -> list[Seen]:
        """Record refusals that waited for the end of their session."""
        out: list[Seen] = []
        for (entry, queue_id, told, number, read), verdict in judged:
            if verdict is not Verdict.STRANGER:
                if verdict is Verdict.OURS or self._is_user(told):
                    out += self._recorded(entry, queue_id, told, SUBMITTED, None, number)
                    continue
                if verdict is Verdict.UNKNOWN:
                    self._tally.kinds["unfinished"] += 1
                    continue
            self._guessed(entry, told)
            waited = self.sessions.now - read
            found = self._recorded(entry, queue_id, told, INBOUND, None)
            out += [replace(seen, waited=waited) for seen in found] if waited else found
        return out

    def _is_user(self, told: Refusal) -> bool:
        return self._guessing.is_user(read_client(told.peer).address)

    def _guessed(self, entry: Entry, told: Refusal) -> None:
        """Remember that somebody tried a recipient that does not exist."""
        if told.unknown_user and told.recipient:
            client = read_client(told.peer).address
            if client is not None:
                to = address.parse(told.recipient)
                self._guessing.refused(entry.at, to, client, bounce=not told.sender)

    def _recorded(
        self,
        entry: Entry,
        queue_id: str,
        told: Refusal,
        whose: Ownership,
        found: Open | None,
        number: int = 0,
    ) -> Iterable[Seen]:
        """The event of this refusal, which ends the message `found`. `number`: see `Held`."""
        client = read_client(told.peer, told.helo)
        if told.stage == "CONTENT" and found is not None and found.arrived:
            client, whose = found.client, found.whose  # the line holds text of the message itself
        recipients = {told.recipient: False} if told.recipient else {}
        fresh = Open(entry.at, True, True, told.sender, client, whose)
        if found is not None:
            del self._under_way[entry.host, queue_id]
            fresh.at, fresh.dkim, fresh.message_id = found.at, found.dkim, found.message_id
            fresh.reinjected = found.reinjected
            if found.whose.direction is not Direction.INBOUND:
                fresh.whose = found.whose
            recipients = found.recipients | recipients
        fresh.recipients = recipients
        if fresh.whose.direction is Direction.INBOUND:
            name = line_key("postfix", f"{entry.at} {entry.host} {entry.pid} {entry.text}")
        elif number:
            name = f"postfix:{entry.host}:{entry.pid}:session:{entry.at}:{number}"
        else:
            prefix = f"postfix:{entry.host}:{entry.pid}"
            name = self.ordinals.key(prefix, entry.at, self.clock)
        kind = "rcpt" if told.stage == "RCPT" and found is None else "message"
        queued_as = None if queue_id == "NOQUEUE" else queue_id
        return tell(self._tally, queued_as, fresh, told.decision, name, kind)

    def session(self, entry: Entry) -> list[Seen]:
        """The beginning or the end of a session that had a login or a refusal."""
        user, judged = self.sessions.line(entry)
        if user is not None:
            self.user(entry.at, read_client(user), "")
        return self.judged(judged)

    def user(self, at: float, client: Client, name: str) -> None:
        """This client has logged in with success, as `name` ("": not known). `at`: Unix seconds."""
        if client.address is not None:
            self._guessing.succeeded(at, name, client_prefix(client.address))
