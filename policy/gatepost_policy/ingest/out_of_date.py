"""Which old mail has marks of trap hits that are out of date, because the traps have changed."""

import re
from array import array
from collections.abc import Iterable, Iterator
from fnmatch import translate
from re import Pattern

from sqlalchemy import Connection, Select, and_, not_, or_, select

from gatepost_policy import traps
from gatepost_policy.mail.address import OPEN
from gatepost_policy.mail.decision import Reason
from gatepost_policy.rules.excuses import CLASSES
from gatepost_policy.store import sqltext
from gatepost_policy.store.tables import Message, MessageRecipient, TrapRow

# Reasons of decisions that are made only where a recipient is a trap at that moment.
OF_TRAPS = (
    Reason.TRAP,
    Reason.TRAP_MIXED,
    Reason.REPLAYED,
    Reason.ONE_WITNESS,
    Reason.GOOD_SENDER,
    *(reason for reason, _ in CLASSES),
)


def ids(connection: Connection, most: int | None = None) -> "array[int]":
    """The messages whose marks are out of date, each once, in order; `most` of them at most."""
    found: array[int] = array("Q")
    streamed = connection.execution_options(yield_per=10_000)
    for query in _out_of_date(_by_pattern(connection)):
        if most is None:
            found.extend(streamed.scalars(query))
        elif len(found) < most:
            found.extend(connection.scalars(query.limit(most - len(found))))
    ordered = sorted(found)
    return array("Q", (one for n, one in enumerate(ordered) if not n or ordered[n - 1] != one))


def _out_of_date(names: Iterable[str]) -> Iterator[Select[int]]:
    """Queries for the messages to mark; `names`: trap keys that a domain trap or pattern covers."""
    yield _new_hits().with_only_columns(MessageRecipient.message_id)
    now = select(MessageRecipient.message_id).where(not_(MessageRecipient.trap))
    for keys in sqltext.chunks(names):
        yield now.where(MessageRecipient.trap_key.in_(keys))
    yield _old_hits().with_only_columns(MessageRecipient.message_id)


def flips(connection: Connection, numbers: list[int]) -> dict[int, dict[str, bool]]:
    """For each of these messages whose marks are out of date: what the mark of each trap key should
    be."""
    found: dict[int, dict[str, bool]] = {}
    recipient = MessageRecipient
    among = recipient.message_id.in_(numbers)
    for message_id, key in connection.execute(_new_hits().where(among)):
        found.setdefault(message_id, {})[key] = True
    unmarked = select(recipient.message_id, recipient.trap_key).where(among, not_(recipient.trap))
    pairs = connection.execute(unmarked).all()
    covered = set(_by_pattern(connection, {key for _, key in pairs}))
    for message_id, key in pairs:
        if key in covered:
            found.setdefault(message_id, {})[key] = True
    for message_id, key in connection.execute(_old_hits().where(among)):
        found.setdefault(message_id, {}).setdefault(key, False)
    return found


def _new_hits() -> Select[int, str]:
    """Recipients that are exact traps now and are not marked."""
    recipient = MessageRecipient
    return (
        select(recipient.message_id, recipient.trap_key)
        .where(not_(recipient.trap))
        .join(
            TrapRow,
            and_(TrapRow.kind == "exact", TrapRow.key == recipient.trap_key, traps.live()),
        )
    )


def _old_hits() -> Select[int, str]:
    """Marks made here for a trap that is removed: the mail is older than the trap. Where the reason
    of the decision is one of OF_TRAPS, it was a trap then as well (and was added again later).
    """
    recipient = MessageRecipient
    return (
        select(recipient.message_id, recipient.trap_key)
        .join(
            TrapRow,
            and_(
                TrapRow.kind == "exact",
                TrapRow.key == recipient.trap_key,
                TrapRow.removed.is_not(None),
            ),
        )
        .join(Message, Message.id == recipient.message_id)
        .where(
            recipient.trap,
            Message.at < TrapRow.added,
            Message.reason.not_in([str(reason) for reason in OF_TRAPS]),
        )
    )


def _by_pattern(connection: Connection, keys: Iterable[str] | None = None) -> Iterator[str]:
    """Those of `keys` (None: of all recorded trap keys) that a domain trap or a pattern covers."""
    domains: set[str] = set()
    patterns: list[Pattern[str]] = []
    for kind, key in connection.execute(
        select(TrapRow.kind, TrapRow.key).where(
            or_(TrapRow.kind == "domain", TrapRow.kind == "pattern"), traps.live()
        )
    ):
        if kind == "domain":
            domains.add(key)
        else:
            # `[` is not legal in an unquoted address: here it is a plain character, no class as in
            # a shell.
            patterns.append(re.compile(translate(key.replace("[", "[[]"))))
    if not domains and not patterns:
        return
    if keys is None:
        keys = connection.execution_options(yield_per=10_000).scalars(
            select(MessageRecipient.trap_key).distinct()
        )
    yield from matching(keys, domains, patterns)


def matching(keys: Iterable[str], domains: set[str], patterns: list[Pattern[str]]) -> Iterator[str]:
    """Those of `keys` that one of these domain traps or patterns covers."""
    for key in keys:
        local, _, domain = key.rpartition("@")
        if local not in OPEN and (
            "@" + domain in domains or any(pattern.match(key) for pattern in patterns)
        ):
            yield key
