"""Find the journal record that a milter wrote about one message, by its queue id.

The milter writes the record before it answers, so it is there when the answer comes. Only a
transaction that ends at RCPT TO has no final answer and no queue id: its record is found by client,
port and sender, and is waited for (REFUSED_WAIT_S). Each look reads on from where the last one
ended.
"""

import threading
import time
from pathlib import Path

from gatepost_milter.mta.client import Result
from gatepost_milter.mta.envelope import Envelope
from gatepost_policy import journal
from gatepost_policy.journal.record import Json

# The journal of an external milter also holds records of messages that are not ours.
MAX_UNCLAIMED = 10_000
# The milter may wait 2.5 s for the store (good mail of the sender) before it writes.
REFUSED_WAIT_S = 10.0


class JournalTail:
    """Follows every segment of `directory`. With `from_now`, what is there already is skipped."""

    def __init__(self, directory: Path, *, from_now: bool = False) -> None:
        self.directory = directory
        self._offsets: dict[Path, int] = {}
        self._found: dict[str, Json] = {}
        self._lock = threading.Lock()
        if from_now:
            for path in journal.segments(directory):
                try:
                    self._offsets[path] = path.stat().st_size
                except FileNotFoundError:
                    continue

    def find(self, result: Result, envelope: Envelope) -> Json | None:
        """The record of a transaction that came to `result`; None where there is none.

        Raises OSError where the journal cannot be read.
        """
        if result.stage != "rcpt":
            return self.take(result.queue_id)
        name = _refused(envelope.client, envelope.port, envelope.sender)
        deadline = time.monotonic() + REFUSED_WAIT_S
        while (found := self.take(name)) is None and time.monotonic() < deadline:
            time.sleep(0.02)
        return found

    def take(self, queue_id: str) -> Json | None:
        """The `message` record of this queue id, once; None where there is none.

        Raises OSError where the journal cannot be read.
        """
        with self._lock:
            found = self._found.pop(queue_id, None)
            if found is None:
                self._look()
                found = self._found.pop(queue_id, None)
            return found

    def _look(self) -> None:
        for path in journal.segments(self.directory):
            try:
                self._read(path)
            except FileNotFoundError:
                self._offsets.pop(path, None)  # stored by the recorder and removed

    def _read(self, path: Path) -> None:
        while True:
            start = self._offsets.get(path, 0)
            if path.stat().st_size <= start:
                break
            for piece in journal.read(path, start):
                self._offsets[path] = piece.end
                data = piece.data
                if data is not None and (name := _name(data)):
                    self._found[name] = data
            if self._offsets.get(path, 0) == start:
                break
        while len(self._found) > MAX_UNCLAIMED:
            self._found.pop(next(iter(self._found)))


def _name(data: Json) -> str | None:
    """The key under which a record is kept: its queue id, or `_refused`; None for other kinds."""
    if data.get("kind") == "message":
        return data.get("queue_id")
    client = data.get("client")
    if data.get("kind") == "rcpt" and client:
        return _refused(client["address"], client["port"], data["sender"])
    return None


def _refused(address: str | None, port: int | None, sender: str) -> str:
    return f"{address}|{port}|{sender}"
