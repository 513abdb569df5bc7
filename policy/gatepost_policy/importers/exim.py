"""Read Exim's main log (and reject log): messages, refused recipients, DKIM outcomes.

How it works: the lines of one message share its id. DKIM lines come first, then `<=` (arrival),
then deliveries, then `Completed`. A message is given when it is completed or refused, or when the
log ends. The recipient is the address that the sender used: the one in angle brackets after `=>`.
DKIM results are those of the log: an rsa-sha1 signature whose "verification succeeded" is a pass.

Understood: file times with and without milliseconds and zone, syslog and journal prefixes, old
and new message ids, every log_selector field, DKIM lines and the DKIM= of the arrival line.

Limits: mail refused before it had an id is one event for each recipient. Of the reject log's header
lines nothing is read. Where Exim takes any HELO, this is known only once an odd one was seen.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers import login_lines
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import (
    ACCEPTED,
    DISCARDED,
    MAX_OPEN,
    STILL_OPEN_S,
    Ordinals,
    Tally,
    counted,
    line_key,
    refused,
)
from gatepost_policy.importers.exim_delivery import read_recipient
from gatepost_policy.importers.exim_dkim import passed, read_dkim
from gatepost_policy.importers.exim_fields import read_arrival, read_rejection
from gatepost_policy.importers.exim_host import is_free
from gatepost_policy.importers.exim_line import LINE, PRDR, PREFIX, REST, SPLIT, TOPIC, prefix_time
from gatepost_policy.importers.fate import Fate
from gatepost_policy.importers.guessing import Guessing
from gatepost_policy.importers.syslog import Entry, as_line, export_time
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Decision
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Recipient,
    Signature,
    Source,
    client_prefix,
)
from gatepost_policy.rules.whose_mail import INBOUND, LOCAL, LOOPBACK, Ownership, whose_mail

DELIVERED = ("=>", "->", ">>", "*>")
UNDELIVERED = ("**", "==")
# Longer lines are cut, so that a hostile one does not keep a pattern busy; real ones are shorter.
MAX_REFUSAL = 4096
MAX_ENTRY = 1 << 16
MAX_SPLIT = 1000
# Stages at which a whole message is refused. At earlier ones there is no recipient yet.
WHOLE = ("DATA", "after DATA", "during MIME ACL checks", "DKIM", "PRDR")


@dataclass(slots=True)
class _Split:
    """A log entry that Exim cut into pieces for syslog."""

    number: int  # of the newest piece
    count: int
    text: str
    ended: bool = False  # the entry's first line is complete; further lines are ignored


@dataclass(slots=True)
class Open:
    """An unfinished message."""

    at: float | None = None  # Unix seconds of its arrival line
    sender: str = ""
    client: Client = Client()
    whose: Ownership = INBOUND
    size: int | None = None
    message_id: str | None = None
    recipients: dict[str, bool] = field(default_factory=dict)  # True: accepted
    listed: bool = False  # the arrival line named the recipients
    signatures: list[Signature] = field(default_factory=list)
    dkim_lines: set[str] = field(default_factory=set)
    fate: Fate = field(default_factory=Fate)


class Exim:
    """The importer. Give it the logs in order of time by `lines`, then call `finish`."""

    source = Source.EXIM_LOG

    def __init__(self, ours: Submission | None = None) -> None:
        self.tally = Tally()
        self.max_open = MAX_OPEN  # most unfinished messages
        self.ours = ours or Submission()
        self.under_way: dict[str, Open] = {}
        self.last = 0.0
        self.ordinals = Ordinals()
        self.guessing = Guessing(self.ours)
        self.free_helo = False  # a HELO was seen that no Exim takes by default
        self._clock: Clock | None = None  # identifies the log that is being read
        self._detail = False  # after a refusal, the reject log shows the message's header
        self._split: dict[str, _Split] = {}  # by process id

    def lines(self, lines: list[str], clock: Clock) -> Iterator[Seen]:
        """The messages and refusals that are complete after these lines."""
        tally = self.tally
        self._clock = clock
        for line in lines:
            tally.lines += 1
            match = LINE.match(line)
            if match:
                minute, seconds, offset, queue_id, text = match.groups()
                at = clock.iso(minute, seconds, offset)
                # "DATE host exim[1]: ID ..." (syslog) also looks like Exim's own line without id.
                if at is not None and (queue_id is not None or "exim[" not in text):
                    yield from self._event(at, queue_id, text, line)
                    continue
            yield from self._prefixed(line, clock)

    def entries(self, entries: Iterable[Entry | None]) -> Iterator[Seen]:
        """`lines` for the entries of a journal export (None: an entry that could not be read).

        The time is the journal's, also where Exim wrote its own.
        """
        clock = Clock(UTC, 0.0)
        for entry in entries:
            line = "(a journal entry without time, identifier or message)"
            if entry is not None:
                timed = LINE.match(entry.text)
                text = (
                    entry.text
                    if timed is None
                    else entry.text[timed.end(3 if timed[3] else 2) + 1 :]
                )
                line = as_line(entry._replace(text=text))
            yield from self.lines([line], clock)

    def first_time(self, lines: list[str], clock: Clock) -> float | None:
        """Unix seconds of the first of these lines, to put rotated files in order; None where no
        line has a time."""
        for line in lines:
            if match := LINE.match(line):
                at = clock.iso(*match.group(1, 2, 3))
                if at is not None:
                    return at
            if (found := PREFIX.match(line)) and (at := prefix_time(found, clock)) is not None:
                return at
            if (at := export_time(line)) is not None:
                return at
        return None

    def finish(self) -> Iterator[Seen]:
        """The messages that are still unfinished when the last log ends."""
        for queue_id in list(self.under_way):
            entry = self.under_way.pop(queue_id)
            if entry.at is None:
                self.tally.kinds["without arrival"] += 1
            elif not entry.recipients and self.last - entry.at < STILL_OPEN_S:
                # If it were stored without recipients now, a later import could not add them.
                self.tally.kinds["unfinished"] += 1
            else:
                yield self._message(queue_id, entry, ACCEPTED)

    def _prefixed(self, line: str, clock: Clock) -> Iterator[Seen]:
        found = PREFIX.match(line)
        if not found:
            if line.startswith("-----"):
                self._detail = False
            elif self._detail:
                self.tally.kinds["other"] += 1
            elif line.strip():
                self.tally.unparsed(line)
            else:
                self.tally.blank += 1
            return
        rest: str = found["rest"]
        if piece := SPLIT.match(rest):
            whole = self._joined(found["pid"] or "", piece)
            if whole is None:
                self.tally.kinds["split"] += 1
                return
            rest = whole
            line = f"{line[: found.start('rest')]}{rest}"
        inner = LINE.match(rest)
        if inner:
            minute, seconds, offset, queue_id, text = inner.groups()
            at = clock.iso(minute, seconds, offset)
        else:
            at = prefix_time(found, clock)
            both = REST.match(rest)
            assert both is not None  # it matches any text
            queue_id, text = both.groups()
        if at is not None:
            yield from self._event(at, queue_id, text, line)
        else:
            self.tally.unparsed(line)

    def _joined(self, pid: str, piece: re.Match[str]) -> str | None:
        """The whole entry where this is its last piece, else None.

        Exim cuts an entry that is too long for syslog: "[1\\3] ", "[2\\3] " and so on. "[2/3] "
        begins a new line of the entry: header fields of a refused message, which are not needed.
        """
        number, mark, count, text = int(piece[1]), piece[2], int(piece[3]), piece[4]
        if number == 1:
            if len(self._split) >= MAX_SPLIT:
                self._split.pop(next(iter(self._split)))
            self._split[pid] = _Split(1, count, text)
        else:
            begun = self._split.get(pid)
            if begun is None or (begun.count, begun.number) != (count, number - 1):
                self._split.pop(pid, None)
                return None
            begun.number = number
            begun.ended = begun.ended or mark == "/"
            if not begun.ended and len(begun.text) < MAX_ENTRY:
                begun.text += text
        begun = self._split[pid]
        return self._split.pop(pid).text if begun.number == begun.count else None

    def _event(self, at: float, queue_id: str | None, text: str, line: str) -> Iterator[Seen]:
        self.last = max(self.last, at)
        if len(self.under_way) > self.max_open:
            yield from self._give_up()
        refusal = "rejected " in text or "discarded " in text
        self._detail = refusal
        head = text[:2]
        if queue_id is None:
            if "authenticator failed for " in text and (told := login_lines.exim(text)):
                self.guessing.login(at, told)
                self.tally.kinds["logins"] += 1
            elif refusal:
                yield from self._refusal(at, None, text, line)
            else:
                self.tally.kinds["other"] += 1
        elif head == "<=":
            yield from self._arrival(at, queue_id, text)
        elif head in DELIVERED or head in UNDELIVERED:
            self.tally.kinds["delivery"] += 1
            # A cut-through delivery (>>) is logged before the arrival.
            entry = self._entry(queue_id) if head == ">>" else self.under_way.get(queue_id)
            if entry is not None:
                self._outcome(entry, head, read_recipient(text[3:]))
        elif text.startswith("Completed"):
            entry = self.under_way.pop(queue_id, None)
            if entry is not None and entry.at is not None:
                yield self._message(queue_id, entry, self._decision(entry))
        elif text.startswith("DKIM:"):
            signature = read_dkim(text)
            if signature is None:
                self.tally.kinds["other"] += 1
                return
            self.tally.kinds["dkim"] += 1
            entry = self._entry(queue_id)
            # acl_smtp_dkim runs for d= and again for i=, and each run logs the same line.
            if text not in entry.dkim_lines:
                entry.dkim_lines.add(text)
                entry.signatures.append(signature)
        elif (refused_one := PRDR.match(text)) and queue_id in self.under_way:
            self.tally.kinds["refused"] += 1
            self.under_way[queue_id].recipients[refused_one.group(1)] = False
        elif refusal:
            yield from self._refusal(at, queue_id, text, line)
        else:
            self.tally.kinds["other"] += 1

    def _give_up(self) -> Iterator[Seen]:
        """The oldest unfinished message, as far as it is known: too many are under way."""
        queue_id = next(iter(self.under_way))
        entry = self.under_way.pop(queue_id)
        if entry.at is None:
            self.tally.kinds["without arrival"] += 1
        else:
            yield self._message(queue_id, entry, self._decision(entry))

    def _decision(self, entry: Open) -> Decision:
        if entry.whose.direction is not Direction.INBOUND:
            return ACCEPTED
        return entry.fate.decision(entry.recipients)

    def _outcome(self, entry: Open, mark: str, name: str | None) -> None:
        """A delivery line. Its recipient is added even where the arrival line named recipients: a
        client can write a false list there, in a Message-ID with blanks."""
        if not name:
            return
        if entry.listed and name not in entry.recipients:
            name = next((n for n in entry.recipients if n.lower() == name.lower()), name)
        if mark == "**":
            entry.fate.failed(entry.recipients, name)
        elif mark == "==":
            entry.recipients.setdefault(name, True)
        else:
            entry.fate.sent(entry.recipients, name)

    def _entry(self, queue_id: str) -> Open:
        entry = self.under_way.get(queue_id)
        if entry is None:
            entry = self.under_way[queue_id] = Open()
        return entry

    def _arrival(self, at: float, queue_id: str, text: str) -> Iterator[Seen]:
        entry = self._entry(queue_id)
        if entry.at is not None:
            # The same id again is another message: logs of several hosts are in one file.
            yield self._message(queue_id, self.under_way.pop(queue_id), ACCEPTED)
            entry = self._entry(queue_id)
        entry.at = at
        arrival = read_arrival(text, self.free_helo)
        self.free_helo = self.free_helo or is_free(arrival.client.helo)
        entry.sender, entry.client = arrival.sender, arrival.client
        entry.whose = self._whose(arrival.client, arrival.authenticated)
        if arrival.authenticated and arrival.client.address is not None:
            prefix = client_prefix(arrival.client.address)
            self.guessing.succeeded(at, login_lines.exim_name(text), prefix)
        entry.size = arrival.size
        entry.message_id = arrival.message_id
        if arrival.recipients:
            entry.listed = True
            refused_before = entry.recipients
            entry.recipients = {one: refused_before.get(one, True) for one in arrival.recipients}
        entry.signatures += passed(arrival.signers, entry.signatures)

    def _whose(self, client: Client, authenticated: bool) -> Ownership:
        found = whose_mail(
            self.ours,
            address=client.address,
            local=client.family is Family.UNIX,
            submitted=authenticated,
        )
        # Mail of a program on this host is only counted: a log does not show whose it was.
        return LOCAL if found is LOOPBACK else found

    def _refusal(self, at: float, queue_id: str | None, text: str, line: str) -> Iterator[Seen]:
        found = read_rejection(TOPIC.sub("", text[:MAX_REFUSAL]), self.free_helo)
        if found is None or not (
            found.stage == "RCPT" or found.stage in WHOLE or found.stage.startswith(("by ", "bec"))
        ):
            self.tally.kinds["other"] += 1
            return
        decision = DISCARDED if found.discarded else refused("temp" if found.temporary else "5")
        entry = self.under_way.get(queue_id) if queue_id else None
        if entry is not None and found.stage == "RCPT" and entry.at is not None:
            self.tally.kinds["other"] += 1  # about a message that has arrived
            return
        one, client = found.recipient, found.client
        self.free_helo = self.free_helo or is_free(client.helo)
        if found.unknown_user and one and client.address is not None and not found.authenticated:
            to = address.parse(one)
            self.guessing.refused(at, to, client.address, bounce=not found.sender)
        taken = self.under_way.pop(queue_id) if queue_id and entry is not None else None
        whose = self._whose(client, found.authenticated)
        facts = Facts(
            at=at,
            source=self.source,
            direction=whose.direction,
            client=client,
            trusted_relay=whose.trusted_relay,
            queue_id=queue_id,
            sender=address.parse(found.sender),
            recipients=(Recipient(address.parse(one), accepted=False),) if one else (),
            signatures=tuple(taken.signatures) if taken else (),
        )
        self.tally.kinds["refused"] += 1
        if facts.direction is not Direction.INBOUND:
            yield counted(facts, decision, self.ordinals.key("exim", at, self._clock))
        else:
            kind = "rcpt" if one and queue_id is None else "message"
            yield Seen(kind, facts, decision, key=line_key("exim", line))

    def _message(self, queue_id: str, entry: Open, decision: Decision) -> Seen:
        facts = Facts(
            at=entry.at or 0.0,
            source=self.source,
            direction=entry.whose.direction,
            client=entry.client,
            trusted_relay=entry.whose.trusted_relay,
            queue_id=queue_id,
            sender=address.parse(entry.sender),
            recipients=tuple(
                Recipient(address.parse(name), accepted)
                for name, accepted in entry.recipients.items()
            ),
            size=entry.size,
            message_id=entry.message_id,
            signatures=tuple(entry.signatures),
        )
        # An id is unique on one host; with the size, messages of two hosts differ too.
        key = f"exim:{queue_id}:{entry.size if entry.size is not None else '-'}"
        self.tally.kinds[facts.direction.value] += 1
        if facts.direction is not Direction.INBOUND:
            return counted(facts, decision, key)
        return Seen("message", facts, decision, key=key)
