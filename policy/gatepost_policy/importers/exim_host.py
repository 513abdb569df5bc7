"""The host in a line of Exim's log: `name (helo) [address]:port` behind `H=`. Pure."""

import re
from collections.abc import Iterator

from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Client

MAX_CHOICES = 64
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_HOST = re.compile(
    r"(?:([^\s(\[]\S*) )?(?:\(([^()\s]*)\) )?\[([0-9A-Fa-f.:]+)\](?::(\d+))?(?= |\Z)"
)
_USUAL_HELO = re.compile(r"[\w.:\[\]-]*\Z", re.ASCII)
_HOST_NAME = re.compile(r"(?:([^\s(\[]\S*) )?\(")
_HOST_END = re.compile(r"\) \[([0-9A-Fa-f.:]+)\](?::(\d+))?(?= |\Z)")
INTERFACE = re.compile(r" I=\[[^\]\s]*\](?::\d+)?")
# What else Exim says of a host and its message (smtp_in.c, incomplete_transaction_log).
_INCOMPLETE = re.compile(
    r" incomplete transaction \([^()]*\)"
    rf"(?: from <(?:{_QUOTED}[^<>]*|[^<>]*)>(?: for [^<>]*)?)?\Z"
)
_OTHER_WORDS = re.compile(r" (?!rejected |temporarily rejected |discarded )[a-z]| Warning: ")


def _port(text: str | None) -> int | None:
    return int(text) if text and len(text) < 6 and int(text) < 65536 else None


def client_of(name: str | None, helo: str | None, ip: str, port: str | None) -> Client:
    address = client_address.parse(ip)
    return Client(
        family=client_address.family(address),
        address=address,
        port=_port(port),
        name=name,
        helo=helo or None,
    )


def hosts(text: str, at: int) -> Iterator[tuple[Client, int]]:
    """Each way to read `name (helo) [address]:port` at `at`: (client, index of its end)."""
    strict = _HOST.match(text, at)
    if strict is not None:
        yield client_of(*strict.groups()), strict.end()
    # With helo_allow_chars a HELO may hold blanks and brackets, and so a whole forged field.
    opened = _HOST_NAME.match(text, at)
    if opened is None:
        return
    for count, end in enumerate(_HOST_END.finditer(text, opened.end() - 1)):
        if count == MAX_CHOICES:
            return
        if strict is not None and end.end() <= strict.end():
            continue
        helo = text[opened.end() : end.start()]
        yield client_of(opened.group(1), helo, end.group(1), end.group(2)), end.end()


def is_free(helo: str | None) -> bool:
    """True where Exim takes such a HELO only with helo_accept_junk_hosts or helo_allow_chars."""
    return helo is not None and _USUAL_HELO.match(helo) is None


def two_hosts(text: str) -> bool:
    return text.find(") [", text.find(") [") + 1) >= 0


def is_no_rejection(text: str, free_helo: bool) -> bool:
    """True where Exim says something else in this line, which holds false words of the client.

    `free_helo`: this Exim takes any HELO. Then only a line that is whole to its end is another one,
    because a HELO may begin like one.
    """
    if not text.startswith("H="):
        return False
    if " incomplete transaction (" in text:
        for _, end in hosts(text, 2):
            if _INCOMPLETE.match(text, _behind_interface(text, end)):
                return True
    strict = _HOST.match(text, 2)
    if free_helo or strict is None or is_free(strict.group(2)):
        return False
    return _OTHER_WORDS.match(text, _behind_interface(text, strict.end())) is not None


def _behind_interface(text: str, at: int) -> int:
    found = INTERFACE.match(text, at)
    return at if found is None else found.end()
