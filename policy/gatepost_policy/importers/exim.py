"""Read Exim's main log (and reject log): messages, refused recipients, DKIM outcomes.

How it works: the lines of one message share its id. DKIM lines come first, then `<=` (arrival),
then deliveries, then `Completed`. A message comes out when it is completed, refused, or when the
log ends. The recipient is the address the sender used: the one in angle brackets after `=>`.
Outcomes are what the log said: an rsa-sha1 signature whose "verification succeeded" is a pass.

Understood: file times with and without milliseconds and zone, syslog and journal prefixes, old
and new message ids, every log_selector field, DKIM lines of all releases and the DKIM= of the
arrival line.

Limits: mail refused before it had an id is one event a recipient; a recipient list that only the
rejected header lines of the reject log hold is not read.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import (
    ACCEPTED,
    MAX_OPEN,
    STILL_OPEN_S,
    Ordinals,
    Tally,
    counted,
    line_key,
    refused,
)
from gatepost_policy.importers.exim_dkim import passed, read_dkim
from gatepost_policy.importers.exim_line import (
    AUTH,
    AUTHENTICATED,
    DKIM_PASSED,
    FOR,
    LINE,
    MESSAGE_ID,
    PREFIX,
    PROTOCOL,
    REJECTED,
    REST,
    SENDER,
    SIZE,
    TOPIC,
    prefix_time,
    read_client,
    read_recipient,
)
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
)
from gatepost_policy.rules.whose_mail import INBOUND, Ownership, whose_mail

DELIVERED = ("=>", "->", ">>", "*>")
UNDELIVERED = ("**", "==")
# A hostile line must not keep a pattern busy; Exim's own are far shorter.
MAX_REFUSAL = 4096


@dataclass(slots=True)
class _Open:
    """A message under way."""

    at: float | None = None  # of its arrival line
    sender: str = ""
    client: Client = Client()
    whose: Ownership = INBOUND
    size: int | None = None
    message_id: str | None = None
    recipients: dict[str, None] = field(default_factory=dict)
    listed: bool = False  # the arrival line named the recipients
    signatures: list[Signature] = field(default_factory=list)


class Exim:
    """The importer. Feed it logs in order of time, one `lines` a file, then `finish`."""

    source = Source.EXIM_LOG

    def __init__(self, ours: Submission | None = None) -> None:
        self.tally = Tally()
        self._ours = ours or Submission()
        self._open: dict[str, _Open] = {}
        self._last = 0.0
        self._ordinals = Ordinals()
        self._clock: Clock | None = None  # stands for the log that is being read
        self._detail = False  # below a refusal, the reject log shows the header

    def lines(self, lines: list[str], clock: Clock) -> Iterator[Seen]:
        """What is complete after these lines."""
        tally = self.tally
        self._clock = clock
        for line in lines:
            tally.lines += 1
            match = LINE.match(line)
            if match:
                minute, seconds, offset, queue_id, text = match.groups()
                at = clock.iso(minute, seconds, offset)
                # "DATE host exim[1]: ID ..." looks like a line of Exim's own without an id.
                if at is not None and (queue_id is not None or "exim[" not in text):
                    yield from self._event(at, queue_id, text, line)
                    continue
            yield from self._prefixed(line, clock)

    def first_time(self, lines: list[str], clock: Clock) -> float | None:
        """When the first of these lines was written, to put rotated files in order."""
        for line in lines:
            if match := LINE.match(line):
                at = clock.iso(*match.group(1, 2, 3))
                if at is not None:
                    return at
            if (found := PREFIX.match(line)) and (at := prefix_time(found, clock)) is not None:
                return at
        return None

    def finish(self) -> Iterator[Seen]:
        """The messages that are still under way when the last log ends."""
        for queue_id in list(self._open):
            entry = self._open.pop(queue_id)
            if entry.at is None:
                self.tally.kinds["without arrival"] += 1
            elif not entry.recipients and self._last - entry.at < STILL_OPEN_S:
                # Told without its recipients now, it could not be completed by a later import.
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
            return
        rest = found["rest"]
        inner = LINE.match(rest)
        if inner:
            minute, seconds, offset, queue_id, text = inner.groups()
            at = clock.iso(minute, seconds, offset)
        else:
            at = prefix_time(found, clock)
            both = REST.match(rest)
            assert both is not None  # it matches any text
            queue_id, text = both.groups()
        if at is None:
            self.tally.unparsed(line)
            return
        yield from self._event(at, queue_id, text, line)

    def _event(self, at: float, queue_id: str | None, text: str, line: str) -> Iterator[Seen]:
        self._last = max(self._last, at)
        self._detail = "rejected " in text
        head = text[:2]
        if queue_id is None:
            if "rejected " in text:
                yield from self._refusal(at, None, text, line)
            else:
                self.tally.kinds["other"] += 1
        elif head == "<=":
            yield from self._arrival(at, queue_id, text)
        elif head in DELIVERED or head in UNDELIVERED:
            self.tally.kinds["delivery"] += 1
            # A cut-through delivery is logged before its message's arrival.
            entry = self._entry(queue_id) if head == ">>" else self._open.get(queue_id)
            if entry is not None and not entry.listed:
                recipient = read_recipient(text[3:])
                if recipient:
                    entry.recipients.setdefault(recipient)
        elif text.startswith("Completed"):
            entry = self._open.pop(queue_id, None)
            if entry is not None and entry.at is not None:
                yield self._message(queue_id, entry, ACCEPTED)
        elif text.startswith("DKIM:"):
            signature = read_dkim(text)
            if signature is None:
                self.tally.kinds["other"] += 1
                return
            self.tally.kinds["dkim"] += 1
            self._entry(queue_id).signatures.append(signature)
        elif "rejected " in text:
            yield from self._refusal(at, queue_id, text, line)
        else:
            self.tally.kinds["other"] += 1

    def _entry(self, queue_id: str) -> _Open:
        entry = self._open.get(queue_id)
        if entry is None:
            if len(self._open) >= MAX_OPEN:
                # Lines of a message that never arrived: those without an arrival go first.
                oldest = next(iter(self._open))
                del self._open[oldest]
                self.tally.kinds["unfinished"] += 1
            entry = self._open[queue_id] = _Open()
        return entry

    def _arrival(self, at: float, queue_id: str, text: str) -> Iterator[Seen]:
        entry = self._entry(queue_id)
        if entry.at is not None:
            # An id that comes again is another message (logs of several hosts in one file).
            yield self._message(queue_id, self._open.pop(queue_id), ACCEPTED)
            entry = self._entry(queue_id)
        entry.at = at
        text = TOPIC.sub("", text)
        named_sender = SENDER.match(text, 3)
        assert named_sender is not None  # it matches nothing as well
        sender, rest = named_sender.group(), text[named_sender.end() :]
        entry.sender = sender.strip("<>")
        protocol = PROTOCOL.search(rest)
        word = protocol.group(1) if protocol else ""
        entry.client = read_client(rest)
        entry.whose = self._whose(entry.client, word, bool(AUTH.search(rest)))
        if size := SIZE.search(rest):
            entry.size = int(size.group(1)[:18])
        if message_id := MESSAGE_ID.search(rest):
            entry.message_id = message_id.group(1)
        if named := FOR.search(rest):
            entry.listed = True
            entry.recipients = dict.fromkeys(named.group(1).split())
        if found := DKIM_PASSED.search(rest):
            entry.signatures += passed(found.group(1), entry.signatures)

    def _whose(self, client: Client, protocol: str, authenticated: bool) -> Ownership:
        return whose_mail(
            self._ours,
            address=client.address,
            local=client.family is Family.UNIX,
            submitted=authenticated or AUTHENTICATED.search(protocol) is not None,
        )

    def _refusal(self, at: float, queue_id: str | None, text: str, line: str) -> Iterator[Seen]:
        text = text[:MAX_REFUSAL]
        match = REJECTED.match(TOPIC.sub("", text))
        if not match:
            self.tally.kinds["other"] += 1
            return
        sender, temporary, stage, recipient = match.groups()
        client = read_client(" " + text)
        decision = refused("temp" if temporary else "5")
        authenticated = bool(AUTH.search(text[: match.start(3)]))
        entry = self._open.get(queue_id) if queue_id else None
        if entry is not None and stage == "RCPT" and entry.at is not None:
            self.tally.kinds["other"] += 1  # one more line about a message that is known
            return
        one = recipient.strip("<>") if recipient and stage == "RCPT" else None
        taken = self._open.pop(queue_id) if queue_id and entry is not None else None
        whose = self._whose(client, "", authenticated)
        facts = Facts(
            at=at,
            source=self.source,
            direction=whose.direction,
            client=client,
            trusted_relay=whose.trusted_relay,
            queue_id=queue_id,
            sender=address.parse(sender),
            recipients=(Recipient(address.parse(one), accepted=False),) if one else (),
            signatures=tuple(taken.signatures) if taken else (),
        )
        self.tally.kinds["refused"] += 1
        if facts.direction is not Direction.INBOUND:
            yield counted(facts, decision, self._ordinals.key("exim", at, self._clock))
        else:
            kind = "rcpt" if stage == "RCPT" and queue_id is None else "message"
            yield Seen(kind, facts, decision, key=line_key("exim", line))

    def _message(self, queue_id: str, entry: _Open, decision: Decision) -> Seen:
        facts = Facts(
            at=entry.at or 0.0,
            source=self.source,
            direction=entry.whose.direction,
            client=entry.client,
            trusted_relay=entry.whose.trusted_relay,
            queue_id=queue_id,
            sender=address.parse(entry.sender),
            recipients=tuple(Recipient(address.parse(r)) for r in entry.recipients),
            size=entry.size,
            message_id=entry.message_id,
            signatures=tuple(entry.signatures),
        )
        # The id is unique on one host for ever; the size tells two hosts' messages apart.
        key = f"exim:{queue_id}:{entry.size if entry.size is not None else '-'}"
        self.tally.kinds[facts.direction.value] += 1
        if facts.direction is not Direction.INBOUND:
            return counted(facts, decision, key)
        return Seen("message", facts, decision, key=key)
