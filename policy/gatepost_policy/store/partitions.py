"""Number messages, and on PostgreSQL keep one partition a month for their rows.

The upper bits of an id are the month in which gatepost learned of the message, so an id alone
leads to one partition of `message`, `recipient` and `signature`, and ids grow with that time.
SQLite has one writer and no partitions: its ids count from 1.
"""

from collections.abc import Sequence
from datetime import UTC, datetime

from sqlalchemy import Connection, Engine, text

from gatepost_policy.store import engine as store

# 2**36 messages a month; month numbers (since year 0) stay below 2**53, exact in JSON too.
MONTH_BITS = 36
PARTITIONED = ("message", "recipient", "signature")
# As migrate.ADVISORY_LOCK, but another number.
ADVISORY_LOCK = 0x6761746571

_made: set[tuple[str, int]] = set()


def month_of(learned: float) -> int:
    """Months since year 0 of a Unix time, UTC."""
    when = datetime.fromtimestamp(learned, UTC)
    return when.year * 12 + when.month - 1


def first_id(month: int) -> int:
    """The smallest id of a month."""
    return month << MONTH_BITS


def suffix(month: int) -> str:
    """The end of the names of a month's partitions, such as `_p202611`."""
    return f"_p{month // 12:04d}{month % 12 + 1:02d}"


def prepare(engine: Engine, learned: float) -> None:
    """Make sure that rows learned at `learned` have a partition. Raises StoreError.

    Done in a transaction of its own, before the batch: adding a partition locks the table.
    """
    if engine.dialect.name != "postgresql":
        return
    month = month_of(learned)
    if (str(engine.url), month) in _made:
        return
    with store.writing(engine) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        for wanted in (month, month + 1):
            for table in PARTITIONED:
                name = table + suffix(wanted)
                if connection.scalar(text("SELECT to_regclass(:name)"), {"name": name}) is None:
                    connection.exec_driver_sql(
                        f"CREATE TABLE {name} PARTITION OF {table}"
                        f" FOR VALUES FROM ({first_id(wanted)}) TO ({first_id(wanted + 1)})"
                    )
    _made.add((str(engine.url), month))


def forget() -> None:
    """Forget which partitions exist: the server may be another one now (after a failover)."""
    _made.clear()


def take_ids(connection: Connection, count: int, learned: float) -> Sequence[int]:
    """`count` unused ids for messages learned at `learned` (Unix seconds), ascending."""
    if not count:
        return ()
    if connection.dialect.name == "sqlite":
        last = connection.exec_driver_sql(
            "INSERT INTO revision (topic, number) VALUES ('message', ?)"
            " ON CONFLICT (topic) DO UPDATE SET number = number + excluded.number"
            " RETURNING number",
            (count,),
        ).scalar_one()
        return range(int(last) - count + 1, int(last) + 1)
    first, most = first_id(month_of(learned)), (1 << MONTH_BITS) - 1
    taken = connection.exec_driver_sql(
        "SELECT nextval('message_seq') FROM generate_series(1, %s)", (count,)
    ).scalars()
    return sorted(first + (int(n) & most) for n in taken)


def drop_empty(engine: Engine, before: float) -> int:
    """Drop the empty partitions of months that ended before `before` (Unix seconds); returns how
    many. Raises StoreError."""
    if engine.dialect.name != "postgresql":
        return 0
    month = month_of(before)
    dropped = 0
    with store.writing(engine) as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({ADVISORY_LOCK})")
        # While we wait for a long report, all recorders would wait for us: give up after 2 s.
        connection.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        names = connection.exec_driver_sql(
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " JOIN pg_class p ON p.oid = i.inhparent"
            " WHERE p.relname IN ('message', 'recipient', 'signature') ORDER BY 1"
        ).scalars().all()  # fmt: skip
        for name in names:
            label = str(name).rpartition("_p")[2]
            if int(label[:4]) * 12 + int(label[4:]) - 1 >= month:
                continue
            if connection.exec_driver_sql(f"SELECT 1 FROM {name} LIMIT 1").first() is None:
                connection.exec_driver_sql(f"DROP TABLE {name}")
                dropped += 1
    return dropped
