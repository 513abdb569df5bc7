"""One computation for all who ask the same at once.

A page over a million messages takes a second of processor time, and the threads of a Python process
share one processor: if six people open the overview at once, each of them would wait for six
seconds. So a request that comes while the same page is being computed gets the result of that
computation. A result is not kept after that.
"""

from collections.abc import Callable, Hashable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Shared(Generic[T]):
    """The computations that are running now, by what was asked. Threads may share one."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._running: dict[Hashable, Future[T]] = {}
        self._changes = 0

    def changed(self) -> None:
        """Call after a change: later requests get no result of a computation begun before it."""
        with self._lock:
            self._changes += 1

    def of(self, asked: Hashable, work_out: Callable[[], T]) -> T:
        """The result of `work_out`, or that of a running computation for the same `asked`.

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
