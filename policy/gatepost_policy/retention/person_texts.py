"""One person's address inside longer texts: bounce addresses, notes, Message-IDs, JSON.

A mailing list writes whom it mails into its envelope sender (VERP: `list+local=domain@...`), a
forwarder whose mail it is (SRS: `SRS0=...=domain=local@...`), a signing server a tag before the
local part (BATV: `prvs=...=local@domain`). No index finds these, so the tables are read whole, in
steps: an erase is rare, and holds nobody up.
"""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Engine

from gatepost_policy import store
from gatepost_policy.store import sqltext

STEP = 20_000  # messages that are looked through in one transaction
TELL_S = 5.0  # seconds from one word about the progress to the next
_LAST = 2**63 - 1
# Free text of operators: (table, column, primary key).
_NOTES = (
    ("trap", "note", ("id",)),
    ("listing", "note", ("id",)),
    ("act", "note", ("id",)),
    ("act", "actor", ("id",)),
    ("identity", "note", ("kind", "value")),
)
_JSON = (
    ("watch_position", "state", ("host", "name")),
    ("notify_state", "state", ("name",)),
    ("waiting_hit", "hit", ("id",)),
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: `carries` tells whether a text holds the address, `in_message_id` whether
    a Message-ID ends with it, as in `<2026.local@domain>`; `without` is the text with another one
    for it, `parts` are words (lower case) that every such text holds.
    """

    carries: Callable[[str], bool]
    in_message_id: Callable[[str], bool]
    without: Callable[[str], str]
    parts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Carrying:
    """Ids of messages whose sender or author carries the address, and of those whose Message-ID
    does; (message_id, position) of the recipients that do."""

    named: list[int]
    message_ids: list[int]
    recipients: list[tuple[int, int]]


class Progress:
    """Tells every TELL_S seconds how far a long work is."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told, self._at = told, time.monotonic() + TELL_S

    def __call__(self, text: str) -> None:
        """Say `text`, unless something was said a moment ago."""
        if time.monotonic() >= self._at:
            self._told(text)
            self._at = time.monotonic() + TELL_S


def search(engine: Engine, wanted: Wanted, progress: Progress) -> Carrying:
    """All that carries the address in `message` and `recipient`. Raises StoreError.

    Each STEP has a transaction of its own: PostgreSQL clears nothing away, and SQLite's log grows,
    for as long as one is open.
    """
    found = Carrying([], [], [])
    low, seen = 0, 0
    while True:
        with store.reading(engine) as connection:
            sql = "SELECT id FROM message WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
            top = sqltext.execute(connection, sql, (low, STEP - 1)).scalar()
            ids = (low, _LAST if top is None else int(top))
            _messages(connection, wanted, ids, found)
            _recipients(connection, wanted, ids, found)
        if top is None:
            return found
        low, seen = int(top), seen + STEP
        progress(f"looked through {seen} messages")


def _messages(
    connection: Connection, wanted: Wanted, ids: tuple[int, int], found: Carrying
) -> None:
    columns = ("sender", "header_from", "message_id")
    for row in _like(connection, "message", ("id",), columns, wanted, ids):
        if any(value and wanted.carries(value) for value in row[1:3]):
            found.named.append(int(row[0]))
        elif row[3] and (wanted.carries(row[3]) or wanted.in_message_id(row[3])):
            found.message_ids.append(int(row[0]))


def _recipients(
    connection: Connection, wanted: Wanted, ids: tuple[int, int], found: Carrying
) -> None:
    key = ("message_id", "position")
    rows = _like(connection, "recipient", key, ("address",), wanted, ids)
    found.recipients.extend((int(row[0]), int(row[1])) for row in rows if wanted.carries(row[2]))


def senders(connection: Connection, wanted: Wanted) -> list[dict[str, Any]]:
    """The identities of senders that carry the address."""
    rows = _like(connection, "identity", ("kind", "value"), ("value",), wanted)
    found: list[dict[str, Any]] = []
    for kind, value, _ in rows:
        if kind == "sender" and wanted.carries(value):
            sql = "SELECT * FROM identity WHERE kind = ? AND value = ?"
            found += map(dict, sqltext.execute(connection, sql, (kind, value)).mappings())
    return found


def tried(connection: Connection, wanted: Wanted) -> list[str]:
    """Tried addresses that carry the address."""
    rows = _like(connection, "mined", ("address",), ("address",), wanted)
    return sorted({str(row[0]) for row in rows if wanted.carries(row[0])})


@dataclass(frozen=True, slots=True)
class Note:
    """An operator's note that carries the address, and where it stands."""

    table: str
    column: str
    key: tuple[str, ...]  # names of the primary key's columns
    of: tuple[object, ...]  # and their values
    text: str


def notes(connection: Connection, wanted: Wanted) -> list[Note]:
    """The notes that carry the address. Reads the tables of traps, listings and senders."""
    return [
        Note(table, column, key, tuple(row[:-1]), str(row[-1]))
        for table, column, key in _NOTES
        for row in _like(connection, table, key, (column,), wanted)
        if wanted.carries(row[-1])
    ]


def rewrite(connection: Connection, wanted: Wanted, found: list[Note]) -> None:
    """Put another address for this one into these notes, and into saved states."""
    for note in found:
        same = (*note.key, note.column), (*note.of, note.text)
        _set(connection, note.table, note.column, same[0], wanted.without(note.text), same[1])
    for table, column, key in _JSON:
        names = ", ".join((*key, column))
        query = sqltext.locked(connection, f"SELECT {names} FROM {table}")
        for row in sqltext.execute(connection, query).all():
            before = json.loads(row[-1])
            after = _each_text(before, wanted.without)
            if after != before:
                _set(connection, table, column, key, json.dumps(after), tuple(row[:-1]))


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """A value of JSON with every text in it changed, those of keys too."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(one, change) for one in value]
    if isinstance(value, dict):
        return {change(name): _each_text(one, change) for name, one in value.items()}
    return value


def _set(
    connection: Connection,
    table: str,
    column: str,
    key: tuple[str, ...],
    value: str,
    of: tuple[object, ...],
) -> None:
    where = " AND ".join(f"{name} = ?" for name in key)
    sqltext.execute(connection, f"UPDATE {table} SET {column} = ? WHERE {where}", (value, *of))


def _like(
    connection: Connection,
    table: str,
    key: tuple[str, ...],
    columns: tuple[str, ...],
    wanted: Wanted,
    ids: tuple[int, int] | None = None,
) -> Iterator[tuple[Any, ...]]:
    """`key` and `columns` of the rows that hold all parts in one of `columns`.

    `ids`: only where the first column of `key` lies above the first and not above the second.
    """
    parts = [f"%{_escaped(part)}%" for part in wanted.parts]
    one = " AND ".join(["lower({0}) LIKE ? ESCAPE '!'"] * len(parts)) or "true"
    where = " OR ".join(f"({one.format(column)})" for column in columns)
    values: list[object] = [*parts * len(columns)]
    if ids is not None:
        where = f"{key[0]} > ? AND {key[0]} <= ? AND ({where})"
        values = [*ids, *values]
    sql = f"SELECT {', '.join((*key, *columns))} FROM {table} WHERE {where}"
    for row in sqltext.execute(connection, sql, values):
        if any(row[len(key) :]):
            yield tuple(row)


def _escaped(part: str) -> str:
    return part.replace("!", "!!").replace("%", "!%").replace("_", "!_")
