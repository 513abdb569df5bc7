"""What a message says it is: a list post, an automatic answer, a report, a reply. Pure.

The header of the message says so; an answer to an invitation (RFC 6047) may be one part of it, then
the header of that part does.

All of it is written by the sender: it can excuse a trap hit only for a limited time
(`sender.excuses`).
"""

import re
from collections.abc import Callable, Sequence

LIST, AUTO, REPORT, REPLY = "list", "auto", "report", "reply"
NONE: frozenset[str] = frozenset()
ALL = frozenset((LIST, AUTO, REPORT, REPLY))
# How many octets of a body are searched for headers of parts. Outlook, Gmail and Apple put the
# answer after the text and its HTML form, and before attachments.
MAX_BODY = 262_144
# RFC 6047 2.4: an answer to an invitation; mail programs set no In-Reply-To in it.
_ANSWERS_INVITATION = re.compile(rb"text/calendar\b.*;\s*method=\"?(?:reply|counter)\b", re.S).match
# Fields of programs older than RFC 3834, of mailbox rules, of lists older than RFC 2919, and of a
# ticket system that sets no other field (Request Tracker).
_OF_ROBOTS = (
    "x-autoreply", "x-auto-reply", "x-autorespond", "x-autoresponder", "x-rt-loop-prevention",
)  # fmt: skip
_OF_LISTS = ("mailing-list", "x-mailing-list", "x-beenthere")
_ANSWERING = frozenset((b"auto_reply", b"auto-reply"))
_NOT_AUTOMATIC = frozenset((b"", b"no"))
_REPORTS = re.compile(rb"multipart/report").match
# MS-OXOMSG 2.2.1.3: the first message of a conversation has 22 octets, each answer adds five.
_THREAD_BEGINS = 22
# The header of a part (RFC 2046 5.1): the lines from a boundary to the next empty line.
_PART = re.compile(
    rb"(?:\A|\n)--[^\r\n]{1,200}\r?\n((?:[!-9;-~]{1,100}:[^\n]*\n(?:[ \t][^\n]*\n)*){1,50})"
)
_PART_TYPE = re.compile(rb"^content-type:((?:[^\n]|\n[ \t])*)", re.I | re.M)


def _answers(thread_index: bytes) -> bool:
    """True where Outlook's Thread-Index (base64) says that this is an answer."""
    return len(thread_index.strip().rstrip(b"=")) * 3 // 4 > _THREAD_BEGINS


def has_parts(values: Callable[[str], Sequence[bytes]]) -> bool:
    """True where the body of a message has parts that may say what it is."""
    for value in values("content-type"):
        if value.lstrip()[:10].lower() == b"multipart/":
            return True
    return False


def of_parts(opening: bytes) -> frozenset[str]:
    """The marks in the headers of the parts; `opening` is the start of a body (`MAX_BODY`)."""
    for header in _PART.findall(opening):
        for kind in _PART_TYPE.findall(header):
            if _ANSWERS_INVITATION(kind.strip().lower()):
                return frozenset((REPLY,))
    return NONE


def read(values: Callable[[str], Sequence[bytes]]) -> frozenset[str]:
    """The marks of a header; `values` gives the values of a field by its lower-case name."""
    found = []
    # Most messages have none of these fields, so each is read only where it is present.
    kinds = [v.strip().lower() for v in values("content-type")]
    # Precedence is no standard, but programs older than RFC 2919 and 3834 write it.
    precedence = [v.strip().lower() for v in values("precedence")]
    # RFC 2919; RFC 2369 3.4, where NO means that posting is not allowed; ezmlm and similar
    # programs.
    posts = values("list-post")
    if (
        values("list-id") or any(map(values, _OF_LISTS)) or (precedence and b"list" in precedence)
        or (posts and b"<" in posts[0])
    ):  # fmt: skip
        found.append(LIST)
    threads = values("thread-index")
    if (
        values("in-reply-to") or values("references")  # RFC 5322 3.6.4
        or any(map(_ANSWERS_INVITATION, kinds)) or (threads and _answers(threads[0]))
    ):  # fmt: skip
        found.append(REPLY)
    # RFC 3834 5: everything but `no` is automatic.
    automatic = values("auto-submitted")
    if (
        any(map(values, _OF_ROBOTS)) or (precedence and not _ANSWERING.isdisjoint(precedence))
        or (automatic and not _NOT_AUTOMATIC.issuperset(map(_keyword, automatic)))
    ):  # fmt: skip
        found.append(AUTO)
    # RFC 6522: delivery and disposition notifications, abuse reports.
    if any(map(_REPORTS, kinds)):
        found.append(REPORT)
    return frozenset(found) if found else NONE


def _keyword(value: bytes) -> bytes:
    return value.partition(b";")[0].strip().lower()


def text(marks: frozenset[str] | None) -> str | None:
    """The marks as they are stored: words joined by commas, '' for no mark, None for not known."""
    return None if marks is None else ",".join(sorted(marks))


def from_text(stored: str | None) -> frozenset[str] | None:
    """The marks that `text` stored."""
    if stored is None:
        return None
    return frozenset(stored.split(",")) if stored else NONE
