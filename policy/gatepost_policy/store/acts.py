"""What operators did by hand, kept as history: who listed, forgave, trapped or noted, and why.

All functions work inside the caller's transaction. What an act did is done by whoever calls; here
it is only remembered. `value` is the identity or trap as the store writes it, so that each way to
name it finds the same acts.
"""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update

from gatepost_policy.store.tables import Act
from gatepost_policy.text.acts import Done


def keep(
    connection: Connection, name: str, value: str, *, at: float, actor: str = "", note: str = ""
) -> int:
    """Remember that `actor` did `name` to `value` at `at`; returns the act's id."""
    kept = connection.execute(
        insert(Act).values(at=at, actor=actor, name=name, value=value, note=note).returning(Act.id)
    )
    return int(kept.scalar_one())


def about(connection: Connection, values: Sequence[str], most: int = 50) -> list[Done]:
    """The acts on any of `values`, newest first."""
    found = connection.execute(
        select(Act.__table__)
        .where(Act.value.in_(values))
        .order_by(Act.at.desc(), Act.id.desc())
        .limit(most)
    )
    return [_done(row) for row in found]


def one(connection: Connection, number: int) -> Done | None:
    """The act with this id."""
    row = connection.execute(select(Act.__table__).where(Act.id == number)).one_or_none()
    return None if row is None else _done(row)


def take_back(connection: Connection, number: int, *, at: float, actor: str = "") -> bool:
    """Remember that an act was undone. False: it was already, or there is none."""
    changed = connection.execute(
        update(Act).where(Act.id == number, Act.undone.is_(None)).values(undone=at, undone_by=actor)
    )
    return bool(changed.rowcount)


def _done(row: Any) -> Done:
    return Done(row.id, row.at, row.actor, row.name, row.value, row.note, row.undone, row.undone_by)
