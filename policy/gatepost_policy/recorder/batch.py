"""Records that come from no journal: importers and `replay --record` write them here."""

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import IntegrityError

from gatepost_policy import retention, store
from gatepost_policy.ingest import Outcome, ingest, trap_marks
from gatepost_policy.journal.record import Json
from gatepost_policy.store import partitions

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings


# Some 4000 messages. Each transaction writes every page of an index that it touched once: with a
# sixth of the rows an import took a tenth more processor time. Others wait that long for a turn.
COMMIT_ROWS = 30_000


def record_batch(
    engine: Engine,
    records: Sequence[Json],
    settings: "Settings",
    learned: float | None = None,
    import_id: int | None = None,
) -> int:
    """Write records that come from no journal (importers, `replay --record`); returns how many were
    new.

    A record whose `key` is known is left out; what is new belongs to `import_id`. `learned` is in
    Unix seconds (None: now). About COMMIT_ROWS rows go into one transaction. Raises StoreError;
    ValueError where a record is damaged; ImportGoneError where the import was undone meanwhile.
    """
    now = time.time() if learned is None else learned
    with store.reading(engine) as connection:
        now = retention.learned(connection, now)
    partitions.prepare(engine, now)
    new = 0
    for part in _by_rows(records):
        outcome = store.persistently(
            engine,
            partial(_record, part=part, settings=settings, now=now, import_id=import_id),
            also=IntegrityError,
        )
        if outcome.bad:
            raise ValueError(f"not a record: {next(iter(outcome.bad.values()))}")
        new += outcome.messages
    return new


def _record(
    connection: Connection,
    part: Sequence[Json],
    settings: "Settings",
    now: float,
    import_id: int | None,
) -> Outcome:
    outcome = ingest(connection, part, settings, now, import_id)
    if outcome.messages:
        # A log does not say which of its recipients are traps.
        trap_marks.unsettle(connection)
    return outcome


def _by_rows(records: Sequence[Json]) -> Iterable[list[Json]]:
    part: list[Json] = []
    rows = 0
    for data in records:
        part.append(data)
        # A rough count: the message with its domains and sums, then its recipients and signatures.
        rows += 5 + len(data.get("recipients") or ()) + 2 * len(data.get("signatures") or ())
        if rows >= COMMIT_ROWS:
            yield part
            part, rows = [], 0
    if part:
        yield part
