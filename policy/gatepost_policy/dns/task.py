"""Run a check that needs several answers one after the other, while the message still arrives.

How it works. A `Task` is given a function that calls `Ask` for each answer it needs. The function
runs at once, in the caller's thread, as long as the cache has every answer. At the first one that
must be waited for, it is started again in a thread of its own; `result` waits for that thread. From
the deadline on every look-up is answered with a time-out, so that the function ends by itself.

Rule: the function may be run twice, so it must have no side effect that matters twice.
"""

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from gatepost_policy.dns.answer import TIMEOUT, Answer, Why
from gatepost_policy.dns.lookups import Lookups, Pending, Share

Ask = Callable[[str, str], Answer]  # name (lower-case, no end dot), type
T = TypeVar("T")
# Seconds after the deadline in which the function may still end: it only computes then.
GRACE_S = 0.25
BROKEN = "internal-error"


class _Miss(BaseException):
    """An answer that has to be waited for. A BaseException, so that no `except Exception` catches
    it.
    """


class Task(Generic[T]):
    """One function and its look-ups. `deadline` is in monotonic seconds. `otherwise` makes the
    result from a reason where the function gave none: `dns-timeout`, or `internal-error` where it
    raised (a bug of ours must not stop the message).
    """

    __slots__ = ("_deadline", "_done", "_lookups", "_otherwise", "_run", "_value")

    def __init__(
        self,
        run: Callable[[Ask], T],
        lookups: Lookups | Share,
        deadline: float,
        otherwise: Callable[[str], T],
    ) -> None:
        self._run = run
        self._lookups = lookups
        self._deadline = deadline
        self._otherwise = otherwise
        self._value: T | None = None
        self._done: threading.Event | None = None
        try:
            self._value = run(self._known)
        except Exception:
            self._value = otherwise(BROKEN)
        except _Miss:
            self._done = threading.Event()
            try:
                threading.Thread(target=self._wait, daemon=True).start()
            except RuntimeError:  # no more threads: the limit of the process or the system
                self._done.set()

    @property
    def waits(self) -> bool:
        """True where `result` would wait."""
        return self._done is not None and not self._done.is_set()

    def result(self) -> T:
        """The function's result. Waits until `GRACE_S` after the deadline at most. Never raises."""
        done = self._done
        if done is not None:
            done.wait(max(self._deadline - time.monotonic(), 0.0) + GRACE_S)
        return self._otherwise(str(Why.TIMEOUT)) if self._value is None else self._value

    def _known(self, name: str, kind: str) -> Answer:
        found = self._lookups.ask(name, kind)
        if isinstance(found, Pending):
            if not found.done.is_set():
                raise _Miss
            return found.answer
        return found

    def _ask(self, name: str, kind: str) -> Answer:
        left = self._deadline - time.monotonic()
        if left <= 0:
            return TIMEOUT
        found = self._lookups.ask(name, kind)
        return found.wait(left) if isinstance(found, Pending) else found

    def _wait(self) -> None:
        try:
            self._value = self._run(self._ask)
        except Exception:
            self._value = self._otherwise(BROKEN)
        finally:
            if self._done is not None:
                self._done.set()
