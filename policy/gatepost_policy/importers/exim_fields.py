"""The fields of Exim's arrival, delivery and rejection lines, read by Exim's own grammar. Pure.

How it works: a client chooses its HELO, envelope, Message-ID, certificate and ident, and Exim
writes them into the line beside its own words. A field therefore counts only where Exim writes
it: the line is walked from left to right, a quoted string is one unit, each key stands once, and
what names client, protocol and login stands before the size. Text that Exim does not quote
(HELO, ident, certificate name) ends where the rest of the line can be read to its end; a reading
that leaves something over is none.

Limits: where no reading fits, only what stands in fixed places is believed (sender, client and
protocol); MAX_CHOICES places are tried for the end of unquoted text.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from gatepost_policy.importers.exim_read import UNKNOWN_USER, Fields, Path, Read, shared
from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Client, Family

MAX_CHOICES = 64
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# RFC 5321 4.1.2: the local part is a dot-string or a quoted string, which may hold blanks.
_SENDER = re.compile(rf"<>|{_QUOTED}\S*|\S*")
_ID = re.compile(rf"{_QUOTED}@[^\s\"]+|[^\s\"]+")
_SUBJECT = re.compile(_QUOTED)
_HOST = re.compile(
    r"(?:([^\s(\[]\S*) )?(?:\(([^()\s]*)\) )?\[([0-9A-Fa-f.:]+)\](?::(\d+))?(?= |\Z)"
)
_HOST_NAME = re.compile(r"(?:([^\s(\[]\S*) )?\(")
_HOST_END = re.compile(r"\) \[([0-9A-Fa-f.:]+)\](?::(\d+))?(?= |\Z)")
_WORD = re.compile(r"\S+")
_KEY = re.compile(r"([A-Z][A-Z0-9]*|id)=")
_FLAG = re.compile(r"[A-Z][A-Z0-9]*[-.*]?(?= |\Z)")
_FROM = re.compile(rf"from <(?:{_QUOTED}[^<>]*|[^<>]*)>(?= |\Z)")
_ADDRESS = re.compile(rf"(?:{_QUOTED}|[^\s\"@]+)@[^\s\"]+|[^\s\"@()\[\]=]+(?= |\Z)")
_ADDRESSES = re.compile(rf"(?:{_ADDRESS.pattern})(?: (?:{_ADDRESS.pattern}))*\Z")
_AFTER_IDENT = re.compile(r" (?:I=\[|X=\S|F=\S|A=\S|rejected |temporarily |discarded )")
_PROTOCOL = re.compile(r" P=\S")
_VALUE = {"id": _ID, "T": _SUBJECT}
_CLOSING = re.compile(r'"(?= |\Z)')
# What says who brought the message and how; none of it stands behind the size.
_BEFORE_SIZE = frozenset(("H", "U", "P", "X", "CV", "DN", "SNI", "A", "I", "R"))
_AFTER_SIZE = frozenset(("DKIM", "id", "T", "RT", "Q"))
_AUTHENTICATED = re.compile(r"(?:smtp|lmtp)s?a\Z")
_NUMBER = re.compile(r"\d{1,18}\Z")

_PATH = re.compile(rf"<((?:{_QUOTED}|[^\"<>])*)>")
_STAGE = re.compile(
    r"(temporarily )?(rejected|discarded) "
    r"(RCPT|after DATA|DATA|MAIL|PREDATA|DKIM|PRDR|by local_scan\(\)|by DATA ACL|by RCPT ACL"
    r"|by \S+ ACL|by \S+|during MIME ACL checks|because all recipients were rejected by PRDR"
    r"|VRFY|EXPN|AUTH|STARTTLS|ETRN|QUIT|EHLO or HELO|connection)(?= |:|\Z)"
)
_TARGET = re.compile(rf" (?:<((?:{_QUOTED}|[^\"<>])*)>|([^\s<>]+?))(?=:|\Z)")
_AUTH = re.compile(r"A=(\S+) ")


# Nearly every line: no quotes, no ident, no certificate, nothing in which a field could hide. The
# walk below would read it the same way (a test compares them).
_PLAIN_HOST = (
    r"H=(?:([^\s(\[]\S*) )?(?:\(([^()\s]*)\) )?\[([0-9A-Fa-f.:]+)\](?::(\d+))?"
    r"(?: I=\[[^\]\s]*\](?::\d+)?)?"
)
_PLAIN_ARRIVAL = re.compile(
    rf"<= ([^\s\"]+) {_PLAIN_HOST} P=([^\s\"]+)(?: X=[^\s\"]+)?(?: CV=[^\s\"]+)?(?: K)?"
    r" S=(\d{1,18})(?: DKIM=([^\s\"]+))?(?: id=([^\s\"]+))?"
    r"(?: for ([^\s\"()<>\[\]=]+@[^\s\"]+(?: [^\s\"()<>\[\]=]+@[^\s\"]+)*))?\Z"
)
_PLAIN_REJECTION = re.compile(
    rf"{_PLAIN_HOST}(?: X=[^\s\"]+)?(?: CV=[^\s\"]+)? F=<([^\s\"<>]*@[^\s\"<>]*|)>"
    r" (temporarily )?rejected RCPT <([^\s\"<>]*)>(?=:|\Z)"
)


@dataclass(frozen=True, slots=True)
class Arrival:
    """An arrival line (`<=`). `protocol` is "" and `size` None where the line names none."""

    sender: str
    client: Client
    protocol: str
    authenticated: bool
    size: int | None
    message_id: str | None
    signers: str  # of DKIM=: domains, with commas between them; "" where none is named
    recipients: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Rejection:
    """A line that says what was refused, and at which stage of SMTP."""

    client: Client
    sender: str
    authenticated: bool
    temporary: bool
    discarded: bool
    stage: str
    recipient: str | None
    unknown_user: bool = False


def _port(text: str | None) -> int | None:
    return int(text) if text and len(text) < 6 and int(text) < 65536 else None


def _client(name: str | None, helo: str | None, ip: str, port: str | None) -> Client:
    address = client_address.parse(ip)
    return Client(
        family=client_address.family(address),
        address=address,
        port=_port(port),
        name=name,
        helo=helo or None,
    )


def _hosts(text: str, at: int) -> Iterator[tuple[Client, int]]:
    """Each way to read `name (helo) [address]:port` at `at`, and where it ends."""
    strict = _HOST.match(text, at)
    if strict is not None:
        yield _client(*strict.groups()), strict.end()
    # A HELO that Exim was told to take may hold blanks, brackets and a whole field.
    opened = _HOST_NAME.match(text, at)
    if opened is None:
        return
    for count, end in enumerate(_HOST_END.finditer(text, opened.end() - 1)):
        if count == MAX_CHOICES:
            return
        if strict is not None and end.end() <= strict.end():
            continue
        helo = text[opened.end() : end.start()]
        yield _client(opened.group(1), helo, end.group(1), end.group(2)), end.end()


@dataclass(slots=True)
class _Reader:
    """Reads one line. `budget` bounds the places tried for the end of unquoted text."""

    text: str
    rejection: bool  # else an arrival, which ends with its line
    strict: bool = True  # the sender of a rejection is a path of RFC 5321
    budget: int = MAX_CHOICES

    def walk(self, at: int) -> Read | None:
        """What stands from `at` on; None where the line cannot be read so."""
        text = self.text
        read = Read(at)
        while read.end < len(text):
            if text[read.end] != " ":
                return None
            start = read.end + 1
            if self.rejection and text.startswith(("F=", "rejected ", "tempor", "disc"), start):
                return self._verdict(read, start)
            if text.startswith("for ", start):
                if self.rejection or _ADDRESSES.match(text, start + 4) is None:
                    return None
                read.fields["for"], read.end = text[start + 4 :], len(text)
                return read
            if found := _FROM.match(text, start) or _FLAG.match(text, start):
                read.end = found.end()
                continue
            key = _KEY.match(text, start)
            if key is None:
                return None
            name, value = key.group(1), key.end()
            wrong_side = _AFTER_SIZE if "S" not in read.fields else _BEFORE_SIZE
            if name in read.fields or name in wrong_side:
                return None
            # The Message-ID is the client's text, blanks included: behind it comes the subject.
            if "id" in read.fields and name != "T":
                return None
            if name in ("H", "U", "DN") or (name == "SNI" and text.startswith('"', value)):
                return self._unquoted(read, name, value)
            if name == "F" or (name == "P" and self.rejection):
                return None
            found = _VALUE.get(name, _WORD).match(text, value)
            if found is None:
                return None
            read.fields[name], read.end = found.group(), found.end()
        return None if self.rejection else read

    def _unquoted(self, read: Read, name: str, value: int) -> Read | None:
        """The first end of the text at `value` from which the rest of the line can be read."""
        if name == "DN" and not self.text.startswith('"', value):
            return None
        first: Read | None = None
        for client, end in self._ends(name, value):
            self.budget -= 1
            if self.budget <= 0:
                return None
            rest = self.walk(end)
            # The host comes first: one behind an ident or a certificate is their text.
            if rest is None or not (read.fields.keys() | {name, "H"}).isdisjoint(rest.fields):
                continue
            rest.fields |= {**read.fields, name: self.text[value:end]}
            rest.client = client or rest.client
            if name == "H" or not self.rejection:
                return rest
            # An ident, a certificate or a recipient may hold a whole rejection: which one is it?
            first = rest if first is None else shared(first, rest)
        return first

    def _ends(self, name: str, value: int) -> Iterator[tuple[Client | None, int]]:
        if name == "H":
            yield from _hosts(self.text, value)
        elif name in ("DN", "SNI"):
            yield from ((None, found.end()) for found in _CLOSING.finditer(self.text, value + 1))
        else:
            # Exim writes the protocol behind the ident of an arrival, always.
            after = _AFTER_IDENT if self.rejection else _PROTOCOL
            yield from ((None, found.start()) for found in after.finditer(self.text, value))

    def _verdict(self, read: Read, at: int) -> Read | None:
        """`F=<address> [A=login] [temporarily ]rejected STAGE`.

        Before MAIL there is no sender, and nobody to be remembered.
        """
        text = self.text
        for path in self._paths(at + 2) if text.startswith("F=", at) else ():
            verb = path.end
            if login := _AUTH.match(text, verb + 1):
                verb = login.end() - 1
            stage = _STAGE.match(text, verb + 1)
            if not text.startswith(" ", path.end) or stage is None:
                continue
            target = _TARGET.match(text, stage.end())
            temporary, verb_word, read.stage = stage.groups()
            if read.stage == "RCPT":
                if target is None:
                    continue
                quoted, bare = target.groups()
                read.recipient = quoted if quoted is not None else bare
                read.unknown = UNKNOWN_USER.match(text, target.end()) is not None
            read.sender, read.temporary = path.sender, temporary is not None
            read.discarded = verb_word == "discarded"
            read.logged_in = login is not None and self.strict
            return read
        return None

    def _paths(self, at: int) -> Iterator[Path]:
        path = _PATH.match(self.text, at)
        if path is not None and ("@" in path.group(1) or not path.group(1)):
            yield Path(path.group(1), path.end())
        bare = _WORD.match(self.text, at)
        if bare is not None and self.text[at] != "<":
            yield Path(bare.group(), bare.end())
        if not self.strict:
            end = self.text.find("> ", at)
            for _ in range(MAX_CHOICES):
                if end < 0:
                    return
                yield Path(self.text[at + 1 : end], end + 1)
                end = self.text.find("> ", end + 1)


def read_arrival(text: str) -> Arrival:
    """The arrival that starts at `<=`. What cannot be read is left out, never guessed."""
    if plain := _PLAIN_ARRIVAL.match(text):
        sender, name, helo, ip, port, protocol, size, signers, message_id, named_to = plain.groups()
        return Arrival(
            sender="" if sender == "<>" else sender,
            client=_client(name, helo, ip, port),
            protocol=protocol,
            authenticated=_AUTHENTICATED.search(protocol) is not None,
            size=int(size),
            message_id=message_id,
            signers=signers or "",
            recipients=tuple(named_to.split(" ")) if named_to else (),
        )
    return walked_arrival(text)


def walked_arrival(text: str) -> Arrival:
    """The same, field by field."""
    named = _SENDER.match(text, 3)
    assert named is not None  # it matches nothing as well
    sender = named.group()
    found = _Reader(text, rejection=False).walk(named.end())
    if found is None:
        return _certain(text, named.end(), sender)
    fields, client = found.fields, found.client
    octets = fields.get("S", "")
    recipients = fields.get("for", "")
    return Arrival(
        sender="" if sender == "<>" else sender,
        client=Client(family=Family.UNIX) if client is None else client,
        protocol=fields.get("P", ""),
        authenticated=_logged_in(fields),
        size=int(octets) if _NUMBER.match(octets) else None,
        message_id=fields.get("id"),
        signers=fields.get("DKIM", ""),
        recipients=tuple(one.group() for one in _ADDRESS.finditer(recipients)),
    )


def _certain(text: str, at: int, sender: str) -> Arrival:
    """Where the line as a whole cannot be read: client and protocol from their places only."""
    client, protocol = Client(), ""
    if text.startswith(" H=", at):
        # What the client wrote comes first, what Exim wrote last.
        hosts = list(_hosts(text, at + 3))
        if hosts:
            client, end = hosts[-1]
            if text.startswith(" P=", end) and (word := _WORD.match(text, end + 3)):
                protocol = word.group()
    # The recipients end the line, whatever stands before them.
    at = text.rfind(" for ") + 5
    named = text[at:] if at > 4 and _ADDRESSES.match(text, at) else ""
    return Arrival(
        sender="" if sender == "<>" else sender,
        client=client,
        protocol=protocol,
        authenticated=_logged_in({"P": protocol}),
        size=None,
        message_id=None,
        signers="",
        recipients=tuple(one.group() for one in _ADDRESS.finditer(named)),
    )


def _logged_in(fields: Fields) -> bool:
    """Whether the client logged in: RFC 3848's name of the protocol says so.

    Exim writes it before anything unquoted that a client may choose, but for ident. `A=` counts
    by itself only where no such text stands in the line. Before 4.92 the server name that a client
    asked for stood in quotes that it could close.
    """
    if _AUTHENTICATED.search(fields.get("P", "")):
        return True
    if "SNI" in fields and "P" in fields:
        return False
    if "A" not in fields or "DN" in fields or "U" in fields:
        return False
    return fields.get("SNI", "").count('"') in (0, 2)


def read_rejection(text: str) -> Rejection | None:
    """A rejection, or None where the text is about something else or names nobody."""
    if plain := _PLAIN_REJECTION.match(text):
        name, helo, ip, port, sender, temporary, recipient = plain.groups()
        return Rejection(
            client=_client(name, helo, ip, port),
            sender=sender,
            authenticated=False,
            temporary=temporary is not None,
            discarded=False,
            stage="RCPT",
            recipient=recipient,
            unknown_user=temporary is None and UNKNOWN_USER.match(text, plain.end()) is not None,
        )
    return walked_rejection(text)


def walked_rejection(text: str) -> Rejection | None:
    """The same, field by field."""
    line = f" {text}"
    # An address that breaks RFC 5321, such as one with an unquoted ">", comes second.
    found = _Reader(line, rejection=True).walk(0) or _Reader(line, True, strict=False).walk(0)
    if found is None:
        return None
    return Rejection(
        client=found.client or Client(family=Family.UNIX),
        sender=found.sender,
        authenticated=found.logged_in or _logged_in(found.fields),
        temporary=found.temporary,
        discarded=found.discarded,
        stage=found.stage,
        recipient=found.recipient,
        unknown_user=found.unknown and not (found.temporary or found.discarded),
    )
