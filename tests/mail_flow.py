"""Mail that flows into a store while something is done to it."""

import threading

from fix_store import journal_of, message
from gatepost_policy import journal
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder import Recorder, wait_until_ingested


class Flow:
    """Mail that flows: a writer and a recorder, each in a thread of its own."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.said: list[str] = []
        self.written = 0
        self.stop = threading.Event()
        self.halt = threading.Event()
        self.recorder = Recorder(settings, lambda level, text: self.said.append(text))
        self.writer = journal.Writer(
            journal_of(settings), max_bytes=1 << 30, sync="process", tell=self.said.append
        )
        self.threads = [
            threading.Thread(target=self._write),
            threading.Thread(target=self.recorder.run, args=(self.halt,)),
        ]
        for thread in self.threads:
            thread.start()

    def _write(self) -> None:
        while not self.stop.is_set():
            assert self.writer.write(message(self.written, port=self.written))
            self.written += 1
            self.stop.wait(0.002)

    def past(self, count: int) -> None:
        """Wait until so many more were written."""
        wanted = self.written + count
        while self.written < wanted:
            self.stop.wait(0.01)

    def end(self) -> None:
        self.stop.set()
        self.threads[0].join()
        self.writer.close()
        assert wait_until_ingested(self.settings, timeout=60)
        self.halt.set()
        self.threads[1].join()
