"""The end of a rejection line of Exim's log: who wrote, and what was refused. Pure.

`F=<sender> [A=login] [temporarily ]rejected STAGE[ <recipient>]: text` (smtp_in.c,
smtp_handle_acl_fail). Of the argument of RCPT Exim writes the first 100 characters: a recipient
that is longer is not known.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from gatepost_policy.importers.exim_read import UNKNOWN_USER, Read

MAX_CHOICES = 64
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_PATH = re.compile(rf"<((?:{_QUOTED}|[^\"<>])*)>")
_WORD = re.compile(r"\S+")
_STAGE = re.compile(
    r"(temporarily )?(rejected|discarded) "
    r"(RCPT|after DATA|DATA|MAIL|PREDATA|DKIM|PRDR|by local_scan\(\)|by DATA ACL|by RCPT ACL"
    r"|by \S+ ACL|by \S+|during MIME ACL checks|because all recipients were rejected by PRDR"
    r"|VRFY|EXPN|AUTH|STARTTLS|ETRN|QUIT|EHLO or HELO|connection)(?= |:|\Z)"
)
_TARGET = re.compile(rf" (?:<((?:{_QUOTED}|[^\"<>])*)>|([^\s<>]+?))(?=:|\Z)")
# What is left of a long argument; an octet that is not printable became four characters.
_CUT_TARGET = re.compile(r" <.{99,399}?(?=: |\Z)")
# "discard" of the RCPT (or MAIL) ACL: the client was told that its recipient is accepted.
_DISCARDED = re.compile(
    rf" RCPT (?:<((?:{_QUOTED}|[^\"<>])*)>|([^\s<>]+?))[^<>\"]*"
    r": discarded by (?:RCPT|MAIL) ACL(?=:|\Z)"
)
_BEFORE_MAIL = ("AUTH", "STARTTLS", "EHLO or HELO", "connection")
_AUTH = re.compile(r"A=(\S+) ")
_AUTH_BEGINS = re.compile(r" A=[^\s:]+:")
_MESSAGE_STAGE = re.compile(
    r" (temporarily )?(rejected|discarded) (RCPT|after DATA|DATA|DKIM|PRDR|during MIME ACL checks"
    r"|by \S+|because all)(?= |:|\Z)"
)


class Senders(Enum):
    """What may stand behind F=, in the order in which it is tried."""

    STRICT = "a path of RFC 5321, and behind it a login without blanks"
    LOGIN = "a path of RFC 5321, and behind it a login"
    LOOSE = "a path that breaks RFC 5321, such as one with an unquoted >"


@dataclass(frozen=True, slots=True)
class _Path:
    """The address after F=, and the index at which it ends."""

    sender: str
    end: int


def read_verdict(text: str, at: int, read: Read, senders: Senders) -> Read | None:
    """`read` with what is said from the index `at` on.

    None without F=: then it was refused before MAIL, and there is no sender.
    """
    for path in _paths(text, at + 2, senders) if text.startswith("F=", at) else ():
        read.sender = path.sender
        if senders is Senders.LOGIN:
            return _logged_in(text, path.end, read)
        if dropped := _DISCARDED.match(text, path.end):
            read.stage, read.discarded = "RCPT", True
            read.recipient = dropped.group(1) or dropped.group(2)
            return read
        verb = path.end
        if login := _AUTH.match(text, verb + 1):
            verb = login.end() - 1
        stage = _STAGE.match(text, verb + 1)
        if not text.startswith(" ", path.end) or stage is None:
            continue
        temporary, verb_word, read.stage = stage.groups()
        if read.stage == "RCPT" and not _target(text, stage.end(), read):
            continue
        if login is not None and read.stage in _BEFORE_MAIL:
            continue  # nobody logs in after MAIL: the word is the login's
        read.temporary = temporary is not None
        read.discarded = verb_word == "discarded"
        read.logged_in = login is not None and senders is Senders.STRICT
        return read
    return None


def _target(text: str, at: int, read: Read) -> bool:
    """Read the recipient at `at`; False where none is there."""
    target = _TARGET.match(text, at)
    if target is None:
        return _CUT_TARGET.match(text, at) is not None
    quoted, bare = target.groups()
    read.recipient = quoted if quoted is not None else bare
    read.unknown = UNKNOWN_USER.match(text, target.end()) is not None
    return True


def _logged_in(text: str, at: int, read: Read) -> Read | None:
    """A login at `at` that may hold blanks, and so false words: the line is only counted, and more
    than that it was refused need not be read."""
    login = _AUTH_BEGINS.match(text, at)
    stage = _MESSAGE_STAGE.search(text, login.end()) if login else None
    if stage is None:
        return None
    temporary, verb_word, read.stage = stage.groups()
    read.temporary, read.discarded = temporary is not None, verb_word == "discarded"
    read.logged_in = True
    return read


def _paths(text: str, at: int, senders: Senders) -> Iterator[_Path]:
    path = _PATH.match(text, at)
    if path is not None and ("@" in path.group(1) or not path.group(1)):
        yield _Path(path.group(1), path.end())
    bare = _WORD.match(text, at)
    if bare is not None and text[at] != "<":
        yield _Path(bare.group(), bare.end())
    if senders is Senders.LOOSE:
        end = text.find("> ", at)
        for _ in range(MAX_CHOICES):
            if end < 0:
                return
            yield _Path(text[at + 1 : end], end + 1)
            end = text.find("> ", end + 1)
