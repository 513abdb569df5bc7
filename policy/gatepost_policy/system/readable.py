"""Wait until a file descriptor can be read. Not with select(2): it refuses numbers from 1024 on.

A worker with many sessions, or a process that has many files open, has descriptors above that.
"""

import select
from collections.abc import Iterable
from typing import Protocol


class HasDescriptor(Protocol):
    """A socket or an open file."""

    def fileno(self) -> int:
        """Its file descriptor."""
        ...


def readable(what: int | HasDescriptor, seconds: float) -> bool:
    """True once `what` can be read or is at its end; False after `seconds`. Raises OSError."""
    return bool(among((what,), seconds))


def among(what: Iterable[int | HasDescriptor], seconds: float) -> list[int]:
    """The descriptors of `what` that can be read or are at their end; [] after `seconds`."""
    poller = select.poll()
    for one in what:
        poller.register(one, select.POLLIN)
    return [descriptor for descriptor, _ in poller.poll(seconds * 1000)]
