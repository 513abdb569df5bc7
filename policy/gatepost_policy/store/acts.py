"""History of what operators did by hand: who listed, forgave, added a trap or a note, and why.

All functions work inside the caller's transaction. They only record the act; the caller does it.
`value` is the identity or trap as the store writes it, so that all spellings find the same acts.
Times are Unix seconds. All raise SQLAlchemyError.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gatepost_policy.store.tables import Act
from gatepost_policy.text.acts import Done


def keep(
    connection: Connection, name: str, value: str, *, at: float, actor: str = "", note: str = ""
) -> int:
    """Record that `actor` did `name` (as in `text.acts`) to `value` at `at`; returns its id."""
    kept = connection.execute(
        insert(Act).values(at=at, actor=actor, name=name, value=value, note=note).returning(Act.id)
    )
    return int(kept.scalar_one())


def about(connection: Connection, values: Sequence[str], most: int = 50) -> list[Done]:
    """The acts on any of `values`, newest first, `most` at most."""
    found = connection.execute(
        select(Act.__table__)
        .where(Act.value.in_(values))
        .order_by(Act.at.desc(), Act.id.desc())
        .limit(most)
    )
    return [_done(row) for row in found]


def one(connection: Connection, number: int) -> Done | None:
    """The act with this id; None where there is none."""
    row = connection.execute(select(Act.__table__).where(Act.id == number)).one_or_none()
    return None if row is None else _done(row)


def take_back(connection: Connection, number: int, *, at: float, actor: str = "") -> bool:
    """Record that the act `number` was undone. False: it was before, or there is no such act."""
    changed = connection.execute(
        update(Act).where(Act.id == number, Act.undone.is_(None)).values(undone=at, undone_by=actor)
    )
    return bool(changed.rowcount)


def _done(row: Any) -> Done:
    return Done(row.id, row.at, row.actor, row.name, row.value, row.note, row.undone, row.undone_by)
