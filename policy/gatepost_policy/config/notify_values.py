"""Check the values of [notify]. Each function returns the value, or raises ValueError with a text
that says what was wanted.

Pure: no DNS, no files, no connections.
"""

import re
from ipaddress import ip_address
from typing import Literal, get_args
from urllib.parse import urlsplit

from gatepost_policy.mail import address

Event = Literal["trap-hit", "sender-back", "own-user", "loss", "probe-failed", "digest"]
EVENTS: tuple[Event, ...] = get_args(Event)
WEBHOOK_WANTED = (
    'want "https://HOST/...", or "http://" with localhost or an address of your own network'
)


def webhook(text: str) -> str:
    """A URL that events may be sent to. Raises ValueError.

    Without TLS only to this machine and private networks; and then by IP address, because somebody
    else may change what a name resolves to.
    """
    if not text:
        return text
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"{WEBHOOK_WANTED}; in ASCII, without blanks")
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        raise ValueError(WEBHOOK_WANTED) from None
    if url.username is not None or url.fragment or not host:
        raise ValueError(f"{WEBHOOK_WANTED}; no user, no password, no fragment")
    if url.scheme == "https" or (url.scheme == "http" and _is_near(host)):
        return text
    raise ValueError(WEBHOOK_WANTED)


def _is_near(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ip = ip_address(host)
    except ValueError:
        return False
    return ip.is_loopback or ip.is_private or ip.is_link_local


def page(text: str) -> str:
    """The URL at which `milterctl web` is reached, for links. Raises ValueError."""
    try:
        url = urlsplit(text)
        good = url.scheme in ("http", "https") and bool(url.hostname) and not url.query
    except ValueError:
        good = False
    if text and (not good or not text.isascii() or not text.isprintable() or " " in text):
        raise ValueError('want the page\'s address, such as "https://abuse.example.org/gatepost"')
    return text.rstrip("/")


def command(words: tuple[str, ...]) -> tuple[str, ...]:
    """A program's full path and its arguments. Raises ValueError."""
    if words and not words[0].startswith("/"):
        raise ValueError('want a program by its full path, ["/usr/local/bin/PROGRAM", "WORD"]')
    if any("\0" in word for word in words):
        raise ValueError("want words without NUL")
    return words


def mailbox(text: str) -> str:
    """An ASCII address of local part and domain. Raises ValueError."""
    parsed = address.parse(text)
    # RFC 5321 4.5.3.1.3: a path has 256 octets at most, its two angle brackets among them.
    plain = re.fullmatch(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]+@[A-Za-z0-9.-]+", text)
    if not plain or not parsed.local or not parsed.domain or len(text) > 254:
        raise ValueError('want a mail address such as "abuse@example.org"')
    return text


def maybe_mailbox(text: str) -> str:
    """`mailbox`, or "". Raises ValueError."""
    return mailbox(text) if text else text


def smtp(text: str) -> str:
    """A server as inet:PORT@ADDRESS or inet6:PORT@ADDRESS. Raises ValueError."""
    from gatepost_policy.system.socket_address import SocketAddress

    try:
        kind = SocketAddress.parse(text).kind
    except ValueError:
        kind = "unix"
    if kind == "unix":
        raise ValueError("want inet:PORT@ADDRESS or inet6:PORT@ADDRESS")
    return text


def file(text: str) -> str:
    """A file by its full path, or "". Raises ValueError."""
    if text and (not text.startswith("/") or text.endswith("/") or "\0" in text):
        raise ValueError('want a file by its full path, such as "/var/lib/gatepost/events.atom"')
    return text


def hour(text: str) -> str:
    """A time of day such as `06:00` (UTC), or "". Raises ValueError."""
    if text and not re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", text, re.ASCII):
        raise ValueError('want a time of day in UTC such as "06:00", or ""')
    return text


def minutes(text: str) -> int:
    """Minutes since midnight of a time of day that `hour` accepts (not "")."""
    return int(text[:2]) * 60 + int(text[3:])
