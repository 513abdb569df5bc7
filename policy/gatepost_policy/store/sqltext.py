"""SQL for batches: written once from the tables' own columns, in the driver's parameter style.

SQLAlchemy compiles a statement for every execution that has another shape; a batch goes through
`exec_driver_sql` with text that is made once per process and dialect.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, Table

from gatepost_policy.store.schema import Base


def table(name: str) -> Table:
    """The table of this name."""
    return Base.metadata.tables[name]


@lru_cache(maxsize=256)
def insert(dialect: str, name: str, tail: str = "") -> str:
    """INSERT of every column of `name`, in order; `tail` is an ON CONFLICT clause."""
    columns = ", ".join(f'"{c.name}"' for c in table(name).columns)
    marks = ", ".join("?" for _ in table(name).columns)
    return native(dialect, f'INSERT INTO "{name}" ({columns}) VALUES ({marks}) {tail}'.rstrip())


@lru_cache(maxsize=256)
def upsert(dialect: str, name: str, *changes: str) -> str:
    """INSERT of every column; where the row exists, the changes.

    A change is `column+` (add), `column<` (keep the smaller), `column>` (keep the larger),
    `column=` (take the new one), or `column:=EXPRESSION` with `old.` and `new.`.
    """
    parts: list[str] = []
    for change in changes:
        column, assign, expression = change.partition(":=")
        if not assign:
            column, how = change[:-1], change[-1]
            old, new = f'old."{column}"', f'new."{column}"'
            expression = {
                "+": f"{old} + {new}",
                "<": f"CASE WHEN {new} < {old} THEN {new} ELSE {old} END",
                ">": f"CASE WHEN {new} > {old} THEN {new} ELSE {old} END",
                "=": new,
            }[how]
        expression = expression.replace("old.", f'"{name}".').replace("new.", "excluded.")
        parts.append(f'"{column}" = {expression}')
    keys = ", ".join(f'"{c.name}"' for c in table(name).primary_key.columns)
    return insert(dialect, name, f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(parts)}")


@lru_cache(maxsize=256)
def native(dialect: str, sql: str) -> str:
    """`sql` with `?` marks in the style of the dialect's driver."""
    return sql if dialect == "sqlite" else sql.replace("%", "%%").replace("?", "%s")


def many(connection: Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run `sql` once for each of `rows`; nothing where there are none."""
    if rows:
        connection.exec_driver_sql(sql, list(rows))


# SQLite takes 32766 variables in one statement, PostgreSQL 65535; neither gains from so many.
MANY = 500


def chunks(items: Iterable[Any], size: int = MANY) -> Iterator[list[Any]]:
    """`items` in lists of at most `size`."""
    part: list[Any] = []
    for item in items:
        part.append(item)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part
