"""The recorder: writes journal segments into the store, so that every record counts exactly once.

How it works: the process that holds the lock in the journal directory is this host's recorder;
`intake` is what it does with the segments. Where the store is away, locked, full, read-only or of a
newer schema, the segments wait, and the log says so once a minute. Changes of traps, listings or
repeat senders, its own or another program's, are published for all processes (`lookup`).
"""

import gc
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from gatepost_policy import config, journal, lookup, retention, store, traps
from gatepost_policy.config.paths import RECORDER_LOCK
from gatepost_policy.ingest import trap_marks, waiting_hits
from gatepost_policy.recorder import host_name
from gatepost_policy.recorder.finding_own import FindingOwn
from gatepost_policy.recorder.intake import Intake, Log
from gatepost_policy.store import Files, Inode, StoreError, journal_mark, removed
from gatepost_policy.system.readable import readable
from gatepost_policy.text.escape import error_text

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings
    from gatepost_policy.monitoring.maillog import MailLog

LOCK = RECORDER_LOCK
MARK_S = 0.5  # seconds spent on marking old mail before new mail is looked for again
LOOK_S = 0.2  # seconds between looks at journal and revisions; a trap hit wakes it
# A commit costs as much as fifty messages: where many come, it waits longer and commits more.
MANY, LOOK_MANY_S = 50, 0.5
GATHER_S = 0.03
BACKOFF_MAX_S = 5.0
COMPLAIN_S = 60.0


class Recorder:
    """One host's recorder. `run` works until it is stopped; `ingest_once` is one batch.

    `create`: a missing SQLite file is made, unless this recorder has seen one. For a service that
    starts.
    """

    def __init__(
        self, settings: "Settings", log: Log | None = None, *, create: bool = True
    ) -> None:
        self.settings = settings
        self.directory = config.journal_dir(settings)
        self.state = config.state_dir(settings)
        self._log = log or _to_stderr
        self._engine: Engine | None = None
        self._intake: Intake | None = None
        self._lock = -1
        self._poke = -1
        self._host = ""
        self.create = create
        self._taken_away = False
        self._left_out: set[str] = set()  # listings without effect, each said once
        self._files: Files | None = None  # of the store that was opened, where it is SQLite
        self._lost_log: Inode | None = None  # a -wal that was removed and may hold commits
        self._revision: tuple[tuple[str, int], ...] | None = None
        self._complained: dict[str, float] = {}
        self._purge_at = self._rest_at = 0.0
        self._took = 0  # records in the last batch
        self._traps: tuple[tuple[str, int], ...] | None = None
        self._own = FindingOwn(self.state)
        self._purger: retention.Purger | None = None
        self._purge_to = self._purge_from = 0.0
        self._pace = retention.Pace(self._log)

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
                        self._wait(stop, LOOK_MANY_S if self._took >= MANY else LOOK_S)
                except (StoreError, OSError) as error:
                    self._complain(error)
                    self._forget()
                    stop.wait(pause)
                    pause = min(pause * 2, BACKOFF_MAX_S)
            # A clean stop first writes what is in the journal into the store.
            if self._lock >= 0:
                with suppress(StoreError, OSError):
                    while self.ingest_once():
                        pass
                    self._taking().finish(self.engine)
        finally:
            self.close()

    def step(self) -> bool:
        """Ingest a batch, publish what changed, purge a little. True where more is waiting."""
        self._look_at_files()
        self._pace.begin(self.engine())
        took = self._took = self.ingest_once()
        try:
            self._publish()
        except StoreError:
            raise
        except Exception as error:  # whatever it is: records are still ingested
            self._complain(error, "what the services know of traps and listings stays as it was")
        begin = time.monotonic()
        # Mail may come all the time: then half of the time is for it.
        if took and (self._taking().more or begin < self._rest_at):
            return self._taking().more
        # Adds the waiting sums too, unless another host is at them: who has nothing to record does
        # not stand in its way. Marking much old mail takes several calls of MARK_S.
        trap_marks.settle(self.engine(), self.settings, seconds=MARK_S, patient=False)
        self._purge(time.time(), retention.steady())
        self._rest_at = 2 * time.monotonic() - begin + LOOK_S
        return False

    def _purge(self, now: float, at: float) -> None:
        """Purge a part, as far as the clock is trusted (`now` Unix seconds, `at` steady ones)."""
        settled = self._pace.look(now, at)
        if not settled or at < self._purge_at:
            return
        if self._purger is None:
            target = self._pace.target(self.engine(), now, at)
            if target is None:
                self._purge_at = at + min(self.settings.retention.every, 60.0)
                return
            self._purger, self._purge_to = retention.Purger(self.engine(), self.settings), target
            self._purge_from = at
        if self._purger.step(self._purge_to):
            self._purge_at = at + LOOK_S
            return
        retention.remember(self.engine(), self._purge_to)
        if gone := str(self._purger.done):
            self._log("info", f"retention: {gone}")
        self._purger = None
        self._purge_at = max(at + LOOK_S, self._purge_from + self.settings.retention.every)

    def close(self) -> None:
        """Close the store and release the lock."""
        self._forget()
        self._unlock()

    def _unlock(self) -> None:
        for handle in (self._lock, self._poke):
            if handle >= 0:
                os.close(handle)
        self._lock = self._poke = -1

    def _holds(self) -> bool:
        """True where the locked file is still the one in the directory, which others would lock."""
        try:
            there, mine = os.stat(self.directory / LOCK), os.fstat(self._lock)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == (mine.st_dev, mine.st_ino)

    def _look_at_files(self) -> None:
        """Notice that the SQLite file is not the one that was opened. Raises StoreError."""
        path = config.database_path(self.settings)
        if path is None or self._files is None:
            return
        if store.renewed(path):
            self._log("warning", f"recorder: store {path}: its -shm was removed; it is opened anew")
        now = store.files(path)
        what = self._files.changed(now)
        if what is None:
            # Normal with nothing open here: SQLite removes the -wal at the last close.
            log, engine = self._files.log, self._engine
            if (log is not None and engine is not None
                    and (self._files.log_lost(now) or store.was_rescued(engine, log))):  # fmt: skip
                self._log("warning", f"recorder: store {path}: its -wal was removed")
                self._lost_log = log
            self._files = now
            if self._lost_log is None or self._engine is None:
                return
            if store.rescued(self._engine, self._lost_log):
                text = "what the removed -wal held is in the file now"
                self._log("info", f"recorder: store {path}: {text}")
                self._lost_log = None
        elif what == "replaced":
            self._log("warning", f"recorder: store {path}: its file was replaced; it is read anew")
            self._forget()
            self._files = self._revision = None
            lookup.anew(self.state)
        else:
            raise store.gone(path, what)

    def lock(self) -> bool:
        """Become this host's recorder; False where another process is. Raises OSError."""
        if self._lock >= 0:
            if self._holds():
                return True
            # The directory was removed or replaced: another process would lock another file.
            self._log("error", f"recorder: {self.directory} was taken away; it is made again")
            self._unlock()
            self._taken_away = True
        for directory in (self.directory, self.state):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(self.directory / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        if not host_name.locked(handle):
            # The file may be removed before it is our turn: then we must not make an empty one.
            path = config.database_path(self.settings)
            self.create = self.create and not (path is not None and removed.is_there(path))
            return False
        lookup.take_over(self.state)
        self._revision = None  # publish: what is not written by us is not watched
        self._host = host_name.under(handle, self.directory, self._host)
        self._lock = handle
        self._intake = Intake(self.settings, self._host, self._log, self._taken_away)
        poke = self.directory / journal.POKE
        with suppress(FileExistsError):
            os.mkfifo(poke, 0o600)
        # Both ends: a pipe without a writer would always be "readable" (end of file).
        self._poke = os.open(poke, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        for stale in self.directory.glob(".*"):
            # Of a writer that was killed before the rename; a newer one may still be renamed.
            with suppress(OSError):
                if time.time() - stale.stat().st_mtime > 60 and journal.abandoned(stale):
                    stale.unlink()
        return True

    def engine(self) -> Engine:
        """The store; where one was before, no empty one is made. Raises StoreError."""
        if self._engine is None:
            self._look_at_files()
            path = config.database_path(self.settings)
            lost = path is not None and removed.was_there(path)
            before = None if path is None else store.files(path).main
            self._engine = store.open_engine(self.settings, create=self.create)
            if lost:
                text = "there was no file any more; this start made a new, empty one"
                self._log("error", f"recorder: store {path}: {text}")
            self.create = False
            self._files = None if path is None else store.files(path, before)
        return self._engine

    def ingest_once(self) -> int:
        """Ingest one batch of waiting records; returns how many. Raises StoreError or OSError."""
        return self._taking().once(self.engine)

    def _taking(self) -> Intake:
        assert self._intake is not None, "only the holder of the lock records"
        return self._intake

    def _publish(self) -> None:
        """Publish changes for all processes of this host. Raises StoreError, OSError."""
        engine = self.engine()
        with store.reading(engine) as connection:
            rows = connection.exec_driver_sql(
                "SELECT topic, number FROM revision"
                " WHERE topic IN ('traps', 'listings', 'repeat', 'generation') ORDER BY topic"
            ).all()
            revision = tuple((str(topic), int(number)) for topic, number in rows)
            of_traps = tuple(row for row in revision if row[0] == "traps")
            if of_traps != self._traps or self._own.due:
                self._own.find(traps.domains_by_hand(connection))
                self._traps = of_traps
            if (name := lookup.touched(self.state)) is not None:
                text = "was changed or removed by somebody else; it is written again"
                self._log("warning", f"recorder: {self.state / name} {text}")
                self._revision = None
                lookup.anew(self.state)
            if revision != self._revision or self._taking().changed:
                found = lookup.publish(connection, self.state, self.settings)
                for line in dict.fromkeys(found):
                    if line not in self._left_out:
                        self._log("error", f"recorder: {line}")
                self._left_out.update(found)
                self._revision, self._taking().changed = revision, False

    # Waiting and complaining

    def _wait(self, stop: threading.Event, seconds: float) -> None:
        """Wait until a writer wakes us, `stop` is set, or `seconds` are over."""
        deadline = time.monotonic() + seconds
        while not stop.is_set() and (left := deadline - time.monotonic()) > 0:
            # `stop` has no file descriptor: look at it ten times a second.
            if readable(self._poke, min(left, 0.1)):
                # Trap hits often come together: wait a moment, so that they share one commit.
                stop.wait(GATHER_S)
                with suppress(BlockingIOError):
                    os.read(self._poke, 65_536)
                return

    def _complain(self, error: Exception, kept: str = "") -> None:
        now = time.monotonic()
        # Each error is logged at once, and again once a minute while it lasts.
        self._complained = {t: at for t, at in self._complained.items() if now - at < COMPLAIN_S}
        if (text := error_text(error)) not in self._complained:
            self._complained[text] = now
            kept = kept or "the journal keeps what comes"
            if (why := journal.refused(self.directory)) is not None:
                kept = f"the journal cannot keep what comes either: {why.strerror or why}"
            self._log("error", f"recorder: {text}; {kept}")

    def _forget(self) -> None:
        """Close the store and forget what is known of it: after an error it may be wrong."""
        if self._lost_log is not None:
            text = "whether all that the removed -wal held is in the file is not known"
            self._log("error", f"recorder: store {config.database_path(self.settings)}: {text}")
            self._lost_log = None
        if self._engine is not None:
            self._engine.dispose()
        self._engine, self._purger = None, None
        # As long as an error refers to an open connection, SQLite reads no damaged log anew.
        gc.collect()
        if self._intake is not None:
            self._intake.forget()


def wait_until_ingested(settings: "Settings", timeout: float = 2.0) -> bool:
    """Wait until the store holds what the journal holds now; False after `timeout` seconds.

    Where no recorder runs, this process ingests the journal itself. Raises StoreError, OSError.
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
    own = Recorder(settings, create=False)
    try:
        while True:
            if own.lock():
                while own.ingest_once():
                    pass
                own._taking().finish(own.engine)
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


def keep_recording(settings: "Settings", log: "MailLog", stop: threading.Event) -> None:
    """Be this host's recorder, as soon as no other is, until `stop` is set. Never raises."""

    def say(level: str, text: str) -> None:
        log.event(level, "recorder", text=text)

    own = Recorder(settings, say)
    while not stop.is_set():
        try:
            own.run(stop)
        except Exception as error:  # start it again: the journal waits for it
            own = Recorder(settings, say, create=own.create)
            log.event("error", "recorder-failed", type=type(error).__name__)
            stop.wait(BACKOFF_MAX_S)


def publish_now(settings: "Settings") -> None:
    """Publish what the store knows, where no recorder runs.

    For a service that starts, so that its first message is judged with the store's traps and
    listings. Does nothing where there is no SQLite store yet. Raises StoreError and OSError.
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
        marks = journal_mark.read(connection)
        with suppress(OSError):
            if waiting_hits.waits(connection, host_name.read(directory)):
                return False
    return all(
        marks.get(name, 0) >= size or not (directory / name).exists()
        for name, size in wanted.items()
    )


def _to_stderr(level: str, line: str) -> None:
    print(f"{level}: {line}", file=sys.stderr, flush=True)
