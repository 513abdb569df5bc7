"""Events as rows of the store, and how far everybody has come with them.

How it works: what was seen becomes rows of `notice` in the same transaction that moves the place up
to which was looked; each way of telling has a place of its own. A place is changed only from the
value that was read (compare and set), so that of two processes one goes on and the other notices.

All functions work inside the caller's transaction.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, insert, select, update

from gatepost_policy.store.tables import Notice as Row
from gatepost_policy.store.tables import NotifyState

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """Something that people are told of. Times in Unix seconds; `who` is '' where it has none."""

    kind: str
    who: str
    at: float
    last: float
    number: int
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Notice:
    """An event as it is kept."""

    id: int
    event: Event


class Outrun(Exception):
    """Another process has moved the place that was to be moved."""


def state(connection: Connection, name: str) -> tuple[str | None, Json]:
    """(the place called `name` as text, None: not there; the same as values)."""
    text = connection.scalar(select(NotifyState.state).where(NotifyState.name == name))
    return text, {} if text is None else json.loads(text)


def move(connection: Connection, name: str, before: str | None, to: Json) -> str:
    """Move a place from what `state` said; what it says now. Raises Outrun, SQLAlchemyError."""
    text = json.dumps(to, sort_keys=True)
    if before is None:
        # Where two make it at once the primary key lets one through.
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
    """Write events down."""
    for event in events:
        connection.execute(
            insert(Row).values(
                kind=event.kind,
                who=event.who,
                at=event.at,
                last=event.last,
                number=event.number,
                data=json.dumps(dict(event.data)),
            )
        )


def add(connection: Connection, number: int, event: Event) -> None:
    """Add `event` to the one that is kept as `number`."""
    connection.execute(
        update(Row)
        .where(Row.id == number)
        .values(number=Row.number + event.number, last=event.last)
    )


def recent(connection: Connection, kinds: Sequence[str], since: float) -> dict[str, int]:
    """Who has an event of these kinds that was last added to after `since`, and its number."""
    rows = connection.execute(
        select(Row.who, Row.id).where(Row.kind.in_(kinds), Row.last > since).order_by(Row.id)
    )
    return {row.who: row.id for row in rows}


def last(connection: Connection) -> int:
    """The number of the newest; 0: none."""
    return connection.scalar(select(func.max(Row.id))) or 0


def between(
    connection: Connection, after: int, upto: int, kinds: Sequence[str], most: int
) -> tuple[list[Notice], int]:
    """(the newest `most` of these kinds in `after` < id <= `upto`, oldest first; all of them)."""
    where = (Row.id > after, Row.id <= upto, Row.kind.in_(kinds))
    found = connection.execute(
        select(Row.__table__).where(*where).order_by(Row.id.desc()).limit(most)
    ).all()
    number = connection.scalar(select(func.count()).select_from(Row).where(*where)) or 0
    return [_notice(row) for row in reversed(found)], number


def newest(connection: Connection, most: int) -> list[Notice]:
    """The newest, newest first."""
    rows = connection.execute(select(Row.__table__).order_by(Row.id.desc()).limit(most))
    return [_notice(row) for row in rows]


def _notice(row: Any) -> Notice:
    data = json.loads(row.data)
    return Notice(row.id, Event(row.kind, row.who, row.at, row.last, row.number, data))
