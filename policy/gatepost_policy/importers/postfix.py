"""Read Postfix's mail log: messages, refused recipients, and OpenDKIM's results for them.

How it works: the lines of one message share host and queue id, from `client=` (smtpd) or `uid=`
(pickup) through cleanup, qmgr and the delivery agents to `removed`. A message is given when it is
removed or refused at its end, or when the log ends. The recipient is the one that the client named
(`orig_to=` where it was rewritten). A recipient refused before there was a queue id is an event
of its own.

Privacy: a message with `sasl_username=`, or from a client in our own networks, a submission or
smtps service, pickup or bounce is ours: it is only counted, and nothing else of it is kept.

Limits: a message that a content filter hands back has two queue ids; the second one, which names
the first (`orig_queue_id=`), is left out. Queue ids come again: the key also has the second of the
arrival. A refusal of Postfix 3.7 names no login (of 3.10 it does), so it waits for the end of its
session (`postfix_sessions`).
"""

from collections.abc import Iterable, Iterator

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers import login_lines, syslog
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import (
    ACCEPTED,
    MAX_OPEN,
    STILL_OPEN_S,
    Tally,
)
from gatepost_policy.importers.guessing import Guessing
from gatepost_policy.importers.opendkim import Signatures
from gatepost_policy.importers.postfix_line import (
    AGENTS,
    CLIENT,
    DELIVERED_TO,
    EXPIRED,
    QUEUE_ID,
    QUEUED,
    QUEUED_AS,
    is_postfix,
    named,
    read_client,
)
from gatepost_policy.importers.postfix_open import Open, tell
from gatepost_policy.importers.postfix_owners import Owners
from gatepost_policy.importers.postfix_proxy import Proxied
from gatepost_policy.importers.postfix_refusals import MAX_REFUSAL, Refusals
from gatepost_policy.importers.syslog import Entry, read_line
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Family,
    Source,
)
from gatepost_policy.rules.whose_mail import LOCAL, Ownership

_SESSION = ("connect from ", "disconnect from ")
# How long a message from this host waits for the line that may show that it was a second pass.
HELD_S = 60.0
MAX_HELD = 1000


class Postfix:
    """The importer. Give it the logs in order of time by `lines`, then call `finish`."""

    source = Source.POSTFIX_LOG

    def __init__(self, ours: Submission | None = None) -> None:
        self.tally = Tally()
        self.max_open = MAX_OPEN  # most unfinished messages
        self.ours = ours or Submission()
        self.under_way: dict[tuple[str, str], Open] = {}
        self.held: dict[tuple[str, str], Open] = {}
        self.last = 0.0
        self.guessing = Guessing(self.ours)
        self._proxied = Proxied()
        self._owners = Owners(self.ours)
        self.refusals = Refusals(self.tally, self.under_way, self.guessing, self._owners)
        self.ordinals = self.refusals.ordinals

    def lines(self, lines: list[str], clock: Clock) -> Iterator[Seen]:
        """The messages and refusals that are complete after these lines."""
        tally = self.tally
        self.refusals.clock = clock
        for line in lines:
            tally.lines += 1
            entry = read_line(line, clock)
            if entry is not None:
                if entry.at > self.last:
                    self.last = entry.at
                if self.held or len(self.under_way) > self.max_open:
                    yield from self._waited()
                if complete := self._read(entry):
                    yield from complete
            elif line.strip():
                tally.unparsed(line)
            else:
                tally.blank += 1

    def entries(self, entries: Iterable[Entry | None]) -> Iterator[Seen]:
        """`lines` for the entries of a journal export (None: an entry that could not be read)."""
        for entry in entries:
            self.tally.lines += 1
            if entry is None:
                self.tally.unparsed("(a journal entry without time, identifier or message)")
            else:
                self.last = max(self.last, entry.at)
                yield from self._waited()
                yield from self._read(entry)

    def first_time(self, lines: list[str], clock: Clock) -> float | None:
        """Unix seconds of the first of these lines, to put rotated files in order, else None."""
        return syslog.first_time(lines, clock)

    def quiet(self, now: float, *, last: bool) -> list[Seen]:
        """Call it where a log is followed and all its lines have been read: what need not wait any
        longer. `now`: Unix seconds; `last`: nobody will look again soon."""
        return self.refusals.judged(self.refusals.sessions.quiet(now, last=last))

    def finish(self) -> Iterator[Seen]:
        """The messages that are still unfinished when the last log ends."""
        yield from self.refusals.judged(self.refusals.sessions.rest())
        yield from self._released(None)
        for key in list(self.under_way):
            entry = self.under_way.pop(key)
            known = entry.queued and entry.recipients
            if not known and self.last - entry.at < STILL_OPEN_S:
                # If it were stored without recipients now, a later import could not add them.
                self.tally.kinds["unfinished"] += 1
            else:
                yield from self._leave(key, entry)

    def _waited(self) -> Iterator[Seen]:
        """What need not wait any longer."""
        yield from self._released(self.last - HELD_S)
        if len(self.under_way) > self.max_open:
            oldest = next(iter(self.under_way))  # too many: recorded without waiting for more
            yield from self._leave(oldest, self.under_way.pop(oldest))

    def _read(self, entry: Entry) -> Iterable[Seen]:
        """What this line completes. No generator: most lines complete nothing."""
        _, _, program, _, line = entry
        match = QUEUE_ID.match(line)
        if match is None:
            # A third of all lines, and nothing in them is read.
            if line.startswith(_SESSION) and is_postfix(program):
                self.tally.kinds["other"] += 1
                return self.refusals.session(entry) if self.refusals.sessions.knows(entry) else ()
            if (proxied := self._proxied.refusal(entry)) is not None:
                return self.refusals.refused(entry, "NOQUEUE", proxied.text, proxied.ours)
            self._not_ours(program, entry)
            return ()
        queue_id, text = match.groups()
        if program.startswith("opendkim"):
            self._opendkim((entry.host, queue_id), text)
            return ()
        service, submission = named(program)
        if service == "smtpd" or service == "postscreen":
            return self._smtpd(entry, queue_id, text, submission)
        if service == "cleanup":
            return self._cleanup(entry, queue_id, text)
        if service == "qmgr":
            return self._qmgr(entry, queue_id, text)
        if service in AGENTS:
            self._delivery((entry.host, queue_id), text)
        elif service == "pickup" and text.startswith("uid="):
            return self._arrive(entry, queue_id, Client(family=Family.UNIX), LOCAL)
        elif service.endswith(".service"):
            self.tally.unparsed(entry.text)  # journalctl -o with-unit: the program is missing
        else:
            self.tally.kinds["other"] += 1
        return ()

    def _not_ours(self, program: str, entry: Entry) -> None:
        text = entry.text
        told = None
        if is_postfix(program):
            if text.startswith("warning: ") and " SASL " in text:
                told = login_lines.postfix(text[:MAX_REFUSAL])
                if told is not None:
                    self.refusals.sessions.takes_logins(entry)
        elif program in login_lines.DOVECOT:
            told = login_lines.dovecot(program, text)
        if told is not None:
            self.guessing.login(entry.at, told)
            self.tally.kinds["logins"] += 1
        elif is_postfix(program) or program.startswith("opendkim"):
            self.tally.kinds["other"] += 1
        else:
            # A syslog file also holds lines of other programs; they are not "unparsed".
            self.tally.kinds["other programs"] += 1

    def _smtpd(self, entry: Entry, queue_id: str, text: str, submission: bool) -> Iterable[Seen]:
        if text.startswith("client=") and (match := CLIENT.match(text)):
            peer, logged_in, known_before, forwarded = match.groups()
            if logged_in is not None:
                known_before = forwarded = None  # they may be part of the login's text
            if queue_id == "NOQUEUE":  # with smtpd_proxy_filter only the second smtpd queues it
                self._proxied.began(entry, forwarded or peer, logged_in=logged_in is not None)
                self.tally.kinds["other"] += 1
                return ()
            came_from = forwarded if forwarded and not known_before else peer
            client = read_client(came_from)
            whose = self._owners.of(came_from, submission or logged_in is not None)
            if logged_in is not None:
                self.refusals.sessions.takes_logins(entry, proxied=" sasl_method=XCLIENT," in text)
                self.refusals.user(entry.at, client, login_lines.postfix_name(text))
            before = self._arrive(entry, queue_id, client, whose)
            if known_before is not None:
                self.under_way[entry.host, queue_id].reinjected = True
            return before
        return self.refusals.refused(entry, queue_id, text, submission)

    def _arrive(
        self, entry: Entry, queue_id: str, client: Client, whose: Ownership
    ) -> Iterable[Seen]:
        key = (entry.host, queue_id)
        before = self.under_way.pop(key, None)
        fresh = self._open(key, entry.at)
        fresh.arrived, fresh.client, fresh.whose = True, client, whose
        return () if before is None else self._leave(key, before)  # the id is used again

    def _open(self, key: tuple[str, str], at: float) -> Open:
        if key not in self.under_way:
            self.under_way[key] = Open(at)
        return self.under_way[key]

    def _cleanup(self, entry: Entry, queue_id: str, text: str) -> Iterable[Seen]:
        if not text.startswith("message-id="):
            return self.refusals.refused(entry, queue_id, text, False)
        opened = self._open((entry.host, queue_id), entry.at)
        opened.message_id = text[11:].strip("<> ") or None
        return ()

    def _qmgr(self, entry: Entry, queue_id: str, text: str) -> Iterable[Seen]:
        key = (entry.host, queue_id)
        found = self.under_way.get(key)
        if match := QUEUED.match(text):
            found = self._open(key, entry.at)
            found.queued, found.sender = True, match.group(1)
            found.size = int(match.group(2)[:18])
        elif text.startswith("removed"):
            if found is not None:
                del self.under_way[key]
                if found.whose is LOCAL and not found.reinjected:
                    # A later line may show that it was the second pass of another message.
                    self.held[key] = found
                    found.held = entry.at
                else:
                    return self._leave(key, found)
        else:
            if found is not None and EXPIRED.match(text):
                found.fate.expired(found.recipients)
            self.tally.kinds["other"] += 1
        return ()

    def _delivery(self, key: tuple[str, str], text: str) -> None:
        match = DELIVERED_TO.match(text)
        if not match:
            self.tally.kinds["other"] += 1
            return
        self.tally.kinds["delivery"] += 1
        to, bare, original, bare_original, relay = match.groups()
        found = self.under_way.get(key)
        if found is not None:
            name = original or bare_original or to or bare or ""
            outcome = text.find(", status=", match.end()) + 9
            if text.startswith("sent", outcome):
                found.fate.sent(found.recipients, name)
            elif text.startswith("bounced", outcome):
                found.fate.failed(found.recipients, name)
            else:
                found.recipients.setdefault(name, True)
        if relay and " queued as " in text and (again := QUEUED_AS.search(text)):
            self._handed_on((key[0], again.group(1)), relay)

    def _handed_on(self, key: tuple[str, str], relay: str | None) -> None:
        """A content filter of ours has queued a message again as `key`.

        Believed only of a filter in our own networks: any other server could name any queue id.
        """
        peer = f"x[{relay}]"
        if (
            read_client(peer).address is None
            or self._owners.of(peer, False).direction is Direction.INBOUND
        ):
            return
        again = self.under_way.get(key) or self.held.get(key)
        if again is not None and again.whose.direction is not Direction.INBOUND:
            again.reinjected = True

    def _released(self, until: float | None) -> Iterator[Seen]:
        """The held messages that left the queue before `until` (Unix seconds; None: all)."""
        for key, entry in list(self.held.items()):
            if until is not None and entry.held > until and len(self.held) < MAX_HELD:
                return
            del self.held[key]
            yield from self._leave(key, entry)

    def _opendkim(self, key: tuple[str, str], text: str) -> None:
        found = self.under_way.get(key)
        if found is None:
            self.tally.kinds["other"] += 1
            return
        if found.dkim is None:
            found.dkim = Signatures()
        self.tally.kinds["dkim" if found.dkim.read(text) else "other"] += 1

    def _leave(self, key: tuple[str, str], entry: Open) -> Iterable[Seen]:
        """Give the finished message `entry`: removed from the queue, or no line will follow."""
        if not entry.arrived and entry.sender:
            self.tally.kinds["without arrival"] += 1  # it had arrived before the log began
            return ()
        decision = ACCEPTED
        if entry.whose.direction is Direction.INBOUND:
            decision = entry.fate.decision(entry.recipients)
        if not entry.queued:
            if not entry.refusal:
                self.tally.kinds["unfinished"] += 1  # the client went away
                return ()
            decision = entry.refusal
        name = f"postfix:{key[0]}:{key[1]}:{int(entry.at)}"
        return tell(self.tally, key[1], entry, decision, name, "message")
