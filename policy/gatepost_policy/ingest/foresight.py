"""What an import would bring (`milterctl import ... --dry-run`): `ingest` without its writing."""

from collections.abc import Sequence

from sqlalchemy import Connection

from gatepost_policy.ingest import deltas, merge, rows
from gatepost_policy.ingest.rows import Row
from gatepost_policy.journal.record import Json
from gatepost_policy.mail import index_key


class Foresight:
    """Counts, batch by batch, which records of logs would be new.

    `learned`: now, in Unix seconds; `counted`: how many of the new ones are submissions, which are
    only counted. Keeps the key of each new message in memory, because no later batch finds it in
    the store.
    """

    def __init__(self, learned: float) -> None:
        self.counted = 0
        self._learned = learned
        self._told: set[str] = set()
        # Rows that those of the next batch may belong to, as `merge` finds them in the store.
        self._near: list[Row] = []

    def take(self, connection: Connection, records: Sequence[Json]) -> int:
        """How many of `records` would be new. Raises SQLAlchemyError, ValueError (no record)."""
        batch: list[Row] = []
        keyed: set[str] = set()
        new = 0
        for data in records:
            if data["kind"] in ("message", "rcpt"):
                row = rows.read(data, self._learned)
                if row.key is None or row.key not in self._told:
                    batch.append(row)
            elif data["kind"] == "count" and data.get("key") is not None:
                keyed.add(index_key.fit(index_key.clean(data["key"])))
        if batch:
            new = self._fresh(connection, batch)
        keyed -= self._told
        keyed.difference_update(merge.known_keys(connection, keyed))
        self._told |= keyed
        self.counted += len(keyed)
        return new + len(keyed)

    def _fresh(self, connection: Connection, batch: list[Row]) -> int:
        before = {id(row) for row in self._near}
        merged = merge.merge(connection, [*self._near, *batch], deltas.Sums())
        fresh = [row for row in merged.fresh if id(row) not in before]
        self._told.update(row.key for row in fresh if row.key is not None)
        latest = max(row.at for row in batch)
        self._near = [
            row for row in merged.fresh if row.session and row.at >= latest - merge.WINDOW_S
        ]
        return len(fresh)
