"""The fields read of one line of Exim's log, and what two readings of it have in common. Pure."""

import re
from dataclasses import dataclass, field

from gatepost_policy.mail.facts import Client

Fields = dict[str, str]
# The text after a recipient that was refused as unknown.
UNKNOWN_USER = re.compile(
    r": (?:550[ -])?(?:5\.1\.1 )?(?:unrouteable address|unknown user|user unknown|no such user"
    r"|no such (?:mailbox|recipient|address)|unknown (?:recipient|mailbox|address)"
    r"|(?:mailbox|recipient) (?:unknown|not found))\b",
    re.I,
)


@dataclass(slots=True)
class Read:
    """The fields of a line, read up to the index `end`."""

    end: int
    fields: Fields = field(default_factory=dict)
    client: Client | None = None
    sender: str = ""
    logged_in: bool = False
    temporary: bool = False
    discarded: bool = False
    stage: str = ""
    recipient: str | None = None  # of a refusal at RCPT
    unknown: bool = False  # the recipient was refused as unknown


def shared(one: Read, other: Read) -> Read:
    """What two readings of one rejection have in common, written into `one`; what differs is not
    known and becomes empty."""
    both = one.fields.keys() | other.fields.keys()
    # A field that differs stays, but empty, so that it cannot count as a login.
    same = {key for key in both if one.fields.get(key) == other.fields.get(key)}
    one.fields = {key: one.fields[key] if key in same else "" for key in both}
    if one.client and other.client and one.client.address != other.client.address:
        one.client = Client()
    one.sender = one.sender if one.sender == other.sender else ""
    one.recipient = one.recipient if one.recipient == other.recipient else None
    one.logged_in = one.logged_in and other.logged_in
    one.unknown = False
    one.temporary = one.temporary and other.temporary
    one.discarded = one.discarded and other.discarded
    one.stage = one.stage if one.stage == other.stage else "DATA"
    return one
