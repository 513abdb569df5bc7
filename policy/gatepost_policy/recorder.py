"""The recorder: takes journal segments into the store, so that every record counts exactly once.

How it works: whoever holds the lock in the journal directory is this host's recorder. It reads
complete records behind the watermark of each segment and commits them together with the moved
watermarks in one transaction. A watermark moves by compare-and-set; after any error, and after a
commit whose answer got lost, the watermarks are read again. A segment is unlinked when its writer
is gone, all of it is ingested and the commit is durable; its watermark row goes after it.

Store away, locked, full, read-only, of a newer schema: the segments wait. A record that the
database refuses for what it says is found by bisection and put into `quarantine/`.

After a commit that changed traps, listings or repeat senders, and when another program changed
them, what every process knows by heart (`known`) is published.
"""

import fcntl
import json
import os
import random
import secrets
import select
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    ProgrammingError,
    SQLAlchemyError,
    StatementError,
)

from gatepost_policy import (
    config,
    counters,
    faults,
    hindsight,
    journal,
    known,
    partitions,
    retention,
    sqltext,
    store,
)
from gatepost_policy.ingest import Outcome, ingest
from gatepost_policy.record import Json
from gatepost_policy.store import StoreError

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings

LOCK = "recorder.lock"
HOST = "host"
LOOK_S = 0.2  # how often the journal and the revisions are looked at; a trap hit pokes
GATHER_S = 0.03
BATCH_RECORDS = 1_000
COMMIT_ROWS = 5_000
RETRIES = 8
BACKOFF_MAX_S = 5.0
COMPLAIN_S = 60.0

Log = Callable[[str, str], None]  # level, text


class _Conflict(Exception):
    """Another recorder has moved a watermark: what we know of them is out of date."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the journal, or damage (`data` is None), with where it ends."""

    segment: Path
    piece: journal.Piece


class Recorder:
    """One host's recorder. `run` is its life; `ingest_once` is one step, for tests and commands."""

    def __init__(self, settings: "Settings", log: Log | None = None) -> None:
        self.settings = settings
        self.directory = config.journal_dir(settings)
        self.quarantine = config.quarantine_dir(settings)
        self.state = config.state_dir(settings)
        self._log = log or _to_stderr
        self._engine: Engine | None = None
        self._marks: dict[str, int] | None = None  # None: read them again
        self._done: set[str] = set()  # segments that are unlinked, their marks still there
        self._lock = -1
        self._host = ""
        self._poke = -1
        self._revision: tuple[tuple[str, int], ...] | None = None
        self._complained = 0.0
        self._purge_at = 0.0
        self._purger: retention.Purger | None = None

    def run(self, stop: threading.Event) -> None:
        """Record until `stop` is set; waits for the lock as long as another process holds it."""
        pause = LOOK_S
        try:
            while not stop.is_set():
                try:
                    if not self.lock():
                        stop.wait(LOOK_S)
                        continue
                    busy = self.step()
                    pause = LOOK_S
                    if not busy:
                        self._wait(stop, LOOK_S)
                except (StoreError, OSError) as error:
                    self._complain(error)
                    self._forget()
                    stop.wait(pause)
                    pause = min(pause * 2, BACKOFF_MAX_S)
            # What was journaled before the end is in the store when a clean stop is over.
            if self._lock >= 0:
                with suppress(StoreError, OSError):
                    while self.ingest_once():
                        pass
        finally:
            self.close()

    def step(self) -> bool:
        """Ingest a batch, publish what changed, purge a little. True where more is waiting."""
        took = self.ingest_once()
        self._publish()
        if took:
            return took >= BATCH_RECORDS
        now = time.monotonic()
        if now >= self._purge_at:
            if self._purger is None:
                self._purger = retention.Purger(self.engine(), self.settings)
            more = self._purger.step(time.time())
            self._purge_at = now + (LOOK_S if more else self.settings.retention.every)
        return False

    def close(self) -> None:
        """Let go of store and lock."""
        self._forget()
        for handle in (self._lock, self._poke):
            if handle >= 0:
                os.close(handle)
        self._lock = self._poke = -1

    def lock(self) -> bool:
        """Become this host's recorder; False where another process is. Raises OSError."""
        if self._lock >= 0:
            return True
        for directory in (self.directory, self.state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            return False
        self._lock = handle
        self._host = _host(self.directory)
        poke = self.directory / journal.POKE
        with suppress(FileExistsError):
            os.mkfifo(poke, 0o600)
        # Both ends: a pipe without a writer would be "readable" (end of file) all the time.
        self._poke = os.open(poke, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for stale in self.directory.glob(".*"):
            # Made by a writer that was killed before it could use it. Old enough, or still new.
            with suppress(OSError):
                if time.time() - stale.stat().st_mtime > 60 and journal.abandoned(stale):
                    stale.unlink()
        return True

    def engine(self) -> Engine:
        """The store. Raises StoreError."""
        if self._engine is None:
            self._engine = store.open_engine(self.settings)
        return self._engine

    def ingest_once(self) -> int:
        """Ingest one batch of waiting records; how many. Raises StoreError or OSError."""
        segments = journal.segments(self.directory)
        if not segments and not self._done and self._marks is not None:
            return 0
        engine = self.engine()
        if self._marks is None:
            self._read_marks(engine, segments)
        entries: list[_Entry] = []
        for segment in segments:
            entries.extend(self._waiting(segment, BATCH_RECORDS - len(entries)))
            if len(entries) >= BATCH_RECORDS:
                break
        if entries:
            partitions.prepare(engine, time.time())
            self._take(engine, entries)
        self._clean(engine, segments)
        return len(entries)

    # Reading the journal

    def _offset(self, segment: Path) -> int:
        return (self._marks or {}).get(segment.name, 0)

    def _waiting(self, segment: Path, most: int) -> Iterable[_Entry]:
        offset = self._offset(segment)
        with suppress(FileNotFoundError):
            if segment.stat().st_size <= offset:
                return
            for number, piece in enumerate(journal.read(segment, offset)):
                if number >= most:
                    return
                yield _Entry(segment, piece)

    def _read_marks(self, engine: Engine, segments: Sequence[Path]) -> None:
        """Where we are. A mark without its segment is what a crash left behind."""
        names = {segment.name for segment in segments}
        with store.reading(engine) as connection:
            sql = 'SELECT segment, "offset" FROM journal_mark WHERE host = ?'
            rows = connection.exec_driver_sql(
                sqltext.native(connection.dialect.name, sql), (self._host,)
            ).all()
        self._marks = {name: int(offset) for name, offset in rows}
        self._done.update(name for name in self._marks if name not in names)

    # Writing the store

    def _take(self, engine: Engine, entries: Sequence[_Entry]) -> None:
        """Commit `entries`; what the database refuses is left out and quarantined."""
        for attempt in range(RETRIES):
            try:
                outcome = self._commit(engine, entries)
            except _Conflict:
                self._marks = None
                raise StoreError(
                    f"{store.name(engine)}: another recorder reads the same journal",
                    temporary=True,
                ) from None
            except StoreError as error:
                cause = error.__cause__
                if isinstance(cause, SQLAlchemyError):
                    if store.retryable(cause) and attempt + 1 < RETRIES:
                        # Two hosts met; the one that waits a little longer goes second.
                        time.sleep(random.uniform(0, 0.01 * 2**attempt))
                        continue
                    if _is_data(cause):
                        self._bisect(engine, entries, cause)
                        return
                self._marks = None
                raise
            except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
                self._bisect(engine, entries, error)
                return
            self._revision = None if outcome.listings or outcome.repeat else self._revision
            return

    def _bisect(self, engine: Engine, entries: Sequence[_Entry], cause: Exception) -> None:
        if len(entries) > 1:
            middle = len(entries) // 2
            self._take(engine, entries[:middle])
            self._take(engine, entries[middle:])
            return
        entry = entries[0]
        self._quarantine(entry, type(cause).__name__)
        self._commit(engine, [_Entry(entry.segment, _as_damage(entry.piece))])

    def _commit(self, engine: Engine, entries: Sequence[_Entry]) -> Outcome:
        """One transaction: watermarks, rows, sums, listings, counters."""
        assert self._marks is not None
        ends = {entry.segment.name: entry.piece.end for entry in entries}
        records: list[Json] = []
        whence: list[_Entry] = []
        for entry in entries:
            if entry.piece.data is None:
                if entry.piece.raw:
                    self._quarantine(entry, "damaged")
            else:
                records.append(entry.piece.data)
                whence.append(entry)
        learned = time.time()
        with store.writing(engine) as connection:
            for name, end in sorted(ends.items()):
                self._move_mark(connection, name, self._marks.get(name), end, learned)
            outcome = ingest(connection, records, self.settings, learned)
            for position, why in outcome.bad.items():
                self._quarantine(whence[position], why)
            counters.add(
                connection,
                counters.tally(r for n, r in enumerate(records) if n not in outcome.bad),
            )
            faults.point("before-commit")
        faults.point("after-commit")
        self._marks.update(ends)
        return outcome

    def _move_mark(
        self, connection: Connection, name: str, old: int | None, new: int, now: float
    ) -> None:
        dialect = connection.dialect.name
        if old is None:
            sql = sqltext.insert(dialect, "journal_mark", "ON CONFLICT (segment) DO NOTHING")
            values: tuple[object, ...] = (name, new, self._host, now)
        else:
            sql = sqltext.native(
                dialect,
                'UPDATE journal_mark SET "offset" = ?, updated = ?'
                ' WHERE segment = ? AND "offset" = ?',
            )
            values = (new, now, name, old)
        if connection.exec_driver_sql(sql, values).rowcount != 1:
            raise _Conflict

    # After the commit

    def _clean(self, engine: Engine, segments: Sequence[Path]) -> None:
        """Unlink what is finished, then forget its watermark."""
        for segment in segments:
            if self._finished(segment):
                faults.point("before-unlink")
                segment.unlink(missing_ok=True)
                faults.point("after-unlink")
                self._done.add(segment.name)
        if not self._done:
            return
        done = sorted(self._done)
        with store.writing(engine) as connection:
            sqltext.many(
                connection,
                sqltext.native(
                    connection.dialect.name, "DELETE FROM journal_mark WHERE segment = ?"
                ),
                [(name,) for name in done],
            )
        for name in done:
            (self._marks or {}).pop(name, None)
        self._done.clear()

    def _finished(self, segment: Path) -> bool:
        """True where nothing of the segment is wanted any more."""
        try:
            # In this order: a writer that goes between the two has written all it ever will.
            if not journal.abandoned(segment):
                return False
            size = segment.stat().st_size
        except FileNotFoundError:
            return True
        offset = self._offset(segment)
        if size <= offset:
            return True
        whole = list(journal.read(segment, offset, size - offset))
        if any(piece.data is not None for piece in whole):
            return False
        # No record follows: a write that was cut short by a crash. Its message had no answer.
        rest = segment.read_bytes()[offset:]
        if not journal.is_torn(rest):
            self._quarantine(_Entry(segment, journal.Piece(offset, size, None, rest)), "damaged")
        return True

    def _quarantine(self, entry: _Entry, why: str) -> None:
        """Keep what the store refused, under a name that a second attempt would use again."""
        self.quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
        name = f"{entry.segment.stem}-{entry.piece.start}"
        if entry.piece.data is None:
            target, content = self.quarantine / f"{name}.bin", entry.piece.raw
        else:
            kept = {"why": why, "record": entry.piece.data}
            target, content = self.quarantine / f"{name}.json", json.dumps(kept).encode()
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        handle = os.open(target, flags, 0o600)
        try:
            os.write(handle, content)
            os.fsync(handle)
        finally:
            os.close(handle)
        # Not what the record says: the log is read by more people than the store.
        self._log("error", f"recorder: a record was put into {target} ({why.partition(':')[0]})")

    def _publish(self) -> None:
        """Tell all processes of this host what changed, whoever changed it."""
        engine = self.engine()
        with store.reading(engine) as connection:
            rows = connection.exec_driver_sql(
                "SELECT topic, number FROM revision"
                " WHERE topic IN ('traps', 'listings', 'repeat', 'generation') ORDER BY topic"
            ).all()
            revision = tuple((str(topic), int(number)) for topic, number in rows)
            if revision != self._revision:
                known.publish(connection, self.state, self.settings)
                self._revision = revision

    # Waiting and complaining

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Until somebody pokes, `stop` is set, or time is over."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            # `stop` has no file descriptor: look at it ten times a second.
            if select.select([self._poke], [], [], min(left, 0.1))[0]:
                # Where one trap is hit others often are: gather a moment, they are one commit.
                stop.wait(GATHER_S)
                with suppress(BlockingIOError):
                    os.read(self._poke, 65_536)
                return

    def _complain(self, error: Exception) -> None:
        now = time.monotonic()
        if not self._complained or now - self._complained >= COMPLAIN_S:
            self._complained = now
            self._log("error", f"recorder: {error}; the journal keeps what comes")

    def _forget(self) -> None:
        """Begin anew with the store: after an error nothing we remember of it is sure."""
        if self._engine is not None:
            self._engine.dispose()
        self._engine, self._marks, self._purger = None, None, None


def record_batch(
    engine: Engine, records: Sequence[Json], settings: "Settings", learned: float | None = None
) -> int:
    """Write records that come from no journal (importers, `replay --record`); how many were new.

    A record whose `key` is known is left out. At most COMMIT_ROWS rows go into one transaction.
    Raises StoreError; ValueError where a record is none.
    """
    now = time.time() if learned is None else learned
    partitions.prepare(engine, now)
    new = 0
    for part in _by_rows(records):
        attempt = 1
        while True:
            try:
                with store.writing(engine) as connection:
                    outcome = ingest(connection, part, settings, now)
                    if outcome.messages:
                        # A log does not say which of its recipients are traps.
                        hindsight.unsettle(connection)
                break
            except StoreError as error:
                cause = error.__cause__
                # IntegrityError: another import has told the store the same key meanwhile.
                again = isinstance(cause, IntegrityError) or (
                    isinstance(cause, SQLAlchemyError) and store.retryable(cause)
                )
                if not again or attempt == RETRIES:
                    raise
                time.sleep(random.uniform(0, 0.005 * 2**attempt))
                attempt += 1
        if outcome.bad:
            raise ValueError(f"not a record: {next(iter(outcome.bad.values()))}")
        new += outcome.messages
    return new


def _by_rows(records: Sequence[Json]) -> Iterable[list[Json]]:
    part: list[Json] = []
    rows = 0
    for data in records:
        part.append(data)
        # A message, its domains and sums, and what it lists by itself.
        rows += 5 + len(data.get("recipients") or ()) + 2 * len(data.get("signatures") or ())
        if rows >= COMMIT_ROWS:
            yield part
            part, rows = [], 0
    if part:
        yield part


def wait_until_ingested(settings: "Settings", timeout: float = 2.0) -> bool:
    """Wait until the store holds what the journal holds now; False where it takes too long.

    Where no recorder runs this process ingests by itself. Raises StoreError.
    """
    directory = config.journal_dir(settings)
    wanted: dict[str, int] = {}
    for segment in journal.segments(directory):
        with suppress(FileNotFoundError):
            wanted[segment.name] = segment.stat().st_size
    if not wanted:
        return True
    deadline = time.monotonic() + timeout
    engine = store.open_engine(settings)
    own = Recorder(settings)
    try:
        while True:
            if own.lock():
                while own.ingest_once():
                    pass
                own._publish()
                return True
            if _ingested(engine, directory, wanted):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.02)
    finally:
        own.close()
        engine.dispose()


def publish_now(settings: "Settings") -> None:
    """Where no recorder runs: tell the processes of this host what the store knows.

    For a milter that starts for a moment only. A SQLite store that does not exist knows nothing.
    Raises StoreError and OSError.
    """
    path = config.database_path(settings)
    if path is not None and not path.exists():
        return
    own = Recorder(settings)
    try:
        if own.lock():
            own._publish()
    finally:
        own.close()


def _ingested(engine: Engine, directory: Path, wanted: dict[str, int]) -> bool:
    with store.reading(engine) as connection:
        marks = {
            str(name): int(offset)
            for name, offset in connection.exec_driver_sql(
                'SELECT segment, "offset" FROM journal_mark'
            )
        }
    return all(
        marks.get(name, 0) >= size or not (directory / name).exists()
        for name, size in wanted.items()
    )


def _host(directory: Path) -> str:
    """The name of this journal among all hosts of one store, made at first use."""
    path = directory / HOST
    try:
        return path.read_text("ascii").strip()
    except FileNotFoundError:
        name = secrets.token_hex(8)
        aside = directory / f".{name}"
        aside.write_text(name, "ascii")
        aside.rename(path)
        return name


def _is_data(error: SQLAlchemyError) -> bool:
    """True where the database minds what a record says, not the state it is in itself."""
    if isinstance(error, DataError | IntegrityError):
        return True
    if isinstance(error, InterfaceError | ProgrammingError):
        # Raised by the driver, not by the server: a value it cannot hand over.
        return getattr(error.orig, "sqlstate", None) is None
    return isinstance(error, StatementError) and not isinstance(error, DBAPIError)


def _as_damage(piece: journal.Piece) -> journal.Piece:
    return journal.Piece(piece.start, piece.end, None)


def _to_stderr(level: str, line: str) -> None:
    import sys

    print(f"{level}: {line}", file=sys.stderr, flush=True)
