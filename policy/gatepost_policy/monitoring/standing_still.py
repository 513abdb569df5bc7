"""Does the recorder store what waits in the journal?

A store may answer and refuse to be written to all the same: a right that was taken away, a database
that is read-only, a recorder that does not run.
"""

import time
from pathlib import Path

from sqlalchemy import Connection

from gatepost_policy import journal
from gatepost_policy.store import journal_mark

STILL_S = 60.0  # a failover is over by then


class StandingStill:
    """Looks at the watermarks now and then; tells how long none has moved while records waited."""

    def __init__(self) -> None:
        self._then: dict[str, int] = {}  # the watermark of each segment that waited
        self._since = time.monotonic()

    def seconds(self, connection: Connection, directory: Path) -> float:
        """For how long nothing was stored although something waited; 0.0 where all is well.

        Raises SQLAlchemyError; OSError where the journal cannot be read.
        """
        marks = journal_mark.read(connection)
        now: dict[str, int] = {}
        for segment in journal.segments(directory):
            try:
                size = segment.stat().st_size
            except FileNotFoundError:
                continue  # stored meanwhile
            if size > marks.get(segment.name, 0):
                now[segment.name] = marks.get(segment.name, 0)
        if not self._then or any(now.get(name) != mark for name, mark in self._then.items()):
            self._since = time.monotonic()
        self._then = now
        return time.monotonic() - self._since if now else 0.0
