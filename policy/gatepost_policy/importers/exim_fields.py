"""The fields of Exim's arrival and rejection lines, read by Exim's own grammar. Pure.

How it works: a client chooses its HELO, envelope, Message-ID, certificate and ident, and Exim
writes them into the line beside its own words. So a client could forge a field; a field counts only
in the place where Exim writes it. The line is read from left to right, a quoted string is one unit,
each key comes once, and client, protocol and login come before the size. Text that Exim does not
quote (HELO, ident, certificate name) ends at a place from which the rest of the line can be read
completely; other ends are wrong.

Limits: where the line cannot be read so, only the fields in fixed places are used (sender, client
and protocol); at most MAX_CHOICES ends of unquoted text are tried.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice, product

from gatepost_policy.importers.exim_host import (
    INTERFACE,
    client_of,
    hosts,
    is_no_rejection,
    two_hosts,
)
from gatepost_policy.importers.exim_read import UNKNOWN_USER, Fields, Read, shared
from gatepost_policy.importers.exim_verdict import Senders, read_verdict
from gatepost_policy.mail.facts import Client, Family

MAX_CHOICES = 64
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# RFC 5321 4.1.2: the local part is a dot-string or a quoted string, which may hold blanks.
_SENDER = re.compile(rf"<>|{_QUOTED}\S*|\S*")
_ID = re.compile(rf"{_QUOTED}@[^\s\"]+|[^\s\"]+")
_SUBJECT = re.compile(_QUOTED)
_WORD = re.compile(r"\S+")
_KEY = re.compile(r"([A-Z][A-Z0-9]*|id)=")
_FLAG = re.compile(r"[A-Z][A-Z0-9]*[-.*]*(?= |\Z)")  # such as K, PRDR, TFO*, `L.-`
_FROM = re.compile(rf"from <(?:{_QUOTED}[^<>]*|[^<>]*)>(?= |\Z)")
_ADDRESS = re.compile(rf"(?:{_QUOTED}|[^\s\"@]+)@[^\s\"]+|[^\s\"@()\[\]=]+(?= |\Z)")
_ADDRESSES = re.compile(rf"(?:{_ADDRESS.pattern})(?: (?:{_ADDRESS.pattern}))*\Z")
_AFTER_IDENT = re.compile(r" (?:I=\[|X=\S|F=\S|A=\S|rejected |temporarily |discarded )")
_AFTER_LOGIN = re.compile(r" (?:(?:K|PRDR) )*S=\d+(?= |\Z)| F=<")
_PROTOCOL = re.compile(r" P=\S")
_VALUE = {"id": _ID, "T": _SUBJECT}
_CLOSING = re.compile(r'"(?= |\Z)')
# Fields about the client and the login; Exim never writes them after the size.
_BEFORE_SIZE = frozenset(("H", "U", "P", "X", "CV", "DN", "SNI", "A", "I", "R"))
_AFTER_SIZE = frozenset(("DKIM", "id", "T", "RT", "Q"))
_AUTHENTICATED = re.compile(r"(?:smtp|lmtp)s?a\Z")
_NAME = re.compile(r"\w+\Z")
_NUMBER = re.compile(r"\d{1,18}\Z")

# Nearly all lines: no quotes, no ident, no certificate, nothing that could hide a forged field. The
# slower way below reads them alike (a test compares them).
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
    """A rejection line. `stage`: as in the log, such as RCPT or "after DATA"."""

    client: Client
    sender: str
    authenticated: bool
    temporary: bool
    discarded: bool
    stage: str
    recipient: str | None
    unknown_user: bool = False


@dataclass(slots=True)
class _Reader:
    """Reads one line. `budget`: how many ends of unquoted text may still be tried; `known`: what
    was read from those that were, because many beginnings have the same end."""

    text: str
    rejection: bool  # else an arrival, which ends with its line
    begin: int = 0  # where the fields begin: an arrival's sender may look like one
    senders: Senders = Senders.STRICT
    free_helo: bool = False
    first_host: bool = False  # of several ends of the host, only the first is tried
    budget: int = MAX_CHOICES
    known: dict[int, Read | None] = field(default_factory=dict)

    def walk(self, at: int) -> Read | None:
        """The fields from `at` to the end of the line; None where it cannot be read so."""
        text = self.text
        read = Read(at)
        while read.end < len(text):
            if text[read.end] != " ":
                return None
            start = read.end + 1
            if self.rejection and text.startswith(("F=", "rejected ", "tempor", "disc"), start):
                return read_verdict(text, start, read, self.senders)
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
            # The Message-ID is the client's text and may hold blanks: only T= may follow.
            if "id" in read.fields and name != "T":
                return None
            if name in ("H", "U", "DN", "A") or (name == "SNI" and text.startswith('"', value)):
                return self._unquoted(read, name, value)
            if name == "F" or (name == "P" and self.rejection):
                return None
            if self.free_helo and name == "id":
                return read  # what the client wrote there must not make a reading impossible
            found = _VALUE.get(name, _WORD).match(text, value)
            if found is None:
                return None
            read.fields[name], read.end = found.group(), found.end()
        return None if self.rejection else read

    def _unquoted(self, read: Read, name: str, value: int) -> Read | None:
        """Try the ends of the unquoted text at `value`: the first from which the rest of the line
        can be read; in a rejection, what all such ends have in common."""
        if name == "DN" and not self.text.startswith('"', value):
            return None
        first: Read | None = None
        for client, end in self._ends(name, value):
            if end not in self.known and self.budget:
                self.budget -= 1
                self.known[end] = self.walk(end)
            if not self.budget:
                return None
            rest = self.known[end]
            # H= comes first: one after an ident or a certificate is part of their text.
            if rest is None or not (read.fields.keys() | {name, "H"}).isdisjoint(rest.fields):
                continue
            fields = {**rest.fields, **read.fields, name: self.text[value:end]}
            rest = replace(rest, fields=fields, client=client or rest.client)
            if not (self.free_helo if name == "H" else self.rejection):
                return rest
            if not self.rejection and not _whole(rest.fields):
                continue
            # An ident or a certificate may hold a whole forged rejection, and a free HELO any line:
            # keep what all share.
            first = rest if first is None else shared(first, rest)
        return first

    def _ends(self, name: str, value: int) -> Iterator[tuple[Client | None, int]]:
        if name == "H":
            yield from islice(hosts(self.text, value), 1 if self.first_host else None)
        elif name == "A":
            if word := _WORD.match(self.text, value):
                yield None, word.end()
            for found in _AFTER_LOGIN.finditer(self.text, value):
                # Behind an ident this P= may be Exim's, and the one before it the client's.
                if (
                    " U=" in self.text[self.begin : value]
                    and " P=" in self.text[value : found.start()]
                ):
                    return
                yield None, found.start()
        elif name in ("DN", "SNI"):
            yield from ((None, found.end()) for found in _CLOSING.finditer(self.text, value + 1))
        else:
            # In an arrival line P= always follows the ident.
            after = _AFTER_IDENT if self.rejection else _PROTOCOL
            yield from ((None, found.start()) for found in after.finditer(self.text, value))


def read_arrival(text: str, free_helo: bool = False) -> Arrival:
    """The arrival line that begins with `<=`. Fields that cannot be read are left out.

    `free_helo`: this Exim is known to take any HELO (cPanel's does). Then a HELO may hold a false
    host, and a sender may look as if it did: of a line with two hosts only what both readings have
    in common is known.
    """
    if free_helo and two_hosts(text):
        return walked_arrival(text, free_helo)
    if plain := _PLAIN_ARRIVAL.match(text):
        sender, name, helo, ip, port, protocol, size, signers, message_id, named_to = plain.groups()
        return Arrival(
            sender="" if sender == "<>" else sender,
            client=client_of(name, helo, ip, port),
            protocol=protocol,
            authenticated=_AUTHENTICATED.search(protocol) is not None,
            size=int(size),
            message_id=message_id,
            signers=signers or "",
            recipients=tuple(named_to.split(" ")) if named_to else (),
        )
    return walked_arrival(text)


def _whole(fields: Fields) -> bool:
    """True where the arrival has what Exim writes of every client's."""
    return "S" in fields and _NAME.match(fields.get("P", "")) is not None


def walked_arrival(text: str, free_helo: bool = False) -> Arrival:
    """`read_arrival` in the slower way, field by field."""
    named = _SENDER.match(text, 3)
    assert named is not None  # the pattern also matches the empty text
    sender = named.group()
    reader = _Reader(text, rejection=False, begin=named.end(), free_helo=free_helo)
    found = reader.walk(named.end())
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
    """For a line that cannot be read as a whole: client, protocol and recipients from their fixed
    places only."""
    client, protocols = Client(), [""]
    if text.startswith(" H=", at):
        # A HELO before the host, and a login or a name behind it, may look like another host.
        told = [(client, _protocol_at(text, end)) for client, end in hosts(text, at + 3)]
        told = [one for one in told if one[1]] or told
        if len({one.address for one, _ in told}) == 1:
            client = told[-1][0]
        protocols = [protocol for _, protocol in told] or [""]
    # The recipients are at the end of the line.
    at = text.rfind(" for ") + 5
    named = text[at:] if at > 4 and _ADDRESSES.match(text, at) else ""
    return Arrival(
        sender="" if sender == "<>" else sender,
        client=client,
        protocol=protocols[0],
        authenticated=all(_logged_in({"P": protocol}) for protocol in protocols),
        size=None,
        message_id=None,
        signers="",
        recipients=tuple(one.group() for one in _ADDRESS.finditer(named)),
    )


def _protocol_at(text: str, at: int) -> str:
    """The protocol behind a host that ends at `at`; "" where none is there."""
    if interface := INTERFACE.match(text, at):
        at = interface.end()
    found = _WORD.match(text, at + 3) if text.startswith(" P=", at) else None
    return "" if found is None else found.group()


def _logged_in(fields: Fields) -> bool:
    """True where the client logged in, by the protocol's name (RFC 3848: esmtpa, esmtpsa).

    Except for the ident, Exim writes P= before all unquoted text of the client. `A=` alone counts
    only in a line without such text. Before Exim 4.92 the client could close the quotes of SNI.
    """
    if _AUTHENTICATED.search(fields.get("P", "")):
        return True
    if "SNI" in fields and "P" in fields:
        return False
    if not fields.get("A") or "DN" in fields or "U" in fields:
        return False
    return fields.get("SNI", "").count('"') in (0, 2)


def read_rejection(text: str, free_helo: bool = False) -> Rejection | None:
    """The rejection line; None where `text` is no rejection, or was refused before MAIL.

    `free_helo` as in `read_arrival`.
    """
    if is_no_rejection(text, free_helo):
        return None
    if free_helo and two_hosts(text):
        return walked_rejection(text, free_helo)
    if plain := _PLAIN_REJECTION.match(text):
        name, helo, ip, port, sender, temporary, recipient = plain.groups()
        return Rejection(
            client=client_of(name, helo, ip, port),
            sender=sender,
            authenticated=False,
            temporary=temporary is not None,
            discarded=False,
            stage="RCPT",
            recipient=recipient,
            unknown_user=temporary is None and UNKNOWN_USER.match(text, plain.end()) is not None,
        )
    return walked_rejection(text)


def walked_rejection(text: str, free_helo: bool = False) -> Rejection | None:
    """`read_rejection` in the slower way, field by field."""
    line = f" {text}"
    found: Read | None = None
    # Only if that fails, a login with blanks, and then a sender that breaks RFC 5321. A HELO with
    # brackets comes last, because its end may be such a login's, unless any HELO is taken.
    for first_host, senders in product((False,) if free_helo else (True, False), Senders):
        other = _Reader(
            line, rejection=True, senders=senders, free_helo=free_helo, first_host=first_host
        ).walk(0)
        if other is not None:
            found = other if found is None else shared(found, other)
        if found is not None and not (free_helo and senders is Senders.STRICT):
            break
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
