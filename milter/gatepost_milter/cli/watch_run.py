"""`milterctl watch` at work: read the logs, write records to the journal, save the positions.

How it works: records go into the journal, and after them a record with each log's position and its
unfinished messages. The recorder stores them in this order, so the position in the store is never
ahead of the messages. After a kill, the next run reads some lines again; their records are
recognised by their keys and not stored twice.

Where no other recorder runs on this host, a thread of this process records.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_milter.cli.common import Failure
from gatepost_milter.cli.watch_log import WatchedLog
from gatepost_policy import config, journal
from gatepost_policy.importers.follow import Follower, Position
from gatepost_policy.importers.wrapping import journal_line
from gatepost_policy.journal.record import VERSION, Json
from gatepost_policy.lookup import KnownState
from gatepost_policy.monitoring.maillog import MailLog
from gatepost_policy.store import StoreError
from gatepost_policy.system import systemd

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

LOOK_S = 0.25
# Least time between two saves of positions; more (SAVE_SHARE times the last save) if that is slow.
SAVE_S = 1.0
SAVE_SHARE = 20
# Where more waits for the recorder, reading stops: old lines must not delay records of new mail.
BACKLOG_BYTES = 64 << 20
LOOK_EVERY = 1_000  # records between two looks at the size of the journal
INGEST_WAIT_S = 60.0
JOURNAL_LINES = 5_000


class _File:
    """A log file that is followed. `told`: the state saved by an earlier run (`state`)."""

    def __init__(self, path: Path, log: WatchedLog, told: Json | None) -> None:
        self.name = str(path)
        self.log = log
        position = None
        if told is not None:
            position = Position(**told["position"])
            log.resume(told["log"])
        self.source = Follower(path, position)

    def read(self) -> Iterator[list[str]]:
        """The new lines, in blocks. Raises Failure where the file cannot be read."""
        try:
            for lines in self.source.read():
                if self.source.begun:
                    self.log.new_file()
                yield lines
        except OSError as error:
            raise Failure(f"watch: {self.name}: {error.strerror or error}", 3) from None

    def state(self) -> Json:
        """The state to save: the position, and the log's unfinished messages."""
        return {"position": self.source.position.json(), "log": self.log.state()}

    def lost(self) -> str:
        """Why lines may be missing, '' if none are; each reason is returned once."""
        told, self.source.lost = self.source.lost, ""
        return told

    def close(self) -> None:
        """Close the file."""
        self.source.close()


class _Journal:
    """The systemd journal's mail facility, followed by journalctl."""

    name = "journal"

    def __init__(self, log: WatchedLog, told: Json | None, *, once: bool) -> None:
        self.log = log
        self.cursor = "" if told is None else str(told["position"])
        if told is not None:
            log.resume(told["log"])
        words = ["journalctl", "-o", "json", "--no-pager", "-q", "SYSLOG_FACILITY=2"]
        words += [f"--after-cursor={self.cursor}"] if self.cursor else ["--no-tail"]
        words += [] if once else ["-f"]
        self._once = once
        try:
            self._process = subprocess.Popen(words, stdout=subprocess.PIPE)
        except OSError as error:
            raise Failure(f"watch --journal: journalctl: {error.strerror}", 3) from None
        assert self._process.stdout is not None
        self._out = self._process.stdout
        os.set_blocking(self._out.fileno(), self._once)
        self._rest = b""

    def read(self) -> Iterator[list[str]]:
        """The new lines, in blocks. Raises Failure where journalctl has ended."""
        while True:
            try:
                data = os.read(self._out.fileno(), 1 << 20)
            except BlockingIOError:
                return
            if not data:
                if self._once:
                    return
                raise Failure("watch --journal: journalctl has ended", 3)
            whole, _, self._rest = (self._rest + data).rpartition(b"\n")
            lines = whole.decode("utf-8", "surrogateescape").split("\n") if whole else []
            for start in range(0, len(lines), JOURNAL_LINES):
                part = lines[start : start + JOURNAL_LINES]
                with suppress(ValueError, TypeError, KeyError):
                    self.cursor = str(json.loads(part[-1])["__CURSOR"])
                yield [journal_line(line) for line in part]

    def state(self) -> Json:
        """The state to save: the journal's cursor, and the log's unfinished messages."""
        return {"position": self.cursor, "log": self.log.state()}

    def lost(self) -> str:
        """Always '': it is not known whether lines are missing."""
        return ""

    def close(self) -> None:
        """End journalctl."""
        self._process.terminate()
        self._process.wait()
        self._out.close()


class Watch:
    """All logs that one process follows."""

    def __init__(self, settings: "Settings", log: MailLog) -> None:
        self.settings = settings
        self.stop = threading.Event()
        self._log = log
        self._directory = config.journal_dir(settings)
        self._writer = journal.Writer(
            self._directory,
            max_bytes=settings.store.journal_max_bytes,
            sync=settings.store.sync,
            tell=lambda text: log.event("error", "watch", text=text),
        )
        self._host = socket.gethostname()
        self._save_at = 0.0
        self._saved: dict[str, str] = {}
        self._coming: dict[str, tuple[int, str]] = {}  # states that are not settled yet, by name
        self._written = 0

    def once(self, sources: Sequence[Any], *, last: bool) -> bool:
        """Read what is new in every log; True if there was anything. `last`: nobody will look again
        soon. Raises Failure, Stopped."""
        took = False
        for source in sources:
            for lines in source.read():
                took = True
                for data in source.log.records(lines, time.time()):
                    self._put(data)
                self.save(sources, force=False)
                if self.stop.is_set():
                    return took
            for data in source.log.quiet(time.time(), last=last):
                self._put(data)
            with suppress(StoreError):  # tried again the next time
                for data in source.log.logins(self._exist, time.time()):
                    self._put(data)
            if told := source.lost():
                self._log.event("warning", "watch", log=source.name, text=told)
        return took

    def _exist(self, names: Iterable[str]) -> set[str]:
        """Which of these names exist. Raises StoreError."""
        from gatepost_policy import store
        from gatepost_policy.traps import existing

        engine = store.open_engine(self.settings, create=False)
        try:
            with store.reading(engine) as connection:
                return existing.exist(connection, names)
        finally:
            engine.dispose()

    def save(self, sources: Sequence[Any], *, force: bool) -> None:
        """Write each log's state to the journal, not more often than SAVE_S unless `force`."""
        begun = time.monotonic()
        if not force and begun < self._save_at:
            return
        for source in sources:
            text = self._settled(source)
            if text is None or self._saved.get(source.name) == text:
                continue
            self._put(
                {
                    "v": VERSION,
                    "kind": "watch",
                    "at": time.time(),
                    "host": self._host,
                    "name": source.name,
                    "state": json.loads(text),
                }
            )
            self._saved[source.name] = text
        now = time.monotonic()
        self._save_at = now + max(SAVE_S, SAVE_SHARE * (now - begun))

    def _settled(self, source: Any) -> str | None:
        """The newest state, as JSON, from which a run loses nothing; None where no newer one is.

        A refusal that waits is in no state, because it may be a user's. So a state is kept back
        until all that waited at that moment is recorded; all later lines are read again.
        """
        if source.log.settled():
            self._coming.pop(source.name, None)
            return json.dumps(source.state(), sort_keys=True)
        mark, text = self._coming.get(source.name, (None, None))
        if mark is not None and not source.log.settled(mark):
            return None
        state = json.dumps(source.state(), sort_keys=True)
        self._coming[source.name] = source.log.mark(), state
        return text

    def close(self) -> None:
        """Close the journal segment; the recorder reads it to its end."""
        self._writer.close()

    def _put(self, data: Json) -> None:
        """Write to the journal. Waits where it is full: unlike a milter, a log can wait. Raises
        Stopped."""
        self._written += 1
        if self._written % LOOK_EVERY == 1:
            while not self.stop.is_set() and self._backlog() > BACKLOG_BYTES:
                self.stop.wait(LOOK_S)
        while not self._writer.write(data):
            if self.stop.wait(LOOK_S):
                raise Stopped

    def _backlog(self) -> int:
        with suppress(OSError):
            return journal.size_of(self._directory)
        return 0


class Stopped(Exception):
    """TERM or INT came while a write waited; the lines are read again by the next run."""


def run(
    settings: "Settings",
    files: Sequence[Path],
    with_journal: bool,
    zone: tzinfo | None,
    *,
    once: bool,
) -> int:
    """Follow these logs until TERM or INT (`once`: to their ends). The exit code."""
    from gatepost_policy.recorder import keep_recording, publish_now, wait_until_ingested

    log = MailLog(settings.log)
    journal.LOSSES.tell_in(config.state_dir(settings), "watch")
    watch = Watch(settings, log)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: watch.stop.set())
    # The last position of an earlier run may still be in the journal.
    if not wait_until_ingested(settings, timeout=INGEST_WAIT_S):
        raise Failure("watch: the recorder does not keep up; look at: milterctl check", 3)
    with suppress(StoreError, OSError):
        publish_now(settings)
    known = KnownState(settings)
    recording = threading.Thread(
        target=keep_recording, args=(settings, log, watch.stop), name="recorder", daemon=True
    )
    told = _positions(settings, socket.gethostname())
    sources: list[Any] = []
    try:
        for path in files:
            at = path.absolute()
            mine = WatchedLog(settings.submission, zone, known)
            sources.append(_source(log, str(at), lambda t, at=at, m=mine: _File(at, m, t), told))
        if with_journal:
            mine = WatchedLog(settings.submission, zone, known)
            sources.append(
                _source(log, "journal", lambda t, m=mine: _Journal(m, t, once=once), told)
            )
        recording.start()
        names = " ".join(source.name for source in sources)
        with suppress(Stopped):
            # Save where it began before reading, and before "ready": after a kill and a rotation,
            # the next run would else begin with the new file and lose the old one's lines.
            watch.save(sources, force=True)
            print(f"milterctl watch ready {names}", flush=True)
            systemd.notify("READY=1", f"STATUS=following {names}")
            _follow(watch, sources, once=once)
            watch.save(sources, force=True)
    finally:
        systemd.notify("STOPPING=1")
        watch.stop.set()
        for source in sources:
            source.close()
        watch.close()
        if recording.ident is not None:
            recording.join()
    if once and not wait_until_ingested(settings, timeout=INGEST_WAIT_S):
        print("milterctl: the recorder is behind", file=sys.stderr)
    return 0


def _follow(watch: Watch, sources: Sequence[Any], *, once: bool) -> None:
    every = systemd.watchdog_seconds()
    alive = 0.0
    while not watch.stop.is_set():
        took = watch.once(sources, last=once)
        if once:
            return
        watch.save(sources, force=False)
        if every is not None and time.monotonic() >= alive:
            systemd.notify("WATCHDOG=1")
            alive = time.monotonic() + every
        if not took:
            watch.stop.wait(LOOK_S)


def _source(log: MailLog, name: str, make: Any, told: dict[str, Json]) -> Any:
    """The source at its saved position; at the beginning where that is invalid (logged)."""
    try:
        return make(told.get(name))
    except (KeyError, TypeError, ValueError, AttributeError):
        log.event("warning", "watch", log=name, text="its position is none; read from the start")
        return make(None)


def _positions(settings: "Settings", host: str) -> dict[str, Json]:
    """The saved state of each of this host's logs, {name: state}. Raises StoreError."""
    from gatepost_policy import store
    from gatepost_policy.store import sqltext

    engine = store.open_engine(settings)
    try:
        with store.reading(engine) as connection:
            sql = "SELECT name, state FROM watch_position WHERE host = ?"
            found = sqltext.execute(connection, sql, (host,)).all()
    finally:
        engine.dispose()
    return {str(row.name): json.loads(row.state) for row in found}
