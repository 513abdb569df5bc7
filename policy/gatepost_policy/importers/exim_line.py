"""The parts of one line of Exim's log. Pure: what a line looks like, not what it means."""

import re

from gatepost_policy.importers.clock import Clock
from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Client, Family

_ID = r"[0-9A-Za-z]{6}-(?:[0-9A-Za-z]{6}-[0-9A-Za-z]{2}|[0-9A-Za-z]{11}-[0-9A-Za-z]{4})"
LINE = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d):(\d\d(?:\.\d+)?)(?: ([+-]\d{4}))? "
    rf"(?:\[\d+\] )?(?:({_ID}) )?(.*)"
)
# A syslog daemon's or the journal's own prefix; exim's time may follow it, or be left out.
PREFIX = re.compile(
    r"(?:(?:<\d+>)?(?:(?P<mon>[A-Z][a-z]{2}) +(?P<day>\d{1,2}) (?P<min>\d\d:\d\d):(?P<sec>\d\d)"
    r"|(?P<iso>\d{4}-\d\d-\d\d[T ]\d\d:\d\d):(?P<isosec>\d\d(?:\.\d+)?)"
    r"(?P<zone>Z|[+-]\d\d:?\d\d)?) )?"
    r"(?:\S+ )?exim[\w-]*(?:\[\d+\])?: (?P<rest>.*)",
    re.S,
)
REST = re.compile(rf"(?:\[\d+\] )?(?:({_ID}) )?(.*)", re.S)
# H=name (helo) [ip]:port, with any part missing; a HELO may be a bracketed address.
HOST = re.compile(r"(?:^| )H=(?:([^\s(\[]\S*) )?(?:\(([^)]*)\) )?\[([0-9A-Fa-f.:]+)\](?::(\d+))?")
# The part of a line where the client stands, and the addresses in it, where HOST finds none: a
# HELO may be anything, and must not make a stranger's message look like our own.
_PART = re.compile(r"(?:^| )H=(.*?)(?= (?:I|P|X|F|A|U)=| rejected |\Z)")
_BRACKETED = re.compile(r"\[([0-9A-Fa-f.:]+)\](?::(\d+))?")
SENDER = re.compile(r'(?:"(?:[^"\\]|\\.)*"\S*|\S*)')
SIZE = re.compile(r" S=(\d+)")
MESSAGE_ID = re.compile(r" id=(\S+)")
PROTOCOL = re.compile(r" P=(\S+)")
AUTH = re.compile(r" A=\S")
FOR = re.compile(r" for (\S+@\S+(?: \S+)*)\Z")
TOPIC = re.compile(r' T="(?:[^"\\]|\\.)*"')
DKIM_PASSED = re.compile(r" DKIM=(\S+)")
TOP_ADDRESS = re.compile(r"<([^<>]*)>")
REJECTED = re.compile(
    r"(?:.* )?F=(<[^>]*>|\S+) (temporarily )?rejected "
    r"(RCPT|after DATA|DATA|MAIL|by \S+|VRFY|EXPN)(?: (<[^>]*>|\S+?))?(?::|$)"
)
AUTHENTICATED = re.compile(r"(?:smtp|esmtp|bsmtp)s?a\Z")


def read_client(text: str) -> Client:
    """The `H=` field; without one the message came from a local process."""
    host = HOST.search(text)
    if host is not None:
        name, helo, ip, port = host.groups()
    elif part := _PART.search(text):
        name = helo = None
        ip, port = (_BRACKETED.findall(part.group(1)) or [("", "")])[-1]
    else:
        return Client(family=Family.UNIX)
    address = client_address.parse(ip)
    return Client(
        family=client_address.family(address),
        address=address,
        port=int(port) if port and int(port[:6]) < 65536 else None,
        name=name,
        helo=helo or None,
    )


def read_recipient(text: str) -> str | None:
    """The address the sender wrote, from what follows the arrow of a delivery line."""
    head = text.partition(" R=")[0].partition(" T=")[0].partition(": ")[0]
    found = TOP_ADDRESS.findall(head)
    if found:
        return str(found[-1]) or None
    word = head.strip().partition(" ")[0]
    # ":blackhole:", a file or a pipe without its address is no recipient.
    return word if word and word[0] not in ":/|" else None


def prefix_time(found: re.Match[str], clock: Clock) -> float | None:
    """The time in a syslog prefix, None where it has none."""
    if found["mon"]:
        return clock.syslog(found["mon"], found["day"], found["min"], found["sec"])
    if found["iso"]:
        return clock.iso(found["iso"], found["isosec"], found["zone"])
    return None
