"""Which domains and networks are ours, kept in a file for all processes of this host."""

import threading
import time
from contextlib import suppress
from pathlib import Path

from gatepost_policy.config import own_names
from gatepost_policy.system import mta_tables

OWN_S = 600.0
OWN_WAIT_S = 0.05


class FindingOwn:
    """Writes what the traps made by hand and the MTA say is ours.

    The MTA is asked by a program that may take long: in a thread that writes the answer when it
    comes.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._at = 0.0  # monotonic: when the MTA is asked again
        self._asking: threading.Thread | None = None
        self._found = mta_tables.Tables()
        self._of_traps: set[str] = set()

    @property
    def due(self) -> bool:
        """True where it is time to ask the MTA again."""
        return time.monotonic() >= self._at

    def find(self, of_traps: set[str]) -> None:
        """Write the file. `of_traps`: the domains of traps that were made by hand."""
        if self.due:
            self._at = time.monotonic() + OWN_S
            if self._asking is None or not self._asking.is_alive():
                self._asking = threading.Thread(target=self._ask, name="own", daemon=True)
                self._asking.start()
                # The addresses of this host are there within a millisecond; the MTA's answer may
                # come later.
                self._asking.join(OWN_WAIT_S)
        self._of_traps = of_traps
        self._tell()

    def _ask(self) -> None:
        self._found = mta_tables.read()
        self._tell()

    def _tell(self) -> None:
        own = own_names.made(self._found.domains | self._of_traps, self._found.networks)
        with suppress(OSError):
            own_names.write(self._state, own)
