"""One computation for all who ask the same at once.

A page over a million messages takes a second of processor time, and Python does one thing at a
time: six people who open the overview at once would each wait for six. Whoever comes while the
same is worked out gets what comes of it. Nothing is kept beyond that.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """Answers that are worked out at this moment, by what was asked. Safe among threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[Hashable, Future[T]] = {}
        self._changes = 0

    def changed(self) -> None:
        """From now on nobody gets what was begun before: something was done, and is to be seen."""
        with self._lock:
            self._changes += 1

    def of(self, asked: Hashable, work_out: Callable[[], T]) -> T:
        """What `work_out` gives, or gave another who asked the same and began a moment ago.

        Raises what `work_out` raises.
        """
        with self._lock:
            key = (self._changes, asked)
            running = self._running.get(key)
            mine: Future[T] = Future()
            if running is None:
                self._running[key] = mine
        if running is not None:
            return running.result()
        try:
            mine.set_result(work_out())
        except BaseException as error:
            mine.set_exception(error)
        finally:
            with self._lock:
                del self._running[key]
        return mine.result()
