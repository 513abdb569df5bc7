"""The parts of one message of Postfix's log. Pure: what it looks like, not what it means."""

import re
from dataclasses import dataclass
from functools import lru_cache

from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Client

# Short ids are upper-case hexadecimal, long ones have neither vowels nor punctuation.
QUEUE_ID = re.compile(
    r"(NOQUEUE|[0-9A-F]{5,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,30}): (.*)", re.S
)
PEER = re.compile(r"(?:client=)?([^\[\s]*)\[([^\]\s]*)\](?::(\d+))?")
# qmgr writes its own words behind the sender: whatever that holds, the last ones are qmgr's.
QUEUED = re.compile(r"from=<(.*)>, size=(\d+), nrcpt=\d+ \(queue active\)", re.S)
# As greedy as QUEUED: what stands at the end is qmgr's.
EXPIRED = re.compile(r"from=<.*>, status=(?:force-)?expired, returned to sender\Z", re.S)
_QUOTED = r'"(?:[^"\\]|\\.)*"'
# RFC 5321 4.1.2: a quoted string is one unit, whatever stands in it.
_PATH = rf"(?:{_QUOTED}|[^\"<>])*"
DELIVERED_TO = re.compile(
    rf"to=(?:<({_PATH})>|([^\s<>,]+)), (?:orig_to=(?:<({_PATH})>|([^\s<>,]+)), )?"
    r"relay=(?:[^\s\[,]*\[([0-9A-Fa-f.:]+)\])?",
    re.S,
)
# What a delivery's answer ends in where a Postfix took the message.
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
# RFC 3463 3.2: X.1.1 is a mailbox that does not exist. Without such a code smtpd's own words count.
_UNKNOWN = re.compile(
    rf"550 (?:5\.1\.1 |<{_PATH}>: Recipient address rejected: (?:User unknown|undeliverable))"
)
_START = "; from=<"
# Old releases wrote commas between them.
_TAIL = r"(?:,? proto=([^\s,]+))?(?:,? helo=<(.*)>)?(?: sasl_username=\S+)?"
_STRICT = re.compile(rf"; from=<({_PATH})>(?:,? to=<({_PATH})>)?{_TAIL}\Z", re.S)
_LOOSE = re.compile(rf"; from=<(.*?)>(?:,? to=<(.*?)>)?{_TAIL}\Z", re.S)
_LOGGED_IN = re.compile(r"[^>] sasl_username=\S*[^\s>]\Z|> sasl_username=\S*[^\s>]\Z")
_CHECK_TAIL = re.compile(
    rf" from ([^\s\[]*\[[^\]\s]*\](?::\d+)?); from=<({_PATH})> to=<({_PATH})>"
    r" proto=(?:SMTP|ESMTP) helo=<(.*?)>(?:: .*)?\Z",
    re.S,
)
# So many places are tried at which the fields of a refusal may begin.
MAX_STARTS = 64
AGENTS = frozenset(("smtp", "lmtp", "local", "virtual", "pipe", "error", "relay", "discard"))
SUBMISSION = frozenset(("submission", "smtps", "submissions"))
WHOLE = frozenset(("DATA", "BDAT", "END-OF-MESSAGE", "CONTENT"))


@dataclass(frozen=True, slots=True)
class Refusal:
    """A line that says what was refused or discarded, and at which stage of SMTP.

    `stage` is CONTENT for header_checks and body_checks. `code` is "" where none is named.
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


def read_refusal(text: str) -> Refusal | None:
    """A refusal of smtpd or cleanup, read from its end; None where the text is something else.

    smtpd writes what was refused, its answer, and then what it knows of the session (smtpd.c,
    log_whatsup). The answer may repeat an address or the HELO, and each of them may look like the
    fields behind it. The reading in which the answer repeats most of what its own fields say is
    smtpd's: what a client put into a field is a part of that field's repetition.
    """
    if text.startswith(_CHECKED):
        return _content(text)
    head = _REFUSED.match(text)
    if head is None:
        return None
    what, stage, peer, rest = head.groups()
    rest = rest.rstrip()  # some collectors put a blank behind each line
    code = _CODE.match(rest)
    assert code is not None  # it matches nothing as well
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
        # Behind the HELO, which ends in ">": a HELO cannot claim a login.
        logged_in=" sasl_username=" in rest and _LOGGED_IN.search(rest) is not None,
        unknown_user=what == "reject" and stage == "RCPT" and _UNKNOWN.match(rest) is not None,
    )


def _fields(rest: str, echo: int | None, peer: str) -> tuple[str, str | None, str | None] | None:
    """Sender, recipient and HELO. `echo` is where the answer's repetition begins, if it has one."""
    for pattern in (_STRICT, _LOOSE):
        best: tuple[int, tuple[str, str | None, str | None]] | None = None
        at = rest.find(_START)
        for _ in range(MAX_STARTS):
            if at < 0:
                break
            found = pattern.match(rest, at)
            if found is not None:
                sender, recipient, _, helo = found.groups()
                length = 0
                for word in (sender, recipient, helo, peer):
                    if echo is not None and word and rest.startswith(word + ">", echo):
                        length = max(length, len(word)) if echo + len(word) < at else length
                if best is None or length > best[0]:
                    best = length, (sender, recipient, helo)
            at = rest.find(_START, at + 1)
        if best is not None:
            return best[1]
    return None


def _content(text: str) -> Refusal | None:
    """`reject: header TEXT from CLIENT; from=<...> ...` of header_checks and body_checks.

    The text is the message's own and may hold such fields itself: then only the client is told.
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
    """`name[address]:port`, with or without `client=` before it."""
    found = _client(text)
    if not helo:
        return found
    return Client(found.family, found.address, found.port, found.name, helo)


# Whoever walks through a list of names comes again and again.
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
