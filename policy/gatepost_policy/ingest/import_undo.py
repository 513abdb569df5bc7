"""Undo an import: the store is then as if the import had never been made.

How it works: in bounded transactions, each of which leaves sums that agree with the rows. Messages
are deleted with their keys and subtracted from every sum; a message that a later import read too
passes to that import. Then everything whose first and last times may come from the import
(`import_touched`) is counted anew from the rows that are left, and at last the record of the import
is deleted. An undo that was killed is continued by the next one.

What cannot be done exactly is refused: where retention has purged rows to mere counts, where an
erase changed them, where retention has cut a client that still has an identity down to a network in
them.

Limits: a message that passes to another import keeps its id and its `learned` time. Listings made
while the import was there stay, because they come from hits of live mail. Where retention has
already purged rows of a sender, its number of days does not go down.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine

from gatepost_policy import store
from gatepost_policy.ingest import (
    deltas,
    guesses,
    import_recount,
    import_runs,
    rows,
    totals,
    waiting,
    write,
)
from gatepost_policy.mail import index_key
from gatepost_policy.store import revision, sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

BATCH = 500  # keys in one transaction


class CannotUndoError(Exception):
    """The import cannot be undone. The text says why, without the import's number."""


@dataclass(slots=True)
class Undone:
    """How much was deleted, and how much was passed on because another import read it too."""

    messages: int = 0
    submissions: int = 0
    passed_on: int = 0
    guesses: int = 0  # rows of tried addresses and of hosts that try logins


def undo(
    engine: Engine,
    settings: "Settings",
    number: int,
    progress: Callable[[int], None] = lambda done: None,
) -> Undone:
    """Undo the import `number`. `progress` is called with the number of rows of each step. Raises
    CannotUndoError, StoreError.
    """
    done = Undone()
    store.persistently(engine, partial(_begin, number=number, settings=settings))
    while True:
        step = store.persistently(engine, partial(_step, number=number, settings=settings))
        if not step:
            break
        for one in step:
            if one.to is not None:
                done.passed_on += 1
            elif one.message:
                done.messages += 1
            else:
                done.submissions += 1
        progress(len(step))
    while store.persistently(engine, partial(_recount, number=number, settings=settings)):
        pass
    while gone := store.persistently(engine, partial(guesses.take_back, number=number)):
        done.guesses += gone
        progress(gone)
    store.persistently(engine, partial(_finish, number=number))
    return done


def _begin(connection: Connection, number: int, settings: "Settings") -> None:
    waiting.fold(connection, settings, whole=True)
    sql = sqltext.locked(connection, "SELECT counted FROM import_run WHERE id = ?")
    row = sqltext.execute(connection, sql, (number,)).first()
    if row is None:
        raise CannotUndoError("there is no such import")
    sql = (
        "SELECT count(*) FROM message_key WHERE import_id = ? AND message_id <> 0"
        " AND NOT EXISTS (SELECT 1 FROM message WHERE message.id = message_key.message_id)"
    )
    erased = int(sqltext.execute(connection, sql, (number,)).scalar_one())
    # `counted` also has messages that an erase removed, but those still have their keys.
    counted = int(row.counted) - erased
    if counted > 0:
        raise CannotUndoError(
            f"retention has turned {counted} of its messages into numbers, and whose they were"
            " is not known any more"
        )
    if erased:
        raise CannotUndoError(f"an erase went through {erased} of its messages")
    _refuse_coarse(connection, number)
    sqltext.execute(connection, "UPDATE import_run SET undoing = (1 = 1) WHERE id = ?", (number,))


def _refuse_coarse(connection: Connection, number: int) -> None:
    """Refuse where a row holds only a network, and a client of that network still has an identity.

    The row does not say which client of the network it was. Raises CannotUndoError.
    """
    sql = (
        "SELECT DISTINCT message.prefix FROM message_key"
        " JOIN message ON message.id = message_key.message_id"
        " WHERE message_key.import_id = ? AND message_key.message_id <> 0"
        " AND (message.prefix LIKE '%/24' OR message.prefix LIKE '%/48')"
    )
    coarse = set(sqltext.execute(connection, sql, (number,)).scalars())
    if not coarse:
        return
    sql = "SELECT value FROM identity WHERE kind = 'prefix'"
    for value in sqltext.execute(connection, sql).scalars():
        if index_key.coarse_prefix(value) in coarse:
            raise CannotUndoError(
                "retention has turned the clients of some of its messages into networks, and"
                f" {value}, which came from one of them, is still remembered"
            )


@dataclass(frozen=True, slots=True)
class _Key:
    """One key of the import: its message (0: a submission), and the import it passes `to` (None: to
    none), with where that counted a submission.
    """

    key: str
    message: int
    to: int | None
    counted: str | None


def _step(connection: Connection, number: int, settings: "Settings") -> list[_Key]:
    """Delete or pass on at most BATCH keys; returns them."""
    waiting.fold(connection, settings, whole=True)
    sql = (
        "SELECT key, message_id FROM message_key WHERE import_id = ?"
        " ORDER BY import_id, message_id, key LIMIT ?"
    )
    found = sqltext.execute(connection, sql, (number, BATCH)).all()
    if not found:
        return []
    heirs = _heirs(connection, number, [row.key for row in found])
    keys = [_Key(r.key, r.message_id, *heirs.get(r.key, (None, None))) for r in found]
    _pass_on(connection, number, [one for one in keys if one.to is not None])
    gone = [one for one in keys if one.to is None]
    sqltext.many(
        connection, "DELETE FROM message_key WHERE key = ?", sorted((one.key,) for one in gone)
    )
    _remove(connection, number, {one.message for one in gone if one.message})
    return keys


def _heirs(
    connection: Connection, number: int, keys: list[str]
) -> dict[str, tuple[int | None, str | None]]:
    """For each key that other imports read too: the first of those imports, and where it
    counted.
    """
    marks = ", ".join("?" * len(keys))
    sql = (
        "SELECT key, import_again.import_id, import_again.counted FROM import_again"
        " JOIN import_run ON import_run.id = import_again.import_id"
        f" WHERE key IN ({marks}) AND import_again.import_id <> ? AND NOT undoing"
        " ORDER BY key, import_again.import_id DESC"
    )
    found = sqltext.execute(connection, sql, (*keys, number))
    return {row.key: (row.import_id, row.counted) for row in found}


def _pass_on(connection: Connection, number: int, heirs: list[_Key]) -> None:
    sqltext.many(
        connection,
        "UPDATE message_key SET import_id = ? WHERE key = ?",
        [(one.to, one.key) for one in heirs],
    )
    sqltext.many(
        connection,
        "DELETE FROM import_again WHERE key = ? AND import_id = ?",
        [(one.key, one.to) for one in heirs],
    )
    for one in heirs:
        column = "messages" if one.message else "submissions"
        for who, step in ((number, -1), (one.to, 1)):
            sql = f"UPDATE import_run SET {column} = {column} + ? WHERE id = ?"
            sqltext.execute(connection, sql, (step, who))
        if one.counted is not None:
            import_runs.move_count(connection, number, one.to, json.loads(one.counted))


def _remove(connection: Connection, number: int, messages: Iterable[int]) -> None:
    """Delete these messages, and subtract them from every sum."""
    gone = list(rows.load(connection, sorted(messages)).values())
    if not gone:
        return
    sums = deltas.Sums()
    write.remove(connection, gone, sums)
    totals.write_sums(connection, sums, 0.0)
    people = deltas.Sums()
    used: dict[deltas.DkimKeyKey, int] = {}
    for row in gone:
        people.add(row, ())
        for key in import_recount.keys_used(row):
            used[key] = used.get(key, 0) + 1
    names = ("messages", "trap_messages", "ipv4", "ipv6")
    changes = ", ".join(f"{name} = {name} - ?" for name in names)
    sqltext.many(
        connection,
        f"UPDATE identity SET {changes} WHERE kind = ? AND value = ?",
        [
            (*(getattr(one, name) for name in names), *who)
            for who, one in totals.by_key(people.identities)
        ],
    )
    sql = "DELETE FROM identity WHERE kind = ? AND value = ? AND messages <= 0"
    sqltext.many(connection, sql, sorted(people.identities))
    sql = "UPDATE dkim_key SET messages = messages - ? WHERE reversed = ? AND selector = ?"
    sqltext.many(connection, sql, [(n, *key) for key, n in sorted(used.items())])
    sql = "DELETE FROM dkim_key WHERE reversed = ? AND selector = ? AND messages <= 0"
    sqltext.many(connection, sql, sorted(used))
    # Imported mail lists nobody, but make sure that no evidence is left without its message.
    ids = sorted((row.id,) for row in gone)
    for table in ("evidence", "trap_hit"):
        sqltext.many(connection, f"DELETE FROM {table} WHERE message_id = ?", ids)
    import_recount.touch(connection, number, gone)


def _recount(connection: Connection, number: int, settings: "Settings") -> bool:
    """Count up to AT_ONCE touched things anew; True where there was one."""
    waiting.fold(connection, settings, whole=True)
    sql = (
        "SELECT kind, value, since, until FROM import_touched WHERE import_id = ?"
        " ORDER BY import_id, kind, value LIMIT ?"
    )
    found = sqltext.execute(connection, sql, (number, import_recount.AT_ONCE)).all()
    for row in found:
        import_recount.recount(connection, import_recount.Touched(*row), settings.sender)
    sqltext.many(
        connection,
        "DELETE FROM import_touched WHERE import_id = ? AND kind = ? AND value = ?",
        [(number, row.kind, row.value) for row in found],
    )
    return bool(found)


def _finish(connection: Connection, number: int) -> None:
    """Subtract its submissions, restore when traps were seen in use before it, delete its
    record.
    """
    sql = (
        "SELECT messages, day, direction, family, action, reason FROM import_count"
        " WHERE import_id = ?"
    )
    counts = [tuple(row) for row in sqltext.execute(connection, sql, (number,))]
    where = "day = ? AND direction = ? AND family = ? AND action = ? AND reason = ?"
    sql = f"UPDATE submission_count SET messages = messages - ? WHERE {where}"
    sqltext.many(connection, sql, counts)
    sql = f"DELETE FROM submission_count WHERE {where} AND messages <= 0"
    sqltext.many(connection, sql, [row[1:] for row in counts])
    sql = "SELECT live FROM import_run WHERE id = ?"
    live = json.loads(sqltext.execute(connection, sql, (number,)).scalar() or "{}")
    sql = (
        "UPDATE trap SET live_at = ?, live_as = ?"
        " WHERE kind = 'exact' AND key = ? AND live_at = ? AND live_as = 'sender'"
    )
    told = [(before, how, key, after) for key, (before, how, after) in sorted(live.items())]
    sqltext.many(connection, sql, told)
    for table, column in (
        ("import_count", "import_id"),
        ("import_again", "import_id"),
        ("import_run", "id"),
    ):
        sqltext.execute(connection, f"DELETE FROM {table} WHERE {column} = ?", (number,))
    for topic in ("repeat", "listings"):
        revision.bump(connection, topic)
