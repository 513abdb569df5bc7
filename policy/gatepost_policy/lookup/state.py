"""What one process has in memory for the rules: traps, listings and repeat senders.

How it works: the recorder writes three files into the state directory (`publisher`) and raises a
counter in a fourth, `known.tick`. `KnownState` reads the counter at MAIL or at a request (a
microsecond) and the new files (`snapshot`) when it has changed. No file is mapped: `numbers` says
why.

Rule: a reader never writes, never raises, and never waits for the store, except for one bounded
read (`history`) after a trap hit.
"""

import os
import threading
import time
from collections.abc import Mapping
from io import FileIO
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost_policy.config import own_names
from gatepost_policy.lookup.history import History
from gatepost_policy.lookup.snapshot import (
    DAMAGE,
    EMPTY,
    TICK_FILE,
    Snapshot,
    load,
)
from gatepost_policy.mail.address import NULL, Address, parse
from gatepost_policy.mail.facts import Direction, Facts, Identity
from gatepost_policy.mail.own import Own
from gatepost_policy.rules import Known

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

# Seconds after which a replaced counter file (state directory restored) is noticed.
LOOK_AGAIN_S = 2.0
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND


class KnownState:
    """One for a process. Thread-safe; it can be made before a fork, but used only after it.

    `state_dir` defaults to the configured one. Where nothing has been published yet there are no
    traps and no listings.
    """

    def __init__(self, settings: "Settings", state_dir: Path | None = None) -> None:
        self.settings = settings
        if state_dir is None:
            from gatepost_policy import config

            state_dir = config.state_dir(settings)
        self.state_dir = state_dir
        self._now = EMPTY
        self._tick: FileIO | None = None  # the counter
        self._tick_file: tuple[int, int] | None = None  # its device and inode
        self._seen = -1
        self._look_at = 0.0  # monotonic: when the path of the counter is looked at again
        self._lock = threading.Lock()
        self._history = History(settings)

    def current(self) -> Snapshot:
        """The newest snapshot; loads it where the counter has changed. Never raises."""
        moment = time.monotonic()
        if moment >= self._look_at:
            with self._lock:
                # Other threads wait here: when the first two messages of a process come at the same
                # time, both need the loaded snapshot.
                if moment >= self._look_at:
                    self._look_at = self._open_tick()
        file = self._tick
        if file is not None:
            tick = _read(file)
            if tick not in (None, self._seen):
                with self._lock:
                    self._load(tick)
        return self._now

    def is_trap(self, address: Address) -> bool:
        """True where mail to `address` is for a trap, by the newest snapshot."""
        return self.current().is_trap(address)

    def own(self) -> Own:
        """What is ours beside the configuration: the MTA's domains, this host's addresses."""
        return own_names.read(self.state_dir)

    def live_traps(self, used: Mapping[str, str]) -> dict[str, str]:
        """The traps among addresses that one of our own users used.

        `used` and the result are by how it was used (a login, a sender); the result holds trap
        keys.
        """
        now = self.current()
        found = {}
        for how, text in used.items():
            address = parse(text) if "@" in text else NULL
            if not address.null and now.is_trap(address):
                found[how] = address.trap_key
        return found

    def lookup(self, facts: Facts, *, ask_store: bool = True) -> Known:
        """What the rules need to know about `facts`. Never raises.

        With `ask_store=False` it never leaves memory, and `past` stays None.
        """
        now = self.current()
        if now.hashed is None:
            return Known()
        traps = frozenset(r.address.raw for r in facts.recipients if now.is_trap(r.address))
        if facts.direction is not _INBOUND:
            return Known(traps=traps)
        repeat: tuple[Identity, ...] = ()
        if len(now.repeat):
            repeat = tuple(i for i in facts.identities() if now.is_repeat(i))
        past = None
        if ask_store and traps and not facts.trusted_relay:
            past = self._history.past(facts)
        return Known(
            traps=traps, listed=now.listed(facts), repeat=repeat, past=past, own=self.own()
        )

    def _open_tick(self) -> float:
        """Open the counter, or open it again where its file was replaced.

        Returns when to look again (monotonic seconds).
        """
        path = self.state_dir / TICK_FILE
        again = time.monotonic() + LOOK_AGAIN_S
        try:
            status = path.stat()
            if (status.st_dev, status.st_ino) == self._tick_file:
                return again
            file = path.open("rb", buffering=0)
        except OSError:
            return time.monotonic() + 0.1  # nothing there yet: look again soon
        if _read(file) is None:
            file.close()
            return time.monotonic() + 0.1
        status = os.fstat(file.fileno())
        self._tick_file = (status.st_dev, status.st_ino)
        self._tick = file
        self._seen = -1
        return again

    def _load(self, tick: int | None) -> None:
        if tick is None or tick == self._seen:
            return  # another thread was faster
        try:
            self._now = load(self.state_dir, self._now)
        except DAMAGE:
            # The files are damaged or being replaced: keep the old snapshot, try again next time.
            return
        self._seen = tick


def _read(file: FileIO) -> int | None:
    """The counter; None where its file is empty or cannot be read."""
    try:
        number = os.pread(file.fileno(), 8, 0)
    except OSError:
        return None
    return int.from_bytes(number, "little") if len(number) == 8 else None
