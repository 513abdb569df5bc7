"""The parts of one message of Postfix's log. Pure: what it looks like, not what it means."""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from gatepost_policy.importers.common import DISCARDED, internal, refused
from gatepost_policy.mail import client_address
from gatepost_policy.mail.decision import Decision
from gatepost_policy.mail.facts import Client

# Short ids are upper-case hexadecimal, long ones have neither vowels nor punctuation.
QUEUE_ID = re.compile(
    r"(NOQUEUE|[0-9A-F]{5,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,30}): (.*)", re.S
)
PEER = re.compile(r"(?:client=)?([^\[\s]*)\[([^\]\s]*)\](?::(\d+))?")
# Greedy: the sender may hold such text too, but qmgr's own words are the last ones.
QUEUED = re.compile(r"from=<(.*)>, size=(\d+), nrcpt=\d+ \(queue active\)", re.S)
# Greedy, for the same reason.
EXPIRED = re.compile(r"from=<.*>, status=(?:force-)?expired, returned to sender\Z", re.S)
# Possessive (`++`) and atomic (`(?>`): no other way of reading the same octets is tried: half the
# time.
_QUOTED = r'"(?>(?:[^"\\]++|\\.)*)"'
# RFC 5321 4.1.2: a quoted string is one unit and may hold ">" and "<".
_PATH = rf"(?>(?:[^\"<>]++|{_QUOTED})*)"
DELIVERED_TO = re.compile(
    rf"to=(?:<({_PATH})>|([^\s<>,]+)), (?:orig_to=(?:<({_PATH})>|([^\s<>,]+)), )?"
    r"relay=(?:[^\s\[,]*\[([0-9A-Fa-f.:]+)\])?",
    re.S,
)
# The end of a delivery line where the next hop is a Postfix that accepted the message.
QUEUED_AS = re.compile(r" queued as (\w+)\)+\Z")
CLIENT = re.compile(
    r"client=([^\s\[]*\[[^\]\s]*\](?::\d+)?)"
    r"(?:(, sasl_(?:method|username)=)?(?:.*?(, orig_queue_id=))?"
    r"(?:.*?, orig_client=([^\s\[]*\[[^\]\s]*\]))?.*|)\Z",
    re.S,
)
_REFUSED = re.compile(
    r"(?:milter-)?(reject|discard): ([A-Z-]+) from ([^\s\[]*\[[^\]\s]*\](?::\d+)?): ?(.*)", re.S
)
_CHECKED = ("reject: header ", "reject: body ", "discard: header ", "discard: body ")
_CODE = re.compile(r"(\d\S*)? ?(?:\d\.\d+\.\d+ )?(<)?")
# RFC 3463 3.2: X.1.1 means that the mailbox does not exist. Else smtpd's own text shows it.
_UNKNOWN = re.compile(
    rf"550 (?:5\.1\.1 |<{_PATH}>: Recipient address rejected: (?:User unknown|undeliverable))"
)
_START = "; from=<"
# Old releases of Postfix wrote commas between these.
_TAIL = r"(?:,? proto=([^\s,]+))?(?:,? helo=<(.*)>)?(?: sasl_username=\S+)?"
_STRICT = re.compile(rf"; from=<({_PATH})>(?:,? to=<({_PATH})>)?{_TAIL}\Z", re.S)
_LOOSE = re.compile(rf"; from=<(.*?)>(?:,? to=<(.*?)>)?{_TAIL}\Z", re.S)
_LOGGED_IN = re.compile(r"[^>] sasl_username=\S*[^\s>]\Z|> sasl_username=\S*[^\s>]\Z")
_CHECK_TAIL = re.compile(
    rf" from ([^\s\[]*\[[^\]\s]*\](?::\d+)?); from=<({_PATH})> to=<({_PATH})>"
    r" proto=(?:SMTP|ESMTP) helo=<(.*?)>(?:: .*)?\Z",
    re.S,
)
# Most places that are tried as the beginning of a refusal's fields.
MAX_STARTS = 64
AGENTS = frozenset(("smtp", "lmtp", "local", "virtual", "pipe", "error", "relay", "discard"))
SUBMISSION = frozenset(("submission", "smtps", "submissions"))
WHOLE = frozenset(("DATA", "BDAT", "END-OF-MESSAGE", "CONTENT"))
STAGES = WHOLE | {"RCPT", "MAIL"}  # at the other stages there is no message yet


# Daemons of Postfix, as the last part of a program's name.
_DAEMONS = AGENTS | {
    "anvil", "bounce", "cleanup", "dnsblog", "flush", "master", "pickup", "postdrop", "postscreen",
    "proxymap", "qmgr", "scache", "sendmail", "smtpd", "tlsmgr", "tlsproxy", "trivial-rewrite",
    "verify",
}  # fmt: skip


@lru_cache(maxsize=4096)
def named(program: str) -> tuple[str, bool]:
    """(the last part of `program`, True where another part is a submission service's name)."""
    *parts, service = program.split("/")
    return service, not SUBMISSION.isdisjoint(parts)


@lru_cache(maxsize=4096)
def is_postfix(program: str) -> bool:
    """True where a Postfix wrote the line: `syslog_name` may be any (`mx1-postfix`, `out`)."""
    first, slash, rest = program.partition("/")
    return first == "postfix" or bool(slash and rest.rpartition("/")[2] in _DAEMONS)


class Refusal(NamedTuple):
    """A reject or discard line. `stage`: the SMTP command, or CONTENT for header_checks and
    body_checks; `peer`: `name[address]`; `code`: "" where the line has none.
    """

    discarded: bool
    stage: str
    peer: str
    code: str
    sender: str
    recipient: str | None
    helo: str | None
    logged_in: bool
    unknown_user: bool = False

    @property
    def decision(self) -> Decision:
        """What was decided on the message or recipient."""
        return DISCARDED if self.discarded else refused(self.code or "5")


def read_refusal(text: str) -> Refusal | None:
    """Read a refusal of smtpd or cleanup; None where the text is something else.

    smtpd writes what was refused, its answer, and then the fields of the session (smtpd.c,
    log_whatsup). The answer may repeat an address or the HELO, and a client can make these look
    like the fields that follow, so a line may be read in several ways. The true reading is the one
    in which the answer repeats the longest value of its own fields: false fields within a value are
    shorter than that value.
    """
    if text.startswith(_CHECKED):
        return _content(text)
    head = _REFUSED.match(text)
    if head is None:
        return None
    what, stage, peer, rest = head.groups()
    rest = rest.rstrip()  # some collectors add a blank to each line
    code = _CODE.match(rest)
    assert code is not None  # the pattern also matches the empty text
    fields = _fields(rest, code.end() if code.group(2) else None, peer)
    sender, recipient, helo = fields or ("", None, None)
    return Refusal(
        discarded=what == "discard",
        stage=stage,
        peer=peer,
        code=code.group(1) or "",
        sender=sender,
        recipient=recipient,
        helo=helo,
        # Only after the HELO's ">", so that a HELO cannot claim a login.
        logged_in=" sasl_username=" in rest and _LOGGED_IN.search(rest) is not None,
        unknown_user=what == "reject" and stage == "RCPT" and _UNKNOWN.match(rest) is not None,
    )


def _fields(rest: str, echo: int | None, peer: str) -> tuple[str, str | None, str | None] | None:
    """(sender, recipient, HELO), None if not found. `echo`: the index of the value that the answer
    repeats, None if it repeats none."""
    at = rest.find(_START)
    if at >= 0 and rest.find(_START, at + 1) < 0 and (only := _STRICT.match(rest, at)):
        return only.group(1), only.group(2), only.group(4)
    best: tuple[int, tuple[str, str | None, str | None]] | None = None
    for pattern in (_STRICT, _LOOSE):
        at = rest.find(_START)
        for _ in range(MAX_STARTS):
            if at < 0:
                break
            found = pattern.match(rest, at)
            if found is not None:
                sender, recipient, _, helo = found.groups()
                length = _echoed(rest, echo, at, (sender, recipient, helo, peer))
                if best is None or length > best[0]:
                    best = length, (sender, recipient, helo)
            at = rest.find(_START, at + 1)
    return None if best is None else best[1]


def _echoed(rest: str, echo: int | None, before: int, words: Iterable[str | None]) -> int:
    """Characters of the longest of `words` that the answer repeats at `echo`, and ends before the
    index `before`; 0 where it repeats none. An answer has an address without its quotes."""
    length = 0
    if echo is not None:
        for word in words:
            for shown in {word, internal(word)} if word else ():
                if echo + len(shown) < before and rest.startswith(shown + ">", echo):
                    length = max(length, len(shown))
    return length


def _content(text: str) -> Refusal | None:
    """Read `reject: header TEXT from CLIENT; from=<...> ...` of header_checks and body_checks.

    TEXT is part of the message and may hold false fields. Where several readings are possible, the
    envelope is left out, and the client too where they differ in it.
    """
    found = [
        match
        for place in list(re.finditer(r" from \S", text))[:MAX_STARTS]
        if (match := _CHECK_TAIL.match(text, place.start()))
    ]
    if not found:
        return None
    peers = {match.group(1) for match in found}
    one = found[0] if len(found) == 1 else None
    return Refusal(
        discarded=text.startswith("discard"),
        stage="CONTENT",
        peer=found[0].group(1) if len(peers) == 1 else "unknown[unknown]",
        code="",
        sender=one.group(2) if one else "",
        recipient=one.group(3) if one else None,
        helo=one.group(4) if one else None,
        logged_in=False,
    )


def read_client(text: str, helo: str | None = None) -> Client:
    """The client in `name[address]:port`, with or without `client=` before it."""
    found = _client(text)
    if not helo:
        return found
    return Client(found.family, found.address, found.port, found.name, helo)


# Cached, because a client that tries many recipients comes again and again.
@lru_cache(maxsize=16_384)
def _client(text: str) -> Client:
    match = PEER.match(text)
    if not match:
        return Client()
    name, ip, port = match.groups()
    found = client_address.parse(ip)
    return Client(
        family=client_address.family(found),
        address=found,
        port=int(port) if port and int(port[:6]) < 65536 else None,
        name=name if name and name != "unknown" else None,
    )
