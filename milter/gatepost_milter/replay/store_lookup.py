"""Find an external milter's record of a message in the store, where its journal is not here.

The milter may run on another host, or as another user; its recorder brings the record into the
store a moment after the answer. Only messages of the last SPAN_S are searched, because there is no
index on queue ids.
"""

import threading
import time
from typing import TYPE_CHECKING, cast

from sqlalchemy import Engine, select

from gatepost_policy import config, store
from gatepost_policy.journal.record import Json
from gatepost_policy.report.checks import Checked, dmarc_json, dmarc_of, spf_json, spf_of
from gatepost_policy.store.tables import Message, MessageSignature

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

WAIT_S = 2.0
# The clocks of two hosts may differ this much, and the replay may have gone on for a while.
SPAN_S = 3_600.0


class StoreFind:
    """Reads the configured store, where there is one; `take` as `JournalTail.take`."""

    def __init__(self, settings: "Settings") -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._lock = threading.Lock()
        path = config.database_path(settings)
        # A store that does not exist is not created here.
        self._there = path is None or path.exists()

    def take(self, queue_id: str) -> Json | None:
        """The part of the record that a replay shows; None where there is none after WAIT_S."""
        deadline = time.monotonic() + WAIT_S
        while self._there:
            try:
                found = self._look(queue_id)
            except store.StoreError:
                # No permission, or an older schema: that will not change during this run.
                self._there = False
                return None
            if found is not None:
                return found
            if time.monotonic() >= deadline:
                # This milter records elsewhere, or not at all: do not wait for each message.
                self._there = False
            time.sleep(0.1)
        return None

    def close(self) -> None:
        """Close the connections to the store."""
        if self._engine is not None:
            self._engine.dispose()

    def _look(self, queue_id: str) -> Json | None:
        with self._lock:
            if self._engine is None:
                self._engine = store.open_engine(self._settings, ensure=False)
        wanted = (Message.at >= time.time() - SPAN_S, Message.queue_id == queue_id)
        with store.reading(self._engine) as connection:
            row = connection.execute(select(Message.__table__).where(*wanted)).first()
            if row is None:
                return None
            checked = cast(Checked, row)
            signatures = connection.execute(
                select(MessageSignature.__table__)
                .where(MessageSignature.message_id == row.id)
                .order_by(MessageSignature.position)
            ).mappings()
            return {
                "direction": row.direction,
                "family": row.family,
                "signatures": [dict(s) for s in signatures],
                "arc": None if row.arc_cv is None else [row.arc_cv, row.arc_reason],
                "spf": spf_json(spf_of(checked)),
                "dmarc": dmarc_json(dmarc_of(checked)),
                "action": row.action,
                "reason": row.reason,
            }
