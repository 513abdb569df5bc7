"""Events as rows of the store, and the positions of looking and of each way of telling.

How it works: events become rows of `notice` in the same transaction that moves the position of
looking; each way of telling has a position of its own. A position is changed only from the value
that was read (compare and set): of two processes one goes on, and the other gets Outrun.

All functions work inside the caller's transaction and raise SQLAlchemyError.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from gatepost_policy.store.notify_tables import Notice as Row
from gatepost_policy.store.notify_tables import NotifyState

Json = dict[str, Any]
NOTICED = "noticed"  # in a row's data: when it was made, Unix seconds; `last` moves


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people are told of. `who`: '' where it has none; `at`, `last`: Unix seconds of
    its beginning and of the last addition; `number`: messages or records."""

    kind: str
    who: str
    at: float
    last: float
    number: int
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """An event with its id in the store."""

    id: int
    event: Event


class Outrun(Exception):
    """Another process has changed the position meanwhile. The text is its name."""


def state(connection: Connection, name: str) -> tuple[str | None, Json]:
    """(text, values) of the position `name`; (None, {}) where there is none."""
    text = connection.scalar(select(NotifyState.state).where(NotifyState.name == name))
    return text, {} if text is None else json.loads(text)


def move(connection: Connection, name: str, before: str | None, to: Json) -> str:
    """Change the position `name` from the text `before` (None: none yet) to `to`; returns the new
    text. Raises Outrun, SQLAlchemyError."""
    text = json.dumps(to, sort_keys=True)
    if before is None:
        # If two processes insert it at the same time, the primary key refuses the second.
        connection.execute(insert(NotifyState).values(name=name, state=text))
        return text
    changed = connection.execute(
        update(NotifyState)
        .where(NotifyState.name == name, NotifyState.state == before)
        .values(state=text)
    )
    if changed.rowcount != 1:
        raise Outrun(name)
    return text


def keep(connection: Connection, events: Iterable[Event]) -> None:
    """Store new events."""
    for event in events:
        connection.execute(
            insert(Row).values(
                kind=event.kind,
                who=event.who,
                at=event.at,
                last=event.last,
                number=event.number,
                data=json.dumps({NOTICED: event.last, **event.data}),
            )
        )


def add(connection: Connection, number: int, event: Event) -> None:
    """Add `event` to the stored one with the id `number`."""
    connection.execute(
        update(Row)
        .where(Row.id == number)
        .values(number=Row.number + event.number, last=event.last)
    )


def recent(connection: Connection, kinds: Sequence[str], since: float) -> dict[str, int]:
    """{who: id} of the newest events of these kinds that were new after `since` (Unix seconds).

    What was added to them later does not make them newer: what goes on for days is told again."""
    rows = connection.execute(
        select(Row.who, Row.id, Row.last, Row.data)
        .where(Row.kind.in_(kinds), Row.last > since)
        .order_by(Row.id)
    )
    return {r.who: r.id for r in rows if json.loads(r.data).get(NOTICED, r.last) > since}


def last(connection: Connection) -> int:
    """The id of the newest event; 0 where there is none."""
    return connection.scalar(select(func.max(Row.id))) or 0


def between(
    connection: Connection, after: int, upto: int, kinds: Sequence[str], most: int
) -> tuple[list[Notice], int]:
    """(events, number): the newest `most` events of these kinds with `after` < id <= `upto`, oldest
    first, and how many there are in all."""
    where = (Row.id > after, Row.id <= upto, Row.kind.in_(kinds))
    found = connection.execute(
        select(Row.__table__).where(*where).order_by(Row.id.desc()).limit(most)
    ).all()
    number = connection.scalar(select(func.count()).select_from(Row).where(*where)) or 0
    return [_notice(row) for row in reversed(found)], number


def newest(connection: Connection, most: int) -> list[Notice]:
    """The newest `most` events, newest first."""
    rows = connection.execute(select(Row.__table__).order_by(Row.id.desc()).limit(most))
    return [_notice(row) for row in rows]


def _notice(row: Any) -> Notice:
    data = json.loads(row.data)
    data.pop(NOTICED, None)
    return Notice(row.id, Event(row.kind, row.who, row.at, row.last, row.number, data))
