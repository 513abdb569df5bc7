"""SQL as text, the same for both databases; run it with `execute` and `many`.

Values are marked `?`; `utc_day(EXPRESSION)` is the UTC day (since 1970) of a time in Unix seconds;
`locked` reads rows for a change. Batches use this because SQLAlchemy compiles a statement again for
each new number of values; here the text is made once per process.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any

from sqlalchemy import Connection, CursorResult, Table

from gatepost_policy.store.schema import Base


def table(name: str) -> Table:
    """The table of this name."""
    from gatepost_policy.store import whole_schema as whole_schema  # so that it is there

    return Base.metadata.tables[name]


@lru_cache(maxsize=256)
def insert(name: str, tail: str = "") -> str:
    """INSERT of every column of `name`, in order; `tail` is an ON CONFLICT clause."""
    columns = ", ".join(f'"{c.name}"' for c in table(name).columns)
    marks = ", ".join("?" for _ in table(name).columns)
    return f'INSERT INTO "{name}" ({columns}) VALUES ({marks}) {tail}'.rstrip()


@lru_cache(maxsize=256)
def upsert(name: str, *changes: str) -> str:
    """INSERT of every column; where the row exists already, it gets `changes` instead.

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
    return insert(name, f"ON CONFLICT ({keys}) DO UPDATE SET {', '.join(parts)}")


# Not CAST on PostgreSQL: it rounds (SQLite's truncates), so half of each day would be the next one.
_UTC_DAY = {"sqlite": r"CAST(\1 / 86400 AS bigint)", "postgresql": r"floor(\1 / 86400)"}


@lru_cache(maxsize=1024)
def _native(dialect: str, sql: str) -> str:
    """`sql` in the style of the dialect's driver."""
    sql = re.sub(r"utc_day\(([^()]*)\)", _UTC_DAY[dialect], sql)
    return sql if dialect == "sqlite" else sql.replace("%", "%%").replace("?", "%s")


def execute(
    connection: Connection, sql: str, values: Sequence[object] = ()
) -> "CursorResult[*tuple[Any, ...]]":
    """Run `sql` once with `values`. Raises SQLAlchemyError."""
    return connection.exec_driver_sql(_native(connection.dialect.name, sql), tuple(values))


def many(connection: Connection, sql: str, rows: Sequence[tuple[object, ...]]) -> None:
    """Run `sql` once for each of `rows`; nothing where there are none. Raises SQLAlchemyError."""
    if rows:
        connection.exec_driver_sql(_native(connection.dialect.name, sql), list(rows))


def locked(connection: Connection, query: str) -> str:
    """The SELECT `query`, so that no other transaction changes its rows before this one ends.

    On SQLite it stays as it is: there is only one writer at a time.
    """
    return query if connection.dialect.name == "sqlite" else f"{query} FOR UPDATE"


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
