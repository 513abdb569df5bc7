"""What a message's header says it is: a list post, an automatic answer, a report, a reply. Pure.

All of it is written by the sender: it can excuse a trap hit for a while, and never forever.
"""

import re
from collections.abc import Callable, Sequence

LIST, AUTO, REPORT, REPLY = "list", "auto", "report", "reply"
NONE: frozenset[str] = frozenset()
# RFC 6047 2.4: somebody accepts or declines an invitation; mail programs name no message in it.
_ANSWERS_INVITATION = re.compile(rb"text/calendar\b.*;\s*method=\"?(?:reply|counter)\b", re.S).match


def read(values: Callable[[str], Sequence[bytes]]) -> frozenset[str]:
    """The marks of a message; `values` gives the values of a field by its lower-case name."""
    found = []
    kinds = [v.strip().lower() for v in values("content-type")]
    # No standard, and what list and answering programs older than RFC 2919 and 3834 write.
    precedence = [v.strip().lower() for v in values("precedence")]
    if values("list-id") or b"list" in precedence:  # RFC 2919
        found.append(LIST)
    if (
        values("in-reply-to") or values("references")  # RFC 5322 3.6.4
        or any(_ANSWERS_INVITATION(v) for v in kinds)
    ):  # fmt: skip
        found.append(REPLY)
    # RFC 3834 5: everything but `no` is automatic.
    if b"auto_reply" in precedence or any(
        v.partition(b";")[0].strip().lower() not in (b"", b"no") for v in values("auto-submitted")
    ):
        found.append(AUTO)
    # RFC 6522: delivery and disposition notifications, abuse reports.
    if any(v.startswith(b"multipart/report") for v in kinds):
        found.append(REPORT)
    return frozenset(found) if found else NONE


def text(marks: frozenset[str] | None) -> str | None:
    """As it is stored: words with commas, '' for none of them, None for not known."""
    return None if marks is None else ",".join(sorted(marks))


def from_text(stored: str | None) -> frozenset[str] | None:
    """Back from what is stored."""
    if stored is None:
        return None
    return frozenset(stored.split(",")) if stored else NONE
