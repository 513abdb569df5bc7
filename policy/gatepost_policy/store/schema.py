"""What all tables share: how they are declared, how constraints are named, and column types that
fit both databases.

A table is a class whose attributes are its columns, so that a query says `Message.at`. It is
declared as for SQLAlchemy's mapper, and type checkers see it so, but the mapper itself is not used:
importing it took a fifth of the time of a short command.
"""

from types import NoneType
from typing import TYPE_CHECKING, Any, ClassVar, Never, get_args

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, Table, Text, text

NAMES = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}
METADATA = MetaData(naming_convention=NAMES)

# SQLite fills in row numbers only for a column of type INTEGER.
BigKey = BigInteger().with_variant(Integer, "sqlite")
# Byte order on PostgreSQL too: with a language's collation, texts with one prefix are no range.
Ordered = Text().with_variant(Text(collation="C"), "postgresql")

if TYPE_CHECKING:
    from sqlalchemy.orm import DeclarativeBase
    from sqlalchemy.orm import Mapped as Mapped
    from sqlalchemy.orm import mapped_column as mapped_column

    class Base(DeclarativeBase):
        """The base of all tables."""

        metadata = METADATA

        def __init__(self, never: Never) -> None:
            """Not to be called: rows are not objects of these classes."""

else:
    mapped_column = Column

    class Mapped:
        """`Mapped[int]` as an annotation: what comes out of the column."""

        def __class_getitem__(cls, held: Any) -> Any:
            return held

    class _Declared(type):
        """Makes the table of a class that has `__tablename__`."""

        def __init__(cls, name: str, bases: tuple[type, ...], body: dict[str, Any]) -> None:
            super().__init__(name, bases, body)
            if "__tablename__" in body:
                # Not from `body`: from Python 3.14 on the annotations are not in there (PEP 649).
                cls.__table__ = _table(body, cls.__annotations__)

        def __clause_element__(cls) -> Table:  # noqa: PLW3201 - SQLAlchemy's name for it
            """The class stands for its table in a statement."""
            return cls.__table__

    class Base(metaclass=_Declared):
        """The base of all tables."""

        metadata: ClassVar[MetaData] = METADATA


def partial_index(name: str, *columns: str, where: str) -> Index:
    """An index of the rows for which the SQL condition `where` is true.

    The condition is given for SQLite only, and how a table is partitioned is not given at all: both
    words of PostgreSQL would load its dialect in each process (40 ms), where nothing uses them. On
    PostgreSQL the migrations make what is declared here.
    """
    return Index(name, *columns, sqlite_where=text(where))


def _table(body: dict[str, Any], annotations: dict[str, Any]) -> Table:
    """The table that a class body with these annotations declares. A column may be None where its
    annotation says so."""
    columns = []
    for name, held in annotations.items():
        column = body[name]
        column.name = column.key = name
        column.nullable = NoneType in get_args(held)
        columns.append(column)
    more = body.get("__table_args__", ())
    parts = more if isinstance(more, tuple) else (more,)
    options = parts[-1] if parts and isinstance(parts[-1], dict) else {}
    parts = tuple(part for part in parts if part is not options)
    return Table(body["__tablename__"], METADATA, *columns, *parts, **options)
