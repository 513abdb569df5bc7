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
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Boolean, Connection, Engine, Float

from gatepost_policy import config, ingest, store
from gatepost_policy.ingest import rows, waiting_hits
from gatepost_policy.retention import (
    erased_times,
    person_files,
    person_rows,
    person_texts,
    purger,
)
from gatepost_policy.retention.person_key import ERASED, Person
from gatepost_policy.store import revision, sqltext
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

BATCH = 500
# Messages or recipients that are changed in one transaction, and for how long at most nothing is
# done after it: the recorder waits for the lock meanwhile, and would not get it between two.
STEP = 20
PAUSE_MAX_S = 0.5


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


Told = Callable[[str], None]  # takes a line about the progress


def _silent(text: str) -> None:
    del text


def export(engine: Engine, settings: "Settings", text: str, told: Told = _silent) -> dict[str, Any]:
    """Everything about `text`, for JSON. Raises StoreError, ValueError, OSError."""
    person = Person.of(text)
    carrying = person_texts.search(engine, person.wanted, person_texts.Progress(told))
    out: dict[str, Any] = {"address": text, "sent": [], "received": [], "named": []}
    with store.reading(engine) as connection:
        sent, received = (
            person_rows.sent(connection, person),
            person_rows.received(connection, person),
        )
        places = [number for number, _ in carrying.recipients]
        named = {*carrying.named, *carrying.message_ids, *places} - {*sent, *received}
        for name, ids in (("sent", sent), ("received", received), ("named", sorted(named))):
            for part in chunks(ids, BATCH):
                for row in rows.load(connection, part).values():
                    out[name].append(_message(row, person, sent=name == "sent"))
        out["identities"] = person_rows.identities(connection, person)
        out["listings"] = person_rows.rows_of(
            connection,
            "SELECT * FROM listing WHERE kind IN ('sender', 'author') ORDER BY id",
            person,
            "value",
        )
        out["trap"] = person_rows.rows_of(
            connection, "SELECT * FROM trap WHERE key = ? AND removed IS NULL", None, "", person.key
        )
        out["acts"] = person_rows.rows_of(connection, person_rows.ACTS, person, "value")
        out["notices"] = person_rows.notices(connection, person)
        out["guesses"] = person_rows.tried(connection, person)
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


def would_erase(engine: Engine, settings: "Settings", text: str, told: Told = _silent) -> Erased:
    """What `erase` would remove; changes nothing. The journal is not read, so `journal` stays 0.

    Raises StoreError, ValueError, OSError.
    """
    person = Person.of(text)
    carrying = person_texts.search(engine, person.wanted, person_texts.Progress(told))
    with store.reading(engine) as connection:
        own = {*person_rows.sent(connection, person), *carrying.named}
        received = {*person_rows.places(connection, person), *carrying.recipients}
        sql = "SELECT * FROM listing WHERE kind IN ('sender', 'author')"
        done = Erased(
            sent=len(own),
            # Mail to oneself is already in `sent`.
            received=sum(number not in own for number, _ in received),
            identities=len(person_rows.identities(connection, person)),
            listings=len(person_rows.rows_of(connection, sql, person, "value")),
            guesses=len(person_rows.tried(connection, person)),
            is_trap=person_rows.is_trap(connection, person),
            copies=_copies(settings),
        )
    files = _files(settings, person)
    done.captures, done.quarantine = len(files["captures"]), len(files["quarantine"])
    return done


def erase(
    engine: Engine, settings: "Settings", text: str, now: float, told: Told = _silent
) -> Erased:
    """Erase the person with the address `text`; the journal must have been ingested before.

    Works in short transactions, with pauses. `now` is in Unix seconds. `told` gets a line about the
    progress now and then. Raises StoreError, ValueError, OSError.
    """
    person = Person.of(text)
    done = Erased()
    progress = person_texts.Progress(told)
    carrying = person_texts.search(engine, person.wanted, progress)
    with store.reading(engine) as connection:
        sent = sorted({*person_rows.sent(connection, person), *carrying.named})
        places = sorted({*person_rows.places(connection, person), *carrying.recipients})

    def to_number(connection: Connection, part: list[int]) -> None:
        ingest.fold(connection, settings, whole=True)
        kept = _keys_of(connection, part)
        gone = list(rows.load(connection, part).values())
        done.sent += purger.to_counts(connection, part, now)
        erased_times.forget(connection, gone)
        sqltext.many(connection, sqltext.insert("message_key"), kept)

    def to_nobody(connection: Connection, part: list[tuple[int, int]]) -> None:
        done.received += _nobody(connection, person, part)

    def without_id(connection: Connection, part: list[int]) -> None:
        sql = "UPDATE message SET message_id = NULL WHERE id = ?"
        sqltext.many(connection, sql, [(number,) for number in part])

    _in_steps(engine, sent, to_number, progress, "sent messages")
    _in_steps(engine, places, to_nobody, progress, "recipients")
    _in_steps(engine, carrying.message_ids, without_id, progress, "Message-IDs")
    # These read whole tables: not while nobody else can write.
    with store.reading(engine) as connection:
        senders = person_texts.senders(connection, person.wanted)
        tried = person_texts.tried(connection, person.wanted)
        notes = person_texts.notes(connection, person.wanted)
    with _wiping(engine) as connection:
        ingest.fold(connection, settings, whole=True)
        known = person_rows.identities(connection, person, senders)
        done.identities = _delete(connection, "identity", known)
        sql = "SELECT * FROM listing WHERE kind IN ('sender', 'author')"
        named = person_rows.rows_of(connection, sql, person, "value")
        done.listings = _delete(connection, "listing", named)
        _delete(
            connection, "act", person_rows.rows_of(connection, person_rows.ACTS, person, "value")
        )
        _delete(connection, "notice", person_rows.notices(connection, person))
        done.guesses = _delete(connection, "mined", person_rows.tried(connection, person, tried))
        person_texts.rewrite(connection, person.wanted, notes)
        # Bump the revisions, so that each process loads a snapshot without this person.
        if (
            _delete(connection, "listing_change", person_rows.changes(connection, person))
            or done.listings
        ):
            # The listings are read whole then: a change would name the person.
            revision.bump(connection, revision.ERASED)
            revision.bump(connection, "listings")
        if any(row["repeat"] for row in known):
            revision.bump(connection, "repeat")
        done.is_trap = person_rows.is_trap(connection, person)
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


def _in_steps(
    engine: Engine,
    items: Sequence[Any],
    act: Callable[[Connection, list[Any]], None],
    progress: person_texts.Progress,
    what: str,
) -> None:
    """`act` on STEP of `items` in each transaction; after it others have as long a turn."""
    for number, part in enumerate(chunks(items, STEP)):
        begin = time.monotonic()
        with _wiping(engine) as connection:
            act(connection, part)
        time.sleep(min(time.monotonic() - begin, PAUSE_MAX_S))
        progress(f"erased {number * STEP + len(part)} of {len(items)} {what}")


def _copies(settings: "Settings") -> list[str]:
    """Older copies of a SQLite store that `db restore` has left beside it."""
    path = config.database_path(settings)
    if path is None:
        return []
    real = Path(os.path.realpath(path))
    return sorted(map(str, real.parent.glob(f"{glob.escape(real.name)}.before-*")))


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


def _files(settings: "Settings", person: Person) -> dict[str, list[Path]]:
    captured = settings.trap.capture
    return {
        "captures": list(person_files.captures(Path(captured), person.pattern)) if captured else [],
        "quarantine": list(
            person_files.quarantined(config.quarantine_dir(settings), person.pattern)
        ),
    }


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
