"""One person's address inside longer texts: bounce addresses, notes, Message-IDs, JSON.

A mailing list writes whom it mails into its envelope sender (VERP: `list+local=domain@...`), a
forwarder whose mail it is (SRS: `SRS0=...=domain=local@...`), a signing server a tag before the
local part (BATV: `prvs=...=local@domain`). No index finds these, so the tables are read whole: an
erase is rare.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection

from gatepost_policy.store import sqltext

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
    does."""

    named: list[int]
    message_ids: list[int]


def messages(connection: Connection, wanted: Wanted) -> Carrying:
    """The messages that carry the address. Reads all of `message`."""
    columns = ("sender", "header_from", "message_id")
    found = Carrying([], [])
    for row in _like(connection, "message", ("id",), columns, wanted):
        if any(value and wanted.carries(value) for value in row[1:3]):
            found.named.append(int(row[0]))
        elif row[3] and (wanted.carries(row[3]) or wanted.in_message_id(row[3])):
            found.message_ids.append(int(row[0]))
    return found


def recipients(connection: Connection, wanted: Wanted) -> list[tuple[int, int]]:
    """(message_id, position) of recipients that carry the address. Reads all of `recipient`."""
    key = ("message_id", "position")
    rows = _like(connection, "recipient", key, ("address",), wanted)
    return [(int(row[0]), int(row[1])) for row in rows if wanted.carries(row[2])]


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


def rewrite(connection: Connection, wanted: Wanted) -> None:
    """Put another address for this one into notes and saved states."""
    for table, column, key in _NOTES:
        for row in list(_like(connection, table, key, (column,), wanted)):
            if wanted.carries(row[-1]):
                _set(connection, table, column, key, wanted.without(row[-1]), row[:-1])
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
) -> Iterator[tuple[Any, ...]]:
    """`key` and `columns` of the rows that hold all parts in one of `columns`."""
    parts = [f"%{_escaped(part)}%" for part in wanted.parts]
    one = " AND ".join(["lower({0}) LIKE ? ESCAPE '!'"] * len(parts)) or "true"
    where = " OR ".join(f"({one.format(column)})" for column in columns)
    sql = f"SELECT {', '.join((*key, *columns))} FROM {table} WHERE {where}"
    for row in sqltext.execute(connection, sql, parts * len(columns)):
        if any(row[len(key) :]):
            yield tuple(row)


def _escaped(part: str) -> str:
    return part.replace("!", "!!").replace("%", "!%").replace("_", "!_")
