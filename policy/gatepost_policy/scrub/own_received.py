"""Replace the Received field of our own MTA, which names the submission's client.

Pure. Three ways (`submission.own_received`, docs/privacy.md):

* milter: insert a field whose first line is just `Received:` at the top: then Postfix hides this
  one from milters, and its own can be deleted. Then delete every Received from the lowest up, and
  insert the client's again;
* mta: Postfix hides the client itself. A milter cannot see Postfix's own field, so only the mark of
  the token recipe proves it: smtpd adds a field with the token, the table of header checks marks
  it, and a field without the mark shows that the table is empty. A message without such a field is
  scrubbed as in the first way, or refused where that is not possible;
* proxy: the milter works at a second smtpd, where Received number 1 is always the one that our
  first smtpd wrote.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from gatepost_policy.config.settings import Submission
from gatepost_policy.mail.dates import parse_date, rfc5322
from gatepost_policy.mail.decision import NOT_CONFIGURED, Action, Decision, Edit, Reason

Field = tuple[str, bytes]  # name, value with its leading space and LF folding (P_HDR_LEADSPC)

# Releases are read from `{v}`, which is "$mail_name $mail_version". The operator may choose the
# name, also of several words. A snapshot's version is 3.9-20231112 or 3.9-20231112-nonprod, a
# candidate's 3.9.0-RC1. Sendmail sends a version without a name.
_POSTFIX = re.compile(r"[^\s].{0,255} ([2-7])\.(\d{1,2})(?:[.-][A-Za-z0-9.-]{1,40})?\Z")
VERIFIED = frozenset((3, minor) for minor in range(12))  # 3.0 to 3.11
# In the token recipe smtpd prepends this field with "TOKEN", and header_checks make it "TOKEN ok".
TOKEN_FIELD = "x-gatepost-token"

# The hint where submissions cannot be scrubbed at all. It names no other setting, because none
# works there, and a set-up that only looks right would reveal every client.
NO_POSTFIX = (
    "macro {v} names no Postfix (Sendmail sends a bare version): gatepost cannot hide the client "
    "there in any mode; let submissions come in through Postfix or Exim"
)

_HOST = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,253}[A-Za-z0-9])?\Z")
_QUEUE_ID = re.compile(r"[A-Za-z0-9]{1,64}\Z")
_AUTHENTICATED = re.compile(r"\(Authenticated sender: ([^()\n]*)\)")
_WITH = re.compile(r"\bwith (ESMTPS?A?|UTF8SMTPS?A?|SMTP)\b")


@dataclass(frozen=True, slots=True)
class Hop:
    """What the MTA says of itself and the session, from macros. None: the macro was not given."""

    name: str | None = None  # {j}
    version: str | None = None  # {v}
    queue_id: str | None = None  # {i}
    tls: bool = False
    authenticated: bool = False
    smtputf8: bool = False
    proxy: bool = False  # the listener is submission.proxy_daemon_name
    can_edit: bool = True  # the MTA lets us add and change fields, with their leading space


@dataclass(frozen=True, slots=True)
class Plan:
    """The edits, or why there are none. `hint` tells the operator what to set; it names no client
    and no user. `dropped`: the names (lower-case) of removed fields that are on no list. `relayed`:
    somebody else wrote the mail.
    """

    edits: tuple[Edit, ...] = ()
    relayed: bool = False
    refusal: Decision | None = None
    hint: str | None = None
    dropped: tuple[str, ...] = ()
    login: str | None = None  # as whom the client logged in, None where it is not known


def release(version: str | None) -> tuple[int, int] | None:
    """(3, 7) for a `{v}` of `Postfix 3.7.11`, under whatever mail_name; None for no Postfix."""
    match = _POSTFIX.match(version or "")
    return None if match is None else (int(match.group(1)), int(match.group(2)))


def verified(version: str | None) -> bool:
    """True where `{v}` names a Postfix release whose header editing we have verified."""
    return release(version) in VERIFIED


def protocol(hop: Hop) -> str:
    """The `with` word of our field: RFC 3848, and RFC 6531 4.3 for SMTPUTF8."""
    base = "UTF8SMTP" if hop.smtputf8 else "ESMTP"
    return base + ("S" if hop.tls else "") + ("A" if hop.authenticated else "")


def own_hop(
    settings: Submission, fields: Sequence[Field], hop: Hop, at: float, theirs: int
) -> list[Edit] | Plan:
    """The edits that make our own Received, and the client's, anonymous; or the refusal.

    `theirs`: how many Received fields from the top are the client's own, and not of other people
    whose mail it hands in. `at` is in Unix seconds.
    """
    received = [value for name, value in fields if name.strip().lower() == "received"]
    goes = 0 if settings.client_received == "keep" else theirs
    if release(hop.version) is None:
        return refused(NO_POSTFIX)
    if settings.own_received == "mta":
        token = settings.mta_token
        if token and token not in (hop.version or "").split():
            return refused(
                "submission.mta_token is set, and this listener's {v} does not show it: give the "
                "listener the token recipe of docs/postfix.md"
            )
        if in_sight(received, hop):
            return refused(
                "our own Received is in sight, so Postfix hides another field from us: before "
                "3.7.11 no PREPEND may stand on the submission service"
            )
        if proven(settings, fields):
            return _in_place(received[:goes], at, 0)
    if (
        hop.name is None
        or hop.queue_id is None
        or not (_HOST.match(hop.name) and _QUEUE_ID.match(hop.queue_id))
    ):
        return refused("macros {j} and i are needed at end of message: see docs/postfix.md")
    if settings.own_received == "proxy":
        # `Scrubber.plan` has checked that number 1 was written by the first hop.
        unfolded = received[0].decode("utf-8", "replace")
        spoken = _WITH.findall(unfolded)
        ours = _own_field(hop, spoken[-1] if spoken else protocol(hop), at)
        rest = _in_place(received[1:goes], at, 1)
        return [*rest, Edit("change", "Received", 1, ours)]
    if not verified(hop.version):
        return refused(
            "macro {v} names no Postfix from 3.0 to 3.11, and elsewhere our own Received cannot be "
            "replaced: use one of these, or submission.own_received = proxy, or mta with the "
            "token recipe, both in docs/postfix.md"
        )
    ours = _own_field(hop, protocol(hop), at)
    edits = [Edit("insert", "Received", 0, ours)]
    # All of them, from the lowest up: which one is Postfix's own depends on the version and on the
    # milters before us; deleting only number 1 would reveal the client, without any error, where
    # one of those had added a Received of its own.
    edits += [Edit("delete", "Received", k) for k in range(len(received) + 1, 0, -1)]
    for position, value in enumerate(received, start=1):
        back = writable(value) if position > goes else None
        # The number of fields stays the same: mail loops are found by it (RFC 5321 6.3).
        edits.append(Edit("insert", "Received", position, back or _anonymous(value, at)))
    return edits


def in_sight(received: Sequence[bytes], hop: Hop) -> bool:
    """True where Postfix's own Received of this message is among the fields that we can see. A
    client cannot forge that: the queue id is made after it has spoken.
    """
    if hop.name is None or hop.queue_id is None:
        return False
    marks = f"by {hop.name} (".encode(), f"id {hop.queue_id}".encode()
    return any(all(mark in value for mark in marks) for value in received)


def proven(settings: Submission, fields: Sequence[Field]) -> bool:
    """True where the message has the field that only the header_checks of the token recipe
    write.
    """
    proof = f"{settings.mta_token} ok".encode()
    return bool(settings.mta_token) and any(
        name.lower() == TOKEN_FIELD and value.strip() == proof for name, value in fields
    )


def refused(hint: str) -> Plan:
    """The plan that refuses a message with 451, because the MTA's set-up does not allow a safe
    scrub.

    `hint` is for the operator and must not name the client or the user.
    """
    return Plan(refusal=Decision(Action.TEMPFAIL, Reason.UNVERIFIED_MTA, NOT_CONFIGURED), hint=hint)


def _own_field(hop: Hop, word: str, at: float) -> str:
    # The first line must be exactly "Received:": Postfix hides the first field whose first line
    # is a prefix of one that it added itself, and so hides this one instead of its own.
    return f"\n\tby {hop.name} (Postfix) with {word} id {hop.queue_id};\n\t{rfc5322(at)}"


def _anonymous(value: bytes, at: float) -> str:
    when = parse_date(value.rpartition(b";")[2])
    return f" by anonymous.invalid; {rfc5322(at if when is None else when)}"


def _in_place(received: Sequence[bytes], at: float, above: int) -> list[Edit]:
    """Edits that anonymise these Received in their places, after the first `above` ones."""
    return [
        Edit("change", "Received", above + k, _anonymous(received[k - 1], at))
        for k in range(len(received), 0, -1)
    ]


def writable(value: bytes) -> str | None:
    """`value` as text that can be written back, None where its octets are not UTF-8."""
    try:
        return value.decode("utf-8").replace("\r", "")
    except UnicodeDecodeError:
        return None


def proxy_login(fields: Sequence[Field], hop: Hop) -> str | None:
    """Who logged in at the first hop; None where Received number 1 was not written there."""
    if not hop.proxy or hop.name is None:
        return None
    first = next((v for name, v in fields if name.strip().lower() == "received"), b"")
    text = first.decode("utf-8", "replace")
    logins = _AUTHENTICATED.findall(text)
    # The last match: the EHLO name stands before it and may imitate one.
    return logins[-1] if logins and f"by {hop.name} (" in text else None
