"""The parts of one message of Postfix's log. Pure: what it looks like, not what it means."""

import re

from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Client

# Short ids are upper-case hexadecimal, long ones have neither vowels nor punctuation.
QUEUE_ID = re.compile(
    r"(NOQUEUE|[0-9A-F]{5,20}|[0-9B-DF-HJ-NP-TV-Zb-df-hj-np-tv-z]{10,30}): (.*)", re.S
)
PEER = re.compile(r"(?:client=)?([^\[\s]*)\[([^\]\s]*)\](?::(\d+))?")
QUEUED = re.compile(r"from=<(.*?)>, size=(\d+), nrcpt=\d+ \(queue active\)")
DELIVERED_TO = re.compile(r"to=<?(.*?)>?, (?:orig_to=<?(.*?)>?, )?relay=")
REFUSED = re.compile(
    r"(milter-)?(reject|discard): ([A-Z-]+) from (\S*\[[^\]\s]*\](?::\d+)?): (\d\S*)? ?(.*)", re.S
)
FROM = re.compile(r"; from=<(.*?)>,? ")
RECIPIENT = re.compile(r"[; ]to=<(.*?)>,? proto=")
HELO = re.compile(r" helo=<(.*?)>(?: |$)")
AGENTS = frozenset(("smtp", "lmtp", "local", "virtual", "pipe", "error", "relay", "discard"))
SUBMISSION = frozenset(("submission", "smtps", "submissions"))
WHOLE = frozenset(("DATA", "BDAT", "END-OF-MESSAGE"))


def read_client(text: str, helo: str | None = None) -> Client:
    """`name[address]:port`, with or without `client=` before it."""
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
        helo=helo or None,
    )
