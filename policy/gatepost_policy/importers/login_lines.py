"""Lines about logins that failed or succeeded: Postfix, Exim and Dovecot. Pure.

The client chooses the name and could write a false line with it. So it is read only in the place
where the program writes it, and a line that can be read in two ways is ignored. A login that the
server could not check (no password database) is not a failed one: it may be a user's.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Login:
    """One login attempt. `ip`: the client's address as text; `name`: "" where the line has none."""

    ip: str
    name: str
    success: bool
    teller: str  # the program whose line it is


_IP = r"[0-9A-Fa-f.:]{2,45}"
_TROUBLE = re.compile(
    r"[Tt]emporar|[Cc]onnection (?:lost|refused|reset)|[Ii]nternal|at present|[Tt]imed? ?out"
)
_POSTFIX = re.compile(
    rf"warning: \S*?\[({_IP})\](?::\d+)?: SASL \S+ authentication failed: (.*), "
    r"sasl_username=(\S+)\Z"
)
_POSTFIX_LOGIN = re.compile(r", sasl_username=([^\s,]+)")
# Exim writes the host as in all its lines. A HELO with blanks or brackets does not match, because
# it could hold a false host.
_EXIM = re.compile(
    rf"\S+ authenticator failed for (?:[^\s(\[]\S* )?(?:\([^()\s]*\) )?\[({_IP})\](?::\d+)?"
    r"(?: I=\[[^\]\s]*\](?::\d+)?)?(?: U=[^\s:]*)?: (5\d\d [^()]*?) \(set_id=(\S*)\)\Z"
)
_EXIM_LOGIN = re.compile(r" A=[^\s:]+:(\S+)")
_DOVECOT_DATABASE = re.compile(
    r"(?:auth(?:-worker)?(?:\([^()]*\))?: )?(?:conn [^\s]+ [^()]*\([^()]*\): auth-worker<\d+>: )?"
    rf"[a-z][\w-]*\(([^\s(),]+),({_IP})(?:,<[^<>]*>)?\): "
    r"(?:unknown user|Password mismatch|pam_authenticate\(\) failed: Authentication failure"
    r"|[Ii]nvalid password|Password doesn't match)"
)
_DOVECOT = re.compile(
    r"(?:imap|pop3|submission|managesieve)-login: (Login: |[^<>]*\(auth failed, \d+ attempt[^<>]*)"
    rf"user=<([^<>\s]+)>, (?:method=[^\s,]+, )?rip=({_IP}),"
)
MAX_LINE = 2048  # characters of one of Dovecot's lines that are read
DOVECOT = ("dovecot", "auth", "imap-login", "pop3-login", "submission-login")


def postfix(text: str) -> Login | None:
    """`warning: host[address]: SASL LOGIN authentication failed: ..., sasl_username=name`."""
    found = _POSTFIX.match(text)
    if found is None:
        return None
    ip, why, name = found.groups()
    if "sasl_username=" in why or _TROUBLE.search(why):
        return None
    return Login(ip, name, False, "postfix")


def postfix_name(text: str) -> str:
    """The login name in a `client=` line; "" where there is none."""
    found = _POSTFIX_LOGIN.search(text)
    return found.group(1) if found else ""


def exim(text: str) -> Login | None:
    """`plain authenticator failed for (helo) [address]: 535 ... (set_id=name)`."""
    found = _EXIM.match(text)
    if found is None or _TROUBLE.search(found.group(2)):
        return None
    return Login(found.group(1), found.group(3), False, "exim")


def exim_name(text: str) -> str:
    """The login name in an arrival line; "" where there is none."""
    found = _EXIM_LOGIN.search(text)
    return found.group(1) if found else ""


def dovecot(program: str, text: str) -> Login | None:
    """The final line of a login process about a client, or a password database's line."""
    text = text[:MAX_LINE] if program == "dovecot" else f"{program}: {text[:MAX_LINE]}"
    if found := _DOVECOT.match(text):
        what, name, ip = found.groups()
        return Login(ip, name, what == "Login: ", "dovecot")
    if found := _DOVECOT_DATABASE.match(text):
        name, ip = found.groups()
        return Login(ip, name, False, "dovecot-auth")
    return None
