"""The record of imports: what each run of `milterctl import` has added, so that it can be undone.

A message belongs to the import that read it first (`message_key.import_id`). Where a later one
reads it too, that is recorded (`import_again`), and the message passes to it when the first one is
undone (`import_undo`). A message that is also seen live belongs to no import any more.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select

from gatepost_policy.store import sqltext
from gatepost_policy.store.import_tables import ImportRun
from gatepost_policy.store.tables import TrapRow


class ImportGoneError(Exception):
    """The import that is under way was undone by another process."""


@dataclass(frozen=True, slots=True)
class Run:
    """One import, as `milterctl import --list` shows it. Times are Unix seconds."""

    id: int
    mta: str
    files: tuple[str, ...]
    began: float
    ended: float | None  # None: under way, or stopped half-way
    lines: int
    messages: int  # that it added and still has
    submissions: int
    counted: int  # messages that retention has purged to mere counts
    guesses: int  # tried addresses, and hosts that try logins
    undoing: bool  # it is being undone, or that was stopped half-way


def begin(connection: Connection, mta: str, files: Sequence[str], now: float) -> int:
    """Record an import that begins `now` (Unix seconds); returns its number."""
    fresh = insert(ImportRun).values(
        mta=mta,
        files=json.dumps(list(files)),
        began=now,
        lines=0,
        messages=0,
        submissions=0,
        counted=0,
        undoing=False,
        live="{}",
    )
    return int(connection.execute(fresh.returning(ImportRun.id)).scalar_one())


def end(connection: Connection, number: int, lines: int, now: float, *, told: bool) -> int:
    """Record that the import has read all its `lines`, at `now` (Unix seconds). `told` False: it
    found nothing, and its record is deleted. Returns how many submissions it counted.
    """
    sql = "SELECT submissions FROM import_run WHERE id = ?"
    counted = int(sqltext.execute(connection, sql, (number,)).scalar() or 0)
    if told:
        sql = "UPDATE import_run SET ended = ?, lines = ? WHERE id = ?"
        sqltext.execute(connection, sql, (now, lines, number))
    else:
        sqltext.execute(connection, "DELETE FROM import_run WHERE id = ?", (number,))
    return counted


def add(
    connection: Connection,
    number: int,
    messages: int,
    submissions: Mapping[tuple[object, ...], int],
) -> None:
    """Record that the import added so many new messages, and these submissions.

    `submissions` holds numbers by (day, direction, family, action, reason). Raises ImportGoneError
    where the import was undone meanwhile.
    """
    new = sum(submissions.values())
    sql = (
        "UPDATE import_run SET messages = messages + ?, submissions = submissions + ?"
        " WHERE id = ? AND NOT undoing"
    )
    if not sqltext.execute(connection, sql, (messages, new, number)).rowcount:
        raise ImportGoneError
    sqltext.many(
        connection,
        sqltext.upsert("import_count", "messages+"),
        [(number, *where, count) for where, count in sorted(submissions.items())],
    )


def attest(
    connection: Connection, known: Mapping[str, tuple[object, ...] | None], number: int | None
) -> None:
    """Record that these `known` keys were read again: by the import `number`, or (None) seen live.

    A value is where a submission was counted: (day, direction, family, action, reason), None for a
    message.
    """
    if not known:
        return
    if number is not None:
        sql = (
            "INSERT INTO import_again (key, import_id, counted) SELECT key, CAST(? AS bigint), ?"
            " FROM message_key WHERE key = ? AND import_id IS NOT NULL AND import_id <> ?"
            " ON CONFLICT DO NOTHING"
        )
        sqltext.many(
            connection,
            sql,
            [
                (number, None if where is None else json.dumps(where), key, number)
                for key, where in sorted(known.items())
            ],
        )
        return
    # `release` changes only keys that belong to an import.
    for part in sqltext.chunks(sorted(known)):
        release(connection, {key: known[key] for key in part})


def release(connection: Connection, known: Mapping[str, tuple[object, ...] | None]) -> None:
    """Take these keys away from their imports, because they were seen live."""
    marks = ", ".join("?" * len(known))
    sql = (
        "SELECT key, message_id, import_id FROM message_key"
        f" WHERE key IN ({marks}) AND import_id IS NOT NULL"
    )
    owned = sqltext.execute(connection, sql, tuple(known)).all()
    for row in owned:
        where = known[row.key]
        if where is not None:
            move_count(connection, row.import_id, None, where)
        column = "messages" if where is None else "submissions"
        sql = f"UPDATE import_run SET {column} = {column} - 1 WHERE id = ?"
        sqltext.execute(connection, sql, (row.import_id,))
    keys = [(row.key,) for row in owned]
    sqltext.many(connection, "UPDATE message_key SET import_id = NULL WHERE key = ?", keys)
    sqltext.many(connection, "DELETE FROM import_again WHERE key = ?", keys)


def move_count(
    connection: Connection, number: int, to: int | None, where: Sequence[object]
) -> None:
    """Move one submission that the import `number` has counted to the import `to`; None: to
    none.
    """
    sql = (
        "UPDATE import_count SET messages = messages - 1 WHERE import_id = ? AND day = ?"
        " AND direction = ? AND family = ? AND action = ? AND reason = ?"
    )
    moved = sqltext.execute(connection, sql, (number, *where)).rowcount
    if moved and to is not None:
        sql = sqltext.upsert("import_count", "messages+")
        sqltext.execute(connection, sql, (to, *where, 1))


def counted(connection: Connection, messages: Collection[int]) -> None:
    """Record that these messages are about to be purged to mere counts: their imports cannot be
    undone completely any more.
    """
    for part in sqltext.chunks(sorted(messages)):
        marks = ", ".join("?" * len(part))
        sql = (
            "SELECT import_id, count(*) AS number FROM message_key WHERE import_id IS NOT NULL"
            f" AND message_id IN ({marks}) GROUP BY import_id ORDER BY import_id"
        )
        sql_update = "UPDATE import_run SET counted = counted + ? WHERE id = ?"
        found = sqltext.execute(connection, sql, tuple(part)).all()
        sqltext.many(connection, sql_update, [(row.number, row.import_id) for row in found])
        sql = (
            "DELETE FROM import_again WHERE key IN"
            f" (SELECT key FROM message_key WHERE message_id IN ({marks}))"
        )
        sqltext.execute(connection, sql, tuple(part))


def note_live(connection: Connection, number: int, traps: Sequence[str], at: float) -> None:
    """Keep what was known of these traps, before the import records at `at` (Unix seconds) that
    they are in use.
    """
    wanted = select(TrapRow.key, TrapRow.live_at, TrapRow.live_as).where(
        TrapRow.kind == "exact", TrapRow.key.in_(traps)
    )
    sql = sqltext.locked(connection, "SELECT live FROM import_run WHERE id = ?")
    told: dict[str, list[object]] = json.loads(
        sqltext.execute(connection, sql, (number,)).scalar() or "{}"
    )
    for key, live_at, live_as in connection.execute(wanted):
        before = told.get(key)
        if before is None or (before[2], "sender") != (live_at, live_as):
            told[key] = [live_at, live_as, at]
        else:
            before[2] = at
    text = json.dumps(told, separators=(",", ":"))
    sqltext.execute(connection, "UPDATE import_run SET live = ? WHERE id = ?", (text, number))


def runs(connection: Connection) -> list[Run]:
    """All imports in the store, oldest first."""
    names = ("id", "mta", "began", "ended", "lines", "messages", "submissions", "counted")
    found = sqltext.execute(
        connection, f"SELECT {', '.join(names)}, files, undoing FROM import_run ORDER BY id"
    ).mappings()
    tried: dict[int, int] = {}
    for table in ("mined", "groper"):
        sql = f"SELECT import_id, count(*) AS number FROM {table} GROUP BY import_id"
        for one in sqltext.execute(connection, sql):
            tried[one.import_id] = tried.get(one.import_id, 0) + one.number
    return [
        Run(
            files=tuple(json.loads(row["files"])),
            undoing=bool(row["undoing"]),
            guesses=tried.get(row["id"], 0),
            **{name: row[name] for name in names},
        )
        for row in found
    ]
