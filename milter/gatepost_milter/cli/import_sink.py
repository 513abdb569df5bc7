"""Where `milterctl import` puts what it reads: into the store, or (--dry-run) nowhere."""

import time
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from gatepost_milter.cli.common import Failure
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.journal.record import Json, Seen

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gatepost_policy.config.settings import Settings

BATCH = 5_000

Importer = Exim | Postfix


class Sink:
    """Gathers records and writes them in batches, in a thread, so that the parser does not wait for
    the disk. `told`: records so far; `new`: those that the store did not have; `counted`: of
    these, mail of our own users, which is only counted."""

    def __init__(self, engine: "Engine", settings: "Settings", learned: float) -> None:
        self.new = self.counted = 0
        self.told = 0
        self._engine, self._settings, self._learned = engine, settings, learned
        self._batch: list[Json] = []
        self._writing: Future[int] | None = None
        self._pool = ThreadPoolExecutor(1)
        self.number: int | None = None

    def begin(self, importer: Importer, files: Iterable[str]) -> int | None:
        """Make this import's row (`ingest.import_runs`); returns its number, None for a dry run.
        Raises StoreError."""
        from gatepost_policy import store
        from gatepost_policy.ingest import import_runs

        name = "exim" if isinstance(importer, Exim) else "postfix"
        begin = partial(import_runs.begin, mta=name, files=list(files), now=self._learned)
        self.number = store.persistently(self._engine, begin)
        return self.number

    def end(self, lines: int, *, told: bool) -> None:
        """Mark this import as ended. Raises StoreError."""
        from gatepost_policy import store
        from gatepost_policy.ingest import import_runs

        assert self.number is not None
        end = partial(import_runs.end, number=self.number, lines=lines, now=time.time(), told=told)
        self.counted = store.persistently(self._engine, end)

    def take(self, seen: Iterable[Seen]) -> None:
        """Write these, a batch at a time. Raises StoreError, Failure (the import was undone)."""
        for one in seen:
            self._batch.append(to_json(one))
            if len(self._batch) >= BATCH:
                self._hand_over()

    def close(self) -> None:
        """Write what is left, and wait until all is written."""
        self._hand_over()
        self._wait()
        self._pool.shutdown()

    def _hand_over(self) -> None:
        self._wait()
        batch, self._batch = self._batch, []
        if batch:
            self.told += len(batch)
            self._writing = self._pool.submit(self._write, batch)

    def _write(self, batch: list[Json]) -> int:
        """How many of the records were new; in the thread."""
        from gatepost_policy.recorder import record_batch

        return record_batch(self._engine, batch, self._settings, self._learned, self.number)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            from gatepost_policy.ingest.import_runs import ImportGoneError

            try:
                self.new += writing.result()
            except ImportGoneError:
                why = f"import {self.number} was taken back while it was under way"
                raise Failure(f"{why}; nothing of it is left") from None


class DrySink(Sink):
    """Counts the same, and only reads the store."""

    def __init__(self, engine: "Engine", settings: "Settings", learned: float) -> None:
        from gatepost_policy.ingest.foresight import Foresight

        super().__init__(engine, settings, learned)
        self._foresight = Foresight(learned)

    def begin(self, importer: Importer, files: Iterable[str]) -> int | None:
        """No row: nothing will have come."""
        return None

    def end(self, lines: int, *, told: bool) -> None:
        """How much of it is only counted."""
        self.counted = self._foresight.counted

    def _write(self, batch: list[Json]) -> int:
        from gatepost_policy import store

        with store.reading(self._engine) as connection:
            return self._foresight.take(connection, batch)
