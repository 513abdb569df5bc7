"""Whether the selected sender can be judged, what proves it, and whose signatures its mail has.

Only messages that hit a trap prove a sender: signatures on other mail of a domain do not prove that
it also sent an unsigned message in its name.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import field

from sqlalchemy import ColumnElement, Connection, Select, and_, exists, func, or_, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import is_within, within_any
from gatepost_policy.mail.facts import IdentityKind
from gatepost_policy.mail.organisation import is_registry_suffix
from gatepost_policy.report.checks import trail_of
from gatepost_policy.report.conditions import (
    chosen_ids,
    conditions,
    proven,
)
from gatepost_policy.report.selection import Selection, key_range
from gatepost_policy.store.schema import Mapped
from gatepost_policy.store.tables import (
    Message,
    MessageRecipient,
    MessageSignature,
    SenderIdentity,
)
from gatepost_policy.system.dataclass import dataclass

SIGNERS_MAX = 50_000  # messages whose signatures are looked at one by one
TRAPS_NAMED = 20


def domain_of(selection: Selection) -> str:
    """The selected domain, or the domain of the selected address; '' for neither."""
    if selection.domain is not None:
        return selection.domain
    return "" if selection.address is None else selection.address.domain


def no_sender(selection: Selection, settings: Settings) -> str | None:
    """Why the selection is not judged as a sender, as a text for the report; None where it is."""
    if selection.sender is None:
        host = selection.host
        if host is not None and host.prefixlen < (32 if host.version == 4 else 64):
            return "no verdict: a prefix of many clients"
        return None
    if selection.address is not None and selection.address.null:
        return "no verdict: bounces have no sender"
    domain = selection.domain
    if domain is None:
        return None
    if is_registry_suffix(domain):
        return "no verdict: a public suffix, many owners"
    if within_any(settings.sender.never_list)(domain):
        return "no verdict: on never_list, a crowd"
    return None


@dataclass(frozen=True, slots=True)
class Proof:
    """`word`: what proves the sender of the messages that hit a trap: `DKIM`, `SPF`, `address`, or
    None. `signed`: any mail of it carries its own signature, to a trap or not."""

    word: str | None = None
    signed: bool = False


def proof(connection: Connection, selection: Selection) -> Proof:
    """What proves the selected sender or host. Raises conditions.TooWide."""
    if selection.sender is None:
        return Proof(None if selection.host is None else "address")
    domain = domain_of(selection)
    if not domain:
        return Proof()
    hits = conditions(connection, selection)
    signed = _SIGNED.where(*hits, _speaks_for(MessageSignature.domain, domain))
    if _any(connection, signed):
        return Proof("DKIM", True)
    if _any(connection, _LET_THROUGH.where(*hits, _speaks_for(Message.spf_domain, domain))):
        return Proof("SPF", _ever_signed(connection, domain))
    return Proof(None, _ever_signed(connection, domain))


# Built once: the overview runs these for each sender.
_SIGNED = (
    select(Message.id)
    .join(MessageSignature, MessageSignature.message_id == Message.id)
    .where(Message.traps > 0, proven())
)
_LET_THROUGH = select(Message.id).where(
    Message.traps > 0, Message.spf == "pass", Message.sender_key != ""
)


def _any(connection: Connection, found: Select[int]) -> bool:
    return connection.scalar(found.limit(1)) is not None


def _speaks_for(column: Mapped[str | None], domain: str) -> ColumnElement[bool]:
    """The condition that `column` is `domain`, above it or below it, as in relaxed alignment.

    Compared without LIKE, so that `_` and `%` in a domain are no wildcards.
    """
    labels = domain.split(".")
    above = [".".join(labels[n:]) for n in range(len(labels))]
    end = f".{domain}"
    start = func.length(column) - len(end) + 1
    return or_(column.in_(above), and_(start > 1, func.substr(column, start) == end))


def _ever_signed(connection: Connection, domain: str) -> bool:
    start, end = key_range(domain)
    known = exists().where(
        SenderIdentity.kind == str(IdentityKind.DKIM),
        SenderIdentity.reversed >= start,
        SenderIdentity.reversed < end,
    )
    return bool(connection.scalar(select(known)))


@dataclass(frozen=True, slots=True)
class Signers:
    """Signatures by result: the selected sender's own, and those of others on its messages."""

    own: Mapping[str, int] = field(default_factory=dict)
    others: Mapping[str, int] = field(default_factory=dict)


def signers(connection: Connection, selection: Selection, messages: int) -> Signers | None:
    """Whose signatures the selected sender's mail carries; None for no domain, or for more than
    SIGNERS_MAX `messages`. A d= above or below the domain is its own, as in relaxed alignment."""
    domain = domain_of(selection)
    if not domain or messages > SIGNERS_MAX:
        return None
    chosen = chosen_ids(connection, selection)
    row = MessageSignature
    own: Counter[str] = Counter()
    others: Counter[str] = Counter()
    for signer, result, number in connection.execute(
        select(row.domain, row.result, func.count())
        .where(row.message_id.in_(chosen))
        .group_by(row.domain, row.result)
    ):
        mine = signer is not None and (is_within(signer, domain) or is_within(domain, signer))
        (own if mine else others)[result] += number
    return Signers(own, others)


def came_over(connection: Connection, selection: Selection, messages: int) -> dict[str, int]:
    """{family: messages} by which mail reached the server that delivered it here, by its own claim.

    Empty for everything, and for more than SIGNERS_MAX `messages`. Raises conditions.TooWide.
    """
    if selection.everything or messages > SIGNERS_MAX:
        return {}
    found: Counter[str] = Counter()
    for text, number in connection.execute(
        select(Message.trail, func.count())
        .where(*conditions(connection, selection), Message.trail.is_not(None))
        .group_by(Message.trail)
    ):
        trail = trail_of(text)
        if trail and trail[0].family is not None:
            found[str(trail[0].family)] += number
    return dict(found.most_common())


def traps_hit(connection: Connection, selection: Selection) -> tuple[str, ...]:
    """The traps that the selected messages hit, as written in RCPT TO; the first TRAPS_NAMED, and
    one more where there are more."""
    chosen = select(Message.id).where(*conditions(connection, selection), Message.traps > 0)
    found = connection.scalars(
        select(MessageRecipient.address)
        .where(MessageRecipient.trap.is_(True), MessageRecipient.message_id.in_(chosen))
        .distinct()
        .order_by(MessageRecipient.address)
        .limit(TRAPS_NAMED + 1)
    )
    return tuple(found)
