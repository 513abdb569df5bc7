"""Lines about logins that failed or succeeded: Postfix, Exim and Dovecot. Pure.

A name is what a client chose. It is read only where the program writes it, and a line in which it
could be read in two ways names nobody. What a server could not check (its password database was
away) is no failed login: then every user's would be one.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Login:
    """One attempt: from where (an IP address as text), as whom ("" where no name is told)."""

    ip: str
    name: str
    success: bool
    teller: str  # which program says so


_IP = r"[0-9A-Fa-f.:]{2,45}"
_TROUBLE = re.compile(
    r"[Tt]emporar|[Cc]onnection (?:lost|refused|reset)|[Ii]nternal|at present|[Tt]imed? ?out"
)
_POSTFIX = re.compile(
    rf"warning: \S*?\[({_IP})\](?::\d+)?: SASL \S+ authentication failed: (.*), "
    r"sasl_username=(\S+)\Z"
)
_POSTFIX_LOGIN = re.compile(r", sasl_username=([^\s,]+)")
# Exim writes the host as everywhere else; a HELO that could end it early is not read.
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
MAX_LINE = 2048  # characters that are read of a line of Dovecot's
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
    """As whom the client of a `client=` line has logged in; "" where it is not told."""
    found = _POSTFIX_LOGIN.search(text)
    return found.group(1) if found else ""


def exim(text: str) -> Login | None:
    """`plain authenticator failed for (helo) [address]: 535 ... (set_id=name)`."""
    found = _EXIM.match(text)
    if found is None or _TROUBLE.search(found.group(2)):
        return None
    return Login(found.group(1), found.group(3), False, "exim")


def exim_name(text: str) -> str:
    """As whom the client of an arrival line has logged in; "" where it is not told."""
    found = _EXIM_LOGIN.search(text)
    return found.group(1) if found else ""


def dovecot(program: str, text: str) -> Login | None:
    """A login process's last word about a client, or what a password database said."""
    text = text[:MAX_LINE] if program == "dovecot" else f"{program}: {text[:MAX_LINE]}"
    if found := _DOVECOT.match(text):
        what, name, ip = found.groups()
        return Login(ip, name, what == "Login: ", "dovecot")
    if found := _DOVECOT_DATABASE.match(text):
        name, ip = found.groups()
        return Login(ip, name, False, "dovecot-auth")
    return None
