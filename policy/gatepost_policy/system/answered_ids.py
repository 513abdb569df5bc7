"""The queue ids that gatepost has answered lately on this host, as keyed hashes in a shared file.

A content filter, a list manager or a Sieve rule hands mail back; the Received field of its first
pass has the queue id, and only an id that is in here proves that gatepost has had it. All workers
map one file in the state directory, which survives a restart.

How it works: the hash of an id chooses a bucket of WAYS words and is kept in one of them beside the
minute; a full bucket loses its oldest. A lost id costs a second record, no more. Words are written
whole, so that two workers need no lock.

Limits: 1 048 576 ids, about three a second over KEPT_S; ids of whoever sends more are forgotten
sooner. The key lies in the same file (0600): it keeps the ids out of copies and backups that are
read at a glance, not from whoever may read the state directory.
"""

import mmap
import os
import secrets
from hashlib import blake2b
from pathlib import Path

KEPT_S = 5 * 86_400  # Postfix gives up on a message after five days (maximal_queue_lifetime)
NAME = "answered-ids"
MAGIC = b"gpids001"
HEADER = 64
BUCKETS = 1 << 17
WAYS = 8
SIZE = HEADER + BUCKETS * WAYS * 8
_MINUTES = 1 << 20  # two years, then the count starts again
_KEPT_MINUTES = KEPT_S // 60


class AnsweredIds:
    """The table in `directory`, made where there is none. Raises OSError."""

    def __init__(self, directory: Path) -> None:
        path = directory / NAME
        if not _sound(path):
            _create(path)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), SIZE)
        self._key = self._map[8:24]
        self._words = memoryview(self._map)[HEADER:].cast("Q")

    def _place(self, host: str, queue_id: str) -> tuple[int, int]:
        """(first word of the bucket, the hash's part that is kept)."""
        raw = f"{host.lower()} {queue_id}".encode("utf-8", "surrogateescape")
        number = int.from_bytes(blake2b(raw, digest_size=8, key=self._key).digest(), "little")
        return number % BUCKETS * WAYS, number >> 20 << 20

    def remember(self, host: str, queue_id: str, at: float) -> None:
        """`host` ({j}) has been answered for `queue_id` at `at` (Unix seconds)."""
        first, kept = self._place(host, queue_id)
        now = int(at) // 60 % _MINUTES
        words = self._words
        chosen, oldest = first, -1
        for place in range(first, first + WAYS):
            word = words[place]
            if not word or word & ~(_MINUTES - 1) == kept:
                chosen = place
                break
            age = (now - word) % _MINUTES
            if age > oldest:
                chosen, oldest = place, age
        words[chosen] = kept | now

    def knows(self, host: str, queue_id: str, at: float) -> bool:
        """True where `host` was answered for `queue_id` within KEPT_S before `at`."""
        first, kept = self._place(host, queue_id)
        now = int(at) // 60 % _MINUTES
        return any(
            word & ~(_MINUTES - 1) == kept and word and (now - word) % _MINUTES <= _KEPT_MINUTES
            for word in self._words[first : first + WAYS]
        )


def _sound(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == MAGIC and os.fstat(file.fileno()).st_size == SIZE
    except FileNotFoundError:
        return False


def _create(path: Path) -> None:
    """In one step, and the first of several workers wins."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(MAGIC + secrets.token_bytes(16))
            file.flush()
            # Not a sparse file: where the disk is full a write to a page of it that is not there
            # yet is SIGBUS, and with it the end of the worker in the middle of a message.
            os.posix_fallocate(file.fileno(), 0, SIZE)
        if path.exists():
            if not _sound(path):
                aside.replace(path)  # of another version
            return
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
