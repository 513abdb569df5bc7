"""Read the messages of a report with their recipients and signatures, and the time line's marks."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from sqlalchemy import ColumnElement, Connection, select

from gatepost_policy.mail import dkim_reason
from gatepost_policy.mail.facts import Arc, Family, Signature
from gatepost_policy.report.checks import Checked, dmarc_of, spf_of, trail_of
from gatepost_policy.report.conditions import (
    by_domain,
    conditions,
    only_domain_and_time,
    trapped,
)
from gatepost_policy.report.count import bare
from gatepost_policy.report.report import Line
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.standing import Mark
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageDomain, MessageRecipient, MessageSignature

MARKS_MAX = 2_000
WINDOW_MAX = 100_000  # of a sender's newest messages, searched for those of one family


def newest(connection: Connection, selection: Selection, most: int) -> list[int]:
    """The ids of the newest selected messages, newest first. Raises conditions.TooWide."""
    if selection.only is not None and not selection.trapped:
        return list(selection.only[:most])
    keys = by_domain(selection)
    if keys is not None and not selection.by_rows:
        ids = _newest_by_key(connection, keys, most)
        if selection.family is None:
            return ids
        # Look at ever more of the newest, so that a heavy sender's are not all read.
        wanted = most
        while True:
            found = _of_family(connection, ids, selection.family)
            if len(found) >= most or len(ids) < wanted:
                return found[:most]
            if wanted > WINDOW_MAX:
                break
            wanted *= 8
            ids = _newest_by_key(connection, keys, wanted)
    return list(
        connection.scalars(
            select(Message.id)
            .where(*conditions(connection, selection))
            .order_by(Message.at.desc(), Message.id.desc())
            .limit(most)
        )
    )


def newest_of_many(connection: Connection, selection: Selection, most: int) -> list[int]:
    """As `newest` for messages to a trap, of a sender with thousands of messages.

    Those to traps are few and have an index of their own, so the sender's are not read for it.
    """
    keys = by_domain(selection)
    if keys is None or not only_domain_and_time(replace(selection, trapped=None)):
        return newest(connection, selection, most)
    hits = select(Message.id).where(trapped())
    return _newest_by_key(connection, [*keys, MessageDomain.message_id.in_(hits)], most)


def _newest_by_key(connection: Connection, keys: list[ColumnElement[bool]], most: int) -> list[int]:
    """As `newest`, for conditions on MessageDomain: its index alone answers, so it is quick."""
    return list(
        connection.scalars(
            select(MessageDomain.message_id)
            .where(*keys)
            .order_by(MessageDomain.at.desc(), MessageDomain.message_id.desc())
            .limit(most)
        )
    )


def _of_family(connection: Connection, ids: Sequence[int], family: Family) -> list[int]:
    found: set[int] = set()
    for chunk in chunks(ids):
        found.update(
            connection.scalars(
                select(Message.id).where(Message.id.in_(chunk), Message.family == str(family))
            )
        )
    return [number for number in ids if number in found]


def lines(connection: Connection, ids: Sequence[int]) -> tuple[Line, ...]:
    """The messages with these ids, in this order; ids that do not exist are left out."""
    found: dict[int, Line] = {}
    for chunk in chunks(ids):
        recipients: dict[int, list[tuple[str, bool]]] = defaultdict(list)
        for row in connection.execute(
            select(MessageRecipient.message_id, MessageRecipient.address, MessageRecipient.trap)
            .where(MessageRecipient.message_id.in_(chunk))
            .order_by(MessageRecipient.message_id, MessageRecipient.position)
        ):
            recipients[row.message_id].append((row.address, bool(row.trap)))
        signatures = _signatures(connection, chunk)
        for row in connection.execute(select(Message.__table__).where(Message.id.in_(chunk))):
            found[row.id] = Line(
                id=row.id,
                at=row.at,
                source=row.source,
                queue_id=row.queue_id,
                direction=row.direction,
                family=row.family,
                address=bare(row.address or row.prefix),
                client_name=row.client_name,
                helo=row.helo,
                sender=row.sender,
                header_from=row.header_from,
                recipients=tuple(recipients[row.id]),
                size=row.size,
                message_id=row.message_id,
                signatures=tuple(signatures[row.id]),
                arc=None if row.arc_cv is None else Arc(row.arc_cv, row.arc_reason),
                spf=spf_of(cast(Checked, row)),
                dmarc=dmarc_of(cast(Checked, row)),
                trail=trail_of(row.trail),
                action=row.action,
                reason=row.reason,
            )
    return tuple(found[i] for i in ids if i in found)


def _signatures(connection: Connection, chunk: Sequence[int]) -> dict[int, list[Signature]]:
    found: dict[int, list[Signature]] = defaultdict(list)
    for row in connection.execute(
        select(MessageSignature.__table__)
        .where(MessageSignature.message_id.in_(chunk))
        .order_by(MessageSignature.message_id, MessageSignature.position)
    ):
        found[row.message_id].append(
            Signature(
                domain=row.domain,
                selector=row.selector,
                algorithm=row.algorithm,
                canonicalization=row.canonicalization,
                key_bits=row.key_bits,
                body_limit=row.body_limit,
                crypto=row.crypto,
                result=row.result,
                reason=dkim_reason.read(row.reason),
                unsigned_bytes=row.unsigned_bytes,
                flags=tuple(filter(None, (row.flags or "").split(","))),
            )
        )
    return found


def marks(connection: Connection, ids: Sequence[int]) -> tuple[Mark, ...]:
    """The time line's marks of these messages, oldest first."""
    found: list[Mark] = []
    for chunk in chunks(ids):
        results: dict[int, set[str]] = defaultdict(set)
        for message_id, result in connection.execute(
            select(MessageSignature.message_id, MessageSignature.result).where(
                MessageSignature.message_id.in_(chunk)
            )
        ):
            results[message_id].add(result)
        for row in connection.execute(
            select(Message.id, Message.at, Message.family, Message.traps).where(
                Message.id.in_(chunk)
            )
        ):
            seen = results[row.id]
            dkim = "pass" if "pass" in seen else min(seen, default="none")
            found.append(Mark(row.at, row.family, dkim, row.traps > 0))
    return tuple(sorted(found, key=lambda mark: mark.at))
