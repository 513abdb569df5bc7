"""One person's data: export or erase what gatepost holds about a mail address.

Covered: message rows, recipients, identities, listings and evidence, tried addresses that do not
exist, captured messages, the journal, the quarantine. An address is compared as a trap is, without
regard to case and after cutting a `+tag`: all such spellings are one person. So is a bounce address
that carries it (`person_texts`); the mail that has one as sender or author is mail that the person
sent or got, and becomes a number as well.

What erasing leaves: mail that the person sent is only counted for its day (`message_count`), and no
sum, identity or key has its time of day any more (`erased_times`). As a recipient the person
becomes ERASED, so that a message keeps its number of recipients and trap hits. The keys of imported
log lines stay, so that importing the log again does not bring the mail back. Traps are the
operator's configuration: one that is this address is reported, not removed.
"""

import glob
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Connection, Engine, Float

from gatepost_policy import config, ingest, store
from gatepost_policy.ingest import rows, waiting_hits
from gatepost_policy.mail import address, index_key
from gatepost_policy.retention import erased_times, person_files, person_texts, purger
from gatepost_policy.retention.person_key import ERASED, Person
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

BATCH = 500
ACTS = "SELECT * FROM act ORDER BY id"  # few: each was done by hand


@dataclass(slots=True)
class Erased:
    """What `erase` did."""

    sent: int = 0  # messages that are only counted now
    received: int = 0  # recipients that became ERASED
    identities: int = 0
    listings: int = 0
    captures: int = 0
    journal: int = 0  # records blanked in live segments
    quarantine: int = 0
    guesses: int = 0  # rows of tries of the address
    is_trap: bool = False
    copies: list[str] = field(default_factory=list)  # older copies of the store, beside it

    def json(self) -> dict[str, Any]:
        """As `data erase --format json` prints it."""
        return asdict(self)


def export(engine: Engine, settings: "Settings", text: str) -> dict[str, Any]:
    """Everything about `text`, for JSON. Raises StoreError, ValueError, OSError."""
    person = Person.of(text)
    out: dict[str, Any] = {"address": text, "sent": [], "received": [], "named": []}
    with store.reading(engine) as connection:
        sent, received = _sent(connection, person), _received(connection, person)
        carrying = person_texts.messages(connection, person.wanted)
        places = [number for number, _ in person_texts.recipients(connection, person.wanted)]
        named = {*carrying.named, *carrying.message_ids, *places} - {*sent, *received}
        for name, ids in (("sent", sent), ("received", received), ("named", sorted(named))):
            for part in chunks(ids, BATCH):
                for row in rows.load(connection, part).values():
                    out[name].append(_message(row, person, sent=name == "sent"))
        out["identities"] = _identities(connection, person)
        out["listings"] = _rows(
            connection,
            "SELECT * FROM listing WHERE kind IN ('sender', 'author') ORDER BY id",
            person,
            "value",
        )
        out["trap"] = _rows(
            connection, "SELECT * FROM trap WHERE key = ? AND removed IS NULL", None, "", person.key
        )
        out["acts"] = _rows(connection, ACTS, person, "value")
        out["notices"] = _notices(connection, person)
        out["guesses"] = _tried(connection, person)
    for name, table in (
        ("identities", "identity"), ("listings", "listing"), ("trap", "trap"), ("acts", "act"),
        ("notices", "notice"), ("guesses", "mined"),
    ):  # fmt: skip
        out[name] = [_readable(table, row) for row in out[name]]
    for name, found in _files(settings, person).items():
        out[name] = sorted(map(str, found))
    return out


def _readable(table: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row for JSON: times as text, and truth values the same from both databases."""
    types = {column.name: column.type for column in sqltext.table(table).columns}
    out = dict(row)
    for name, value in row.items():
        if value is None:
            continue
        if isinstance(types.get(name), Float):  # in these tables every float is a time
            out[name] = timestamp(value)
        elif isinstance(types.get(name), Boolean):
            out[name] = bool(value)
    return out


def would_erase(engine: Engine, settings: "Settings", text: str) -> Erased:
    """What `erase` would remove; changes nothing. The journal is not read, so `journal` stays 0.

    Raises StoreError, ValueError, OSError.
    """
    person = Person.of(text)
    with store.reading(engine) as connection:
        own = {*_sent(connection, person)}
        own.update(person_texts.messages(connection, person.wanted).named)
        received = {*_places(connection, person)}
        sql = "SELECT * FROM listing WHERE kind IN ('sender', 'author')"
        done = Erased(
            sent=len(own),
            # Mail to oneself is already in `sent`.
            received=sum(number not in own for number, _ in received),
            identities=len(_identities(connection, person)),
            listings=len(_rows(connection, sql, person, "value")),
            guesses=len(_tried(connection, person)),
            is_trap=_is_trap(connection, person),
            copies=_copies(settings),
        )
    files = _files(settings, person)
    done.captures, done.quarantine = len(files["captures"]), len(files["quarantine"])
    return done


def erase(engine: Engine, settings: "Settings", text: str, now: float) -> Erased:
    """Erase the person with the address `text`; the journal must have been ingested before.

    Works in bounded transactions. `now` is in Unix seconds. Raises StoreError, ValueError, OSError.
    """
    person = Person.of(text)
    done = Erased()
    with store.reading(engine) as connection:
        carrying = person_texts.messages(connection, person.wanted)
        sent = sorted({*_sent(connection, person), *carrying.named})
        places = _places(connection, person)
    for part in chunks(sent, BATCH):
        with _wiping(engine) as connection:
            ingest.fold(connection, settings, whole=True)
            kept = _keys_of(connection, part)
            gone = list(rows.load(connection, part).values())
            done.sent += purger.to_counts(connection, part, now)
            erased_times.forget(connection, gone)
            sqltext.many(connection, sqltext.insert("message_key"), kept)
    for part in chunks(places, BATCH):
        with _wiping(engine) as connection:
            done.received += _nobody(connection, person, part)
    for part in chunks(carrying.message_ids, BATCH):
        with _wiping(engine) as connection:
            sql = "UPDATE message SET message_id = NULL WHERE id = ?"
            sqltext.many(connection, sql, [(number,) for number in part])
    with _wiping(engine) as connection:
        ingest.fold(connection, settings, whole=True)
        known = _identities(connection, person)
        done.identities = _delete(connection, "identity", known)
        sql = "SELECT * FROM listing WHERE kind IN ('sender', 'author')"
        named = _rows(connection, sql, person, "value")
        done.listings = _delete(connection, "listing", named)
        _delete(connection, "act", _rows(connection, ACTS, person, "value"))
        _delete(connection, "notice", _notices(connection, person))
        done.guesses = _delete(connection, "mined", _tried(connection, person))
        person_texts.rewrite(connection, person.wanted)
        # Bump the revisions, so that each process loads a snapshot without this person.
        if _delete(connection, "listing_change", _changes(connection, person)) or done.listings:
            # The listings are read whole then: a change would name the person.
            revision.bump(connection, revision.ERASED)
            revision.bump(connection, "listings")
        if any(row["repeat"] for row in known):
            revision.bump(connection, "repeat")
        done.is_trap = _is_trap(connection, person)
    _checkpoint(engine)
    found = _files(settings, person)
    for path in [*found["captures"], *found["quarantine"]]:
        path.unlink(missing_ok=True)
    done.captures, done.quarantine = len(found["captures"]), len(found["quarantine"])
    done.journal = person_files.blank(
        engine, config.journal_dir(settings), person.is_same, person.pattern
    )
    done.copies = _copies(settings)
    return done


def _copies(settings: "Settings") -> list[str]:
    """Older copies of a SQLite store that `db restore` has left beside it."""
    path = config.database_path(settings)
    if path is None:
        return []
    real = Path(os.path.realpath(path))
    return sorted(map(str, real.parent.glob(f"{glob.escape(real.name)}.before-*")))


def _is_trap(connection: Connection, person: Person) -> bool:
    sql = "SELECT * FROM trap WHERE key = ? AND removed IS NULL"
    return bool(_rows(connection, sql, None, "", person.key))


def _places(connection: Connection, person: Person) -> list[tuple[int, int]]:
    """(message_id, position) of the person as a recipient."""
    sql = "SELECT message_id, position FROM recipient WHERE trap_key = ?"
    own = {(int(m), int(p)) for m, p in sqltext.execute(connection, sql, (person.key,))}
    return sorted(own | {*person_texts.recipients(connection, person.wanted)})


def _nobody(connection: Connection, person: Person, places: list[tuple[int, int]]) -> int:
    """Put ERASED for these recipients (message_id, position); returns how many there were."""
    count = 0
    for place in places:
        sql = "UPDATE recipient SET address = ?, trap_key = ? WHERE message_id = ? AND position = ?"
        count += sqltext.execute(connection, sql, (ERASED, ERASED, *place)).rowcount
    messages = sorted({number for number, _ in places})
    sql = "UPDATE evidence SET trap = ? WHERE message_id = ? AND trap = ?"
    sqltext.many(connection, sql, [(ERASED, number, person.key) for number in messages])
    waiting_hits.change(
        connection,
        messages,
        lambda _, told: waiting_hits.without_recipient(told, person.key, ERASED),
    )
    return count


def _changes(connection: Connection, person: Person) -> list[dict[str, Any]]:
    sql = "SELECT * FROM listing_change WHERE kind IN ('sender', 'author')"
    return _rows(connection, sql, person, "value")


def _files(settings: "Settings", person: Person) -> dict[str, list[Path]]:
    captured = settings.trap.capture
    return {
        "captures": list(person_files.captures(Path(captured), person.pattern)) if captured else [],
        "quarantine": list(
            person_files.quarantined(config.quarantine_dir(settings), person.pattern)
        ),
    }


def _sent(connection: Connection, person: Person) -> list[int]:
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


def _received(connection: Connection, person: Person) -> list[int]:
    sql = "SELECT DISTINCT message_id FROM recipient WHERE trap_key = ? ORDER BY message_id"
    return [int(n) for n in sqltext.execute(connection, sql, (person.key,)).scalars()]


def _identities(connection: Connection, person: Person) -> list[dict[str, Any]]:
    back = person.searched[0][:-1]
    sql = "SELECT * FROM identity WHERE reversed = ? AND kind = 'sender'"
    own = _rows(connection, sql, person, "value", back)
    seen = {row["value"] for row in own}
    carrying = person_texts.senders(connection, person.wanted)
    return own + [row for row in carrying if row["value"] not in seen]


def _tried(connection: Connection, person: Person) -> list[dict[str, Any]]:
    """Rows of tries of the address, or of its local part as a login, without the hosts."""
    local = person.key.rpartition("@")[0]
    names = sorted({person.key, local, *person_texts.tried(connection, person.wanted)})
    found: list[dict[str, Any]] = []
    for part in chunks(names, BATCH):
        sql = (
            "SELECT address, kind, import_id, first_at, last_at, hits FROM mined"
            f" WHERE address IN ({', '.join('?' * len(part))}) ORDER BY address, kind, import_id"
        )
        found += _rows(connection, sql, None, "", *part)
    return found


def _rows(
    connection: Connection, sql: str, person: Person | None, column: str, *values: str
) -> list[dict[str, Any]]:
    """The rows of a query, those of `person` where one is given (by `column`)."""
    return [
        dict(row)
        for row in sqltext.execute(connection, sql, values).mappings()
        if person is None or person.is_in(row[column])
    ]


def _notices(connection: Connection, person: Person) -> list[dict[str, Any]]:
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


def _delete(connection: Connection, table: str, found: list[dict[str, Any]]) -> int:
    keys: tuple[str, ...] = ("kind", "value")
    if table in ("listing", "act", "notice", "listing_change"):
        keys = ("id",)
    elif table == "mined":
        keys = ("address", "kind", "import_id")
    where = " AND ".join(f"{key} = ?" for key in keys)
    sqltext.many(
        connection,
        f"DELETE FROM {table} WHERE {where}",
        [tuple(row[key] for key in keys) for row in found],
    )
    return len(found)


def _keys_of(connection: Connection, ids: list[int]) -> list[tuple[object, ...]]:
    sql = "SELECT key, message_id, import_id FROM message_key WHERE message_id = ?"
    kept: list[tuple[object, ...]] = []
    for number in ids:
        kept += [tuple(row) for row in sqltext.execute(connection, sql, (number,))]
    return kept


def _message(row: rows.Row, person: Person, *, sent: bool) -> dict[str, Any]:
    """What one message holds about the person, without the data of other recipients."""
    values = rows.columns(row.message)
    values.pop("session")
    if not sent:
        for name in ("prefix", "address", "client_name", "helo", "helo_spf_domain", "trail"):
            values.pop(name)
    values = _readable("message", values)
    values["recipients"] = [r.address for r in row.recipients if person.is_same(r.address)]
    if sent:
        values["recipient_count"] = len(row.recipients)
        values["signatures"] = [rows.signature_columns(s) for s in row.signatures]
    return values


class _wiping:  # noqa: N801  # used like a function
    """A writing transaction that overwrites what it deletes (SQLite)."""

    def __init__(self, engine: Engine) -> None:
        self._context = store.writing(engine)

    def __enter__(self) -> Connection:
        connection = self._context.__enter__()
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
        return connection

    def __exit__(self, *details: Any) -> None:
        self._context.__exit__(*details)


def _checkpoint(engine: Engine) -> None:
    """Empty SQLite's write-ahead log, so that erased data is not readable there."""
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
