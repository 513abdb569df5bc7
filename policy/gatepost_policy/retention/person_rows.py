"""Where one person stands in the tables: by index, and with what `person_texts` has found."""

import json
from typing import Any

from sqlalchemy import Connection

from gatepost_policy.mail import address, index_key
from gatepost_policy.retention import person_texts
from gatepost_policy.retention.person_key import Person
from gatepost_policy.store import sqltext
from gatepost_policy.store.sqltext import chunks

BATCH = 500
ACTS = "SELECT * FROM act ORDER BY id"  # few: each was done by hand


def is_trap(connection: Connection, person: Person) -> bool:
    """True where the address is a trap now."""
    sql = "SELECT * FROM trap WHERE key = ? AND removed IS NULL"
    return bool(rows_of(connection, sql, None, "", person.key))


def places(connection: Connection, person: Person) -> list[tuple[int, int]]:
    """(message_id, position) of the person as a recipient."""
    sql = "SELECT message_id, position FROM recipient WHERE trap_key = ?"
    return [(int(m), int(p)) for m, p in sqltext.execute(connection, sql, (person.key,))]


def changes(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """The changes of listings that name the person."""
    sql = "SELECT * FROM listing_change WHERE kind IN ('sender', 'author')"
    return rows_of(connection, sql, person, "value")


def sent(connection: Connection, person: Person) -> list[int]:
    """Ids of the messages that name the person as envelope sender or author."""
    sql = "SELECT DISTINCT reversed FROM message_domain WHERE reversed >= ? AND reversed < ?"
    spellings = [
        str(key)
        for (key,) in sqltext.execute(connection, sql, person.searched)
        if _same_key(str(key), person)
    ]
    found: set[int] = set()
    for key in spellings:
        sql = "SELECT message_id FROM message_domain WHERE reversed = ?"
        found.update(sqltext.execute(connection, sql, (key,)).scalars())
    return sorted(found)


def _same_key(key: str, person: Person) -> bool:
    """True where a search key (`org.example.@local`) is this person's."""
    back, _, local = key.partition("@")
    domain = ".".join(reversed(back.rstrip(".").split(".")))
    return index_key.fit(address.Address("", local, domain).trap_key) == person.key


def received(connection: Connection, person: Person) -> list[int]:
    """Ids of the messages that were sent to the person."""
    sql = "SELECT DISTINCT message_id FROM recipient WHERE trap_key = ? ORDER BY message_id"
    return [int(n) for n in sqltext.execute(connection, sql, (person.key,)).scalars()]


def identities(
    connection: Connection, person: Person, carrying: list[dict[str, Any]] | None = None
) -> list[dict[str, Any]]:
    """The identities of the person; `carrying`: those whose name carries it, where known."""
    back = person.searched[0][:-1]
    sql = "SELECT * FROM identity WHERE reversed = ? AND kind = 'sender'"
    own = rows_of(connection, sql, person, "value", back)
    seen = {row["value"] for row in own}
    if carrying is None:
        carrying = person_texts.senders(connection, person.wanted)
    return own + [row for row in carrying if row["value"] not in seen]


def tried(
    connection: Connection, person: Person, carrying: list[str] | None = None
) -> list[dict[str, Any]]:
    """Rows of tries of the address, or of its local part as a login, without the hosts.

    `carrying`: tried addresses that carry it, where known.
    """
    if carrying is None:
        carrying = person_texts.tried(connection, person.wanted)
    local = person.key.rpartition("@")[0]
    names = sorted({person.key, local, *carrying})
    found: list[dict[str, Any]] = []
    for part in chunks(names, BATCH):
        sql = (
            "SELECT address, kind, import_id, first_at, last_at, hits FROM mined"
            f" WHERE address IN ({', '.join('?' * len(part))}) ORDER BY address, kind, import_id"
        )
        found += rows_of(connection, sql, None, "", *part)
    return found


def rows_of(
    connection: Connection, sql: str, person: Person | None, column: str, *values: str
) -> list[dict[str, Any]]:
    """The rows of a query, those of `person` where one is given (by `column`)."""
    return [
        dict(row)
        for row in sqltext.execute(connection, sql, values).mappings()
        if person is None or person.is_in(row[column])
    ]


def notices(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """The events that name the person: a trap that was hit, a listing in a digest."""
    found = sqltext.execute(connection, "SELECT * FROM notice ORDER BY id").mappings()
    return [
        dict(row)
        for row in found
        if any(map(person.is_in, (row["who"], row["data"], *_names_in(json.loads(row["data"])))))
    ]


def _names_in(data: dict[str, Any]) -> list[str]:
    """The addresses that an event names."""
    tonight = data.get("tonight", {})
    names = [*data.get("traps", ()), *(one["value"] for one in tonight.get("listings", ()))]
    return names + [trap for one in tonight.get("senders", ()) for trap in one["traps"]]
