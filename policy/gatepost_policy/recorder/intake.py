"""Move one batch from the journal into the store: read, commit, unlink what is done.

How it works: complete records after the watermark of each segment are committed together with the
new watermarks in one transaction. A watermark moves by compare-and-set; after any error, and after
a commit whose answer got lost, the watermarks are read again. A segment is unlinked when its writer
is gone, all of it is ingested and the commit is durable; then its watermark row is deleted.

A record whose content the database refuses is found by bisection and put into `quarantine/`; while
the database itself cannot write (full, locked), the records wait.
"""

import hashlib
import json
import os
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

from gatepost_policy import config, journal, retention, store
from gatepost_policy.ingest import Outcome, ingest, waiting_hits
from gatepost_policy.journal.record import Json
from gatepost_policy.monitoring import counters
from gatepost_policy.store import StoreError, journal_mark, partitions
from gatepost_policy.system import faults

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

BATCH_RECORDS = 1_000
# A trap hit takes as long as twenty other records. Without this weight, many waiting hits would
# make one transaction of half a minute, for which other hosts must wait.
HIT_RECORDS = 20
SHORT_S = 60.0
FINISH_S = 10.0
PEEK_BYTES = 65_536

Log = Callable[[str, str], None]  # level, text


class _Conflict(Exception):
    """Another recorder has moved a watermark: ours are out of date."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """One record of the journal, or damage (the piece's `data` is None), and its segment."""

    segment: Path
    piece: journal.Piece


class Intake:
    """Moves one journal into the store. Only the holder of the recorder's lock may use it.

    `host` names the journal among all hosts of the store. `changed`: listings or repeat senders
    changed; the publisher sets it to False. `more`: the last batch was full, more may be waiting.
    `taken_away`: the directory was removed or replaced, and writers will make their segments again.
    """

    def __init__(self, settings: "Settings", host: str, log: Log, taken_away: bool = False) -> None:
        self._taken_away = taken_away
        self._short: dict[str, float] = {}  # segments shorter than their mark, since (monotonic)
        self.settings = settings
        self.directory = config.journal_dir(settings)
        self.quarantine = config.quarantine_dir(settings)
        self.host = host
        self.changed = False
        self.more = False
        self._hits_wait = 1  # trap hits that wait; a crash may have left some
        self._log = log
        self._marks: dict[str, int] | None = None  # None: read them again
        self._floor = 0.0  # Unix seconds: nothing is learned before this time
        self._said: set[Path] = set()  # what was put into quarantine by this process
        self._done: set[str] = set()  # unlinked segments whose marks are still there

    def once(self, engine: Callable[[], Engine]) -> int:
        """Ingest one batch of waiting records; returns how many. Raises StoreError or OSError."""
        took = self._once(engine)
        if self._hits_wait:
            self._judge(engine(), self._hits_wait > waiting_hits.QUEUE_MAX)
        return took

    def finish(self, engine: Callable[[], Engine]) -> None:
        """Judge this host's waiting hits, for FINISH_S at most; the rest after the next start."""
        end = time.monotonic() + FINISH_S
        while self._hits_wait and time.monotonic() < end:
            left = self._hits_wait
            self._judge(engine())
            if self._hits_wait >= left:
                time.sleep(0.02)

    def _judge(self, engine: Engine, wait: bool = False) -> None:
        try:
            self._judge_some(engine, wait, waiting_hits.TAKE)
        except Exception as error:
            if not _is_of_record(error):
                raise
            # One of the hits cannot be judged: one by one, so that it does not hold up the others.
            try:
                self._judge_some(engine, wait, 1)
            except Exception as of_one:
                if not _is_of_record(of_one):
                    raise
                self._set_aside(engine, type(of_one.__cause__ or of_one).__name__)

    def _judge_some(self, engine: Engine, wait: bool, most: int) -> None:
        def work(connection: Connection) -> waiting_hits.Judged:
            _be_durable(connection)
            return waiting_hits.judge_waiting(
                connection, self.settings, self.host, self._now(), wait=wait, most=most
            )

        judged = store.persistently(engine, work)
        faults.point("after-judging")
        self.changed = self.changed or judged.listings or judged.repeat
        self._hits_wait = judged.waiting

    def _set_aside(self, engine: Engine, why: str) -> None:
        """Put the oldest waiting hit, which cannot be judged, into quarantine."""
        with store.writing(engine) as connection:
            _be_durable(connection)
            for text in waiting_hits.set_aside(connection, self.host, self._now()):
                name = f"hit-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"
                self._keep(name, json.dumps({"why": why, "hit": text}).encode(), why)

    def _once(self, engine: Callable[[], Engine]) -> int:
        segments = journal.segments(self.directory)
        if not segments and not self._done and self._marks is not None:
            return 0
        opened = engine()
        if self._marks is None:
            self.read_marks(opened, segments)
        entries: list[_Entry] = []
        read, room = 0, BATCH_RECORDS
        for segment in segments:
            read += 1
            for entry in self._waiting(segment):
                entries.append(entry)
                room -= _weight(entry)
                if room <= 0:
                    break
            if room <= 0:
                break
        self.more = room <= 0
        if entries:
            partitions.prepare(opened, self._now())
            self._take(opened, entries)
        # Only those that were read: with a long backlog, to check all would take all the time.
        self._clean(opened, segments[:read])
        return len(entries)

    def forget(self) -> None:
        """Forget what is known of the store, because it may be out of date."""
        self._marks = None
        self._hits_wait = 1

    def _now(self) -> float:
        """The `learned` time of what is recorded now (Unix seconds)."""
        return max(time.time(), self._floor)

    # Reading the journal

    def _offset(self, segment: Path) -> int:
        return (self._marks or {}).get(segment.name, 0)

    def _waiting(self, segment: Path) -> Iterable[_Entry]:
        offset = self._offset(segment)
        with suppress(FileNotFoundError):
            if segment.stat().st_size <= offset:
                return
            for piece in journal.read(segment, offset):
                yield _Entry(segment, piece)

    def read_marks(self, engine: Engine, segments: Sequence[Path]) -> None:
        """Read the watermarks of `segments`. A mark without its segment was left by a crash."""
        names = {segment.name for segment in segments}
        with store.reading(engine) as connection:
            marks = journal_mark.read(connection, self.host)
            # A journal that was removed and made again may have got another name since.
            marks.update(journal_mark.of_segments(connection, names - set(marks)))
            self._floor = retention.learned(connection, 0.0)
        self._marks = marks
        if not self._taken_away:
            self._done.update(name for name in self._marks if name not in names)

    # Writing the store

    def _take(self, engine: Engine, entries: Sequence[_Entry], again: bool = False) -> None:
        """Commit `entries`; a record that the database refuses is quarantined instead."""
        try:
            outcome = store.again(lambda: self._commit(engine, entries))
        except _Conflict:
            self._marks = None
            raise StoreError(
                f"{store.name(engine)}: another recorder reads the same journal",
                temporary=True,
            ) from None
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, SQLAlchemyError) and _no_partition(cause) and not again:
                # A standby was promoted that does not have the new partition yet.
                partitions.forget()
                partitions.prepare(engine, self._now())
                self._take(engine, entries, again=True)
                return
            if isinstance(cause, SQLAlchemyError) and _is_data(cause):
                self._bisect(engine, entries, cause)
                return
            self._marks = None
            raise
        except OSError:
            self._marks = None
            raise
        except Exception as error:
            # A record that raises here must not hold up all records after it.
            self._bisect(engine, entries, error)
            return
        self.changed = self.changed or outcome.listings or outcome.repeat

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
        """Write `entries` in one transaction: watermarks, rows, sums, listings, counters."""
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
        learned = self._now()
        with store.writing(engine) as connection:
            _be_durable(connection)
            for name, end in sorted(ends.items()):
                self._move_mark(connection, name, self._marks.get(name), end, learned)
            outcome = ingest(connection, records, self.settings, learned, None, self.host)
            for position, why in outcome.bad.items():
                self._quarantine(whence[position], why)
            counters.add(
                connection,
                counters.tally(r for n, r in enumerate(records) if n not in outcome.bad),
            )
            faults.point("before-commit")
        faults.point("after-commit")
        self._marks.update(ends)
        self._hits_wait = max(self._hits_wait, outcome.hits_wait)
        return outcome

    def _move_mark(
        self, connection: Connection, name: str, old: int | None, new: int, now: float
    ) -> None:
        if not journal_mark.move(connection, name, old, new, host=self.host, now=now):
            raise _Conflict

    # After the commit

    def _clean(self, engine: Engine, segments: Sequence[Path]) -> None:
        """Unlink finished segments, then delete their watermarks."""
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
            journal_mark.forget(connection, done)
        for name in done:
            (self._marks or {}).pop(name, None)
        self._done.clear()

    def _finished(self, segment: Path) -> bool:
        """True where nothing of the segment is needed any more."""
        try:
            # In this order: if the writer ends between the two, `size` still has all that it wrote.
            if not journal.abandoned(segment):
                return False
            size = segment.stat().st_size
        except FileNotFoundError:
            return True
        offset = self._offset(segment)
        if size < offset:
            # A restored older copy: its writer, if it still runs, will make it again.
            since = self._short.setdefault(segment.name, time.monotonic())
            if time.monotonic() - since < SHORT_S:
                return False
            if size:
                piece = journal.Piece(0, size, None, segment.read_bytes())
                self._quarantine(_Entry(segment, piece), "shorter than what was read of it")
            return True
        if size == offset:
            return True
        if next(journal.read(segment, offset, PEEK_BYTES), None) is not None:
            return False
        # No record follows: a write that was cut short by a crash. The MTA got no answer for it.
        with segment.open("rb") as file:
            file.seek(offset)
            rest = file.read()
        if not journal.is_torn(rest):
            self._quarantine(_Entry(segment, journal.Piece(offset, size, None, rest)), "damaged")
        return True

    def _quarantine(self, entry: _Entry, why: str) -> None:
        """Keep what the store refused, under a name that a second attempt uses again."""
        name = f"{entry.segment.stem}-{entry.piece.start}"
        if entry.piece.data is None:
            self._keep(f"{name}.bin", entry.piece.raw, why)
        else:
            kept = {"why": why, "record": entry.piece.data}
            self._keep(f"{name}.json", json.dumps(kept).encode(), why)

    def _keep(self, name: str, content: bytes, why: str) -> None:
        self.quarantine.mkdir(mode=0o700, parents=True, exist_ok=True)
        target = self.quarantine / name
        flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC
        with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        if target in self._said:
            return  # the same record, in a batch that is tried again
        self._said.add(target)
        # Without the record's content: more people read the log than the store.
        self._log("error", f"recorder: a record was put into {target} ({why.partition(':')[0]})")


def _weight(entry: _Entry) -> int:
    """How much of a batch the record takes: 1, or HIT_RECORDS for a trap hit."""
    recipients = (entry.piece.data or {}).get("recipients")
    if not isinstance(recipients, list):
        return 1
    # The record has not been checked yet, so any type may stand here.
    return HIT_RECORDS if any(isinstance(r, dict) and r.get("trap") for r in recipients) else 1


def _be_durable(connection: Connection) -> None:
    """Make this commit durable, because the segment is unlinked after it.

    With `synchronous_commit = off` the server answers before it has written. A stronger setting (a
    replica that is waited for) stays. SQLite's is `synchronous=FULL`, see `store`.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            "SELECT set_config('synchronous_commit', 'on', true)"
            " WHERE current_setting('synchronous_commit') = 'off'"
        )


def _no_partition(error: SQLAlchemyError) -> bool:
    """True where PostgreSQL has no partition for a row: check_violation, as for a wrong value."""
    return isinstance(error, IntegrityError) and getattr(error.orig, "sqlstate", None) == "23514"


def _is_data(error: SQLAlchemyError) -> bool:
    """True where the database refuses the content of a record, not because of its own state."""
    if isinstance(error, DataError | IntegrityError):
        return True
    if isinstance(error, InterfaceError | ProgrammingError):
        # Raised by the driver, not by the server: a value that it cannot send.
        return getattr(error.orig, "sqlstate", None) is None
    return isinstance(error, StatementError) and not isinstance(error, DBAPIError)


def _is_of_record(error: Exception) -> bool:
    """True where `error` comes from the content of a record."""
    if isinstance(error, StoreError):
        return isinstance(error.__cause__, SQLAlchemyError) and _is_data(error.__cause__)
    return not isinstance(error, OSError)


def _as_damage(piece: journal.Piece) -> journal.Piece:
    return journal.Piece(piece.start, piece.end, None)
