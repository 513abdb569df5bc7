"""The queue ids that gatepost has lately let pass on this host, as keyed hashes in a shared file.

A content filter, a list manager or a Sieve rule hands mail back. The Received field of its first
pass holds the queue id, and only an id in this file proves that gatepost has seen the message. All
workers share one file in the state directory, which survives a restart. It is read and written,
not mapped: if somebody truncates a mapped file, the worker is killed (SIGBUS).

How it works: the hash of an id chooses a bucket of WAYS words, and is kept in one of them together
with the minute; a full bucket loses its oldest. Where an id is lost, the message is recorded twice,
no more. A word is written at once, so that workers need no lock.

Limits: 1 048 576 ids, which is 2.4 per second over KEPT_S; on a busier host ids are forgotten
sooner. The key is in the same file (mode 0600): so the ids are not plain text in backups, but
somebody who can read the file can test whether an id is in it.
"""

import os
import secrets
import sys
import time
from array import array
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

KEPT_S = 5 * 86_400  # Postfix gives up on a message after five days (maximal_queue_lifetime)
AGAIN_S = 10.0  # between two tries to open a file that was truncated
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
        self._path = directory / NAME
        self._again_at = 0.0  # monotonic: no earlier than this a truncated file is made again
        self._open()

    def _open(self) -> None:
        if not _sound(self._path):
            _create(self._path)
        file = self._path.open("r+b", buffering=0)
        self._key = os.pread(file.fileno(), 24, 0)[8:]
        self._file = file

    def _bucket(self, first: int) -> "array[int]":
        """The words of a bucket; zeros where the file was truncated. Never raises."""
        try:
            got = os.pread(self._file.fileno(), WAYS * 8, HEADER + first * 8)
        except OSError:
            got = b""
        if len(got) == WAYS * 8:
            return array("Q", got)
        moment = time.monotonic()
        if moment >= self._again_at:
            self._again_at = moment + AGAIN_S
            with suppress(OSError):
                self._open()
        return array("Q", bytes(WAYS * 8))

    def _place(self, host: str, queue_id: str) -> tuple[int, int]:
        """(index of the bucket's first word, the part of the hash that is kept)."""
        raw = f"{host.lower()} {queue_id}".encode("utf-8", "surrogateescape")
        number = int.from_bytes(blake2b(raw, digest_size=8, key=self._key).digest(), "little")
        return number % BUCKETS * WAYS, number >> 20 << 20

    def remember(self, host: str, queue_id: str, at: float) -> None:
        """Remember that the MTA `host` (macro {j}) was answered for `queue_id` at `at` (Unix
        seconds). Errors are ignored."""
        first, kept = self._place(host, queue_id)
        now = int(at) // 60 % _MINUTES
        chosen, oldest = 0, -1
        for place, word in enumerate(self._bucket(first)):
            if not word or word & ~(_MINUTES - 1) == kept:
                chosen = place
                break
            age = (now - word) % _MINUTES
            if age > oldest:
                chosen, oldest = place, age
        octets = (kept | now).to_bytes(8, sys.byteorder)
        try:
            os.pwrite(self._file.fileno(), octets, HEADER + (first + chosen) * 8)
        except OSError:
            return

    def knows(self, host: str, queue_id: str, at: float) -> bool:
        """True where `host` was answered for `queue_id` within KEPT_S before `at` (Unix time)."""
        first, kept = self._place(host, queue_id)
        now = int(at) // 60 % _MINUTES
        return any(
            word & ~(_MINUTES - 1) == kept and word and (now - word) % _MINUTES <= _KEPT_MINUTES
            for word in self._bucket(first)
        )


def _sound(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(8) == MAGIC and os.fstat(file.fileno()).st_size == SIZE
    except FileNotFoundError:
        return False


def _create(path: Path) -> None:
    """Make the file, atomically. Where several workers do, the first one's file is kept."""
    aside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with aside.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(MAGIC + secrets.token_bytes(16))
            file.flush()
            # Not a sparse file: later writes must work on a full disk too.
            os.posix_fallocate(file.fileno(), 0, SIZE)
        if path.exists():
            if not _sound(path):
                aside.replace(path)  # `path` is of another version, or damaged
            return
        os.link(aside, path)
    except FileExistsError:
        pass
    finally:
        aside.unlink(missing_ok=True)
