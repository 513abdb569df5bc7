"""Guesses in an imported log: recipients that do not exist, and hosts that try logins."""

from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING

from gatepost_milter.cli.common import Failure, note
from gatepost_policy.importers.guessing import Guessing
from gatepost_policy.journal.record import Json
from gatepost_policy.text.plural import plural

if TYPE_CHECKING:
    from sqlalchemy import Engine

BATCH = 2_000
MANY = 50_000  # refused addresses kept in memory before they are written


class ImportedGuesses:
    """Writes the guesses that the importer found into the store, marked with the import's number.

    `learned`: Unix seconds of the import; `told`: how many records were written.
    """

    def __init__(self, engine: "Engine", guessing: Guessing, number: int, learned: float) -> None:
        self.told = 0
        self._engine, self._guessing, self._number = engine, guessing, number
        self._learned = learned
        self._no_room = 0

    def so_far(self) -> None:
        """Write the refused addresses if there are MANY. Raises StoreError, Failure."""
        if self._guessing.many_refused >= MANY:
            self._write(self._guessing.take_refused())

    def finish(self) -> None:
        """Write all; prints how many rows had no room. Raises StoreError, Failure."""
        self._write(self._guessing.take_refused())
        if self._guessing.waits():
            self._write(self._guessing.take_logins(self._exist))
        left_out = self._no_room + self._guessing.left_out
        if left_out:
            note(f"milterctl: no room for {plural(left_out, 'row')} of what was tried")

    def _exist(self, names: Iterable[str]) -> set[str]:
        from gatepost_policy import store
        from gatepost_policy.traps import existing

        with store.reading(self._engine) as connection:
            return existing.exist(connection, names)

    def _write(self, records: Iterable[Json]) -> None:
        from gatepost_policy import store
        from gatepost_policy.ingest import guesses
        from gatepost_policy.ingest.import_runs import ImportGoneError
        from gatepost_policy.store import sqltext

        for part in sqltext.chunks(records, BATCH):
            write = partial(
                guesses.write_import, records=part, learned=self._learned, number=self._number
            )
            try:
                self._no_room += store.persistently(self._engine, write)
            except ImportGoneError:
                why = f"import {self._number} was taken back while it was under way"
                raise Failure(f"{why}; nothing of it is left") from None
            self.told += len(part)
