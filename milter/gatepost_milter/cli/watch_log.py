"""One followed log: makes records of its lines, and keeps the state of unfinished messages."""

import time
from collections.abc import Iterable, Iterator
from datetime import tzinfo
from typing import Any

from gatepost_policy.config.settings import Submission
from gatepost_policy.importers import open_state
from gatepost_policy.importers.clock import Clock
from gatepost_policy.importers.common import to_json
from gatepost_policy.importers.exim import Exim
from gatepost_policy.importers.guessing import Exist
from gatepost_policy.importers.postfix import Postfix
from gatepost_policy.importers.wrapping import looks_like, unwrapped
from gatepost_policy.journal.record import Json
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail.facts import Direction

# A trap hit that is read later than this after it happened lists nobody.
FRESH_S = 300.0
# Most unfinished messages that are kept; each adds some hundred octets to every saved position.
MAX_OPEN = 20_000
DAY_S = 86_400.0
# How often the store is asked which names of failed logins exist.
ASK_EVERY_S = 600.0


class WatchedLog:
    """Makes records of one log's lines. Finds by itself whether Exim or Postfix wrote it, and
    whether it is wrapped (docker, Kubernetes)."""

    def __init__(self, ours: Submission, zone: tzinfo | None, known: KnownState) -> None:
        self.importer: Exim | Postfix | None = None
        self._ours, self._known = ours, known
        self._clock = Clock(zone, time.time())
        self._unwrap: Any = None
        self._looked = False
        self._ask_at = 0.0

    def records(self, lines: list[str], now: float) -> Iterator[Json]:
        """The journal records of these lines; `now` in Unix seconds."""
        if now - self._clock.reference > DAY_S:
            self._clock.move(now)
        if not self._looked:
            self._unwrap, self._looked = unwrapped(lines), True
        if self._unwrap is not None:
            lines = [line for block in self._unwrap([lines]) for line in block]
        if self.importer is None:
            name = looks_like(lines)
            if name is None:
                return
            self._make(name)
        assert self.importer is not None
        if isinstance(self.importer, Postfix):
            self.importer.refusals.sessions.now = now
        yield from self._told(self.importer.lines(lines, self._clock), now)
        yield from self.importer.guessing.take_refused()

    def quiet(self, now: float, *, last: bool) -> Iterator[Json]:
        """Records of what need not wait longer; call it when all lines have been read. `now`: Unix
        seconds; `last`: nobody will look again soon."""
        if isinstance(self.importer, Postfix):
            self.importer.refusals.sessions.now = now
            yield from self._told(self.importer.quiet(now, last=last), now)
            yield from self.importer.guessing.take_refused()

    def mark(self) -> int:
        """This moment, for `settled`."""
        if isinstance(self.importer, Postfix):
            return self.importer.refusals.sessions.mark()
        return 0

    def settled(self, mark: int | None = None) -> bool:
        """True where nothing waits that was read before `mark` (None: nothing at all) and that
        `state` leaves out, because it may be a user's."""
        if not isinstance(self.importer, Postfix):
            return True
        return self.importer.refusals.sessions.settled(self.mark() if mark is None else mark)

    def logins(self, exist: Exist, now: float) -> Iterator[Json]:
        """Records of failed logins, once in ASK_EVERY_S; call it when all lines have been read.

        `exist` returns those of the given names that exist (it asks the store); `now` in Unix
        seconds. Raises what `exist` raises.
        """
        if self.importer is None or now < self._ask_at or not self.importer.guessing.waits():
            return
        self._ask_at = now + ASK_EVERY_S
        yield from self.importer.guessing.take_logins(exist, now)

    def state(self) -> Json:
        """The state to save with the position: which MTA, and its unfinished messages."""
        if self.importer is None:
            return {"mta": None}
        name = "exim" if isinstance(self.importer, Exim) else "postfix"
        return {"mta": name, **open_state.dump(self.importer)}

    def resume(self, state: Json) -> None:
        """Go on from `state`. Raises KeyError, TypeError or ValueError for an invalid one."""
        if state.get("mta") is None:
            return
        self._make(state["mta"])
        assert self.importer is not None
        open_state.load(self.importer, state, self._clock)

    def new_file(self) -> None:
        """Another file begins, which may be wrapped in another way."""
        self._looked = False

    def _make(self, name: str) -> None:
        self.importer = Exim(self._ours) if name == "exim" else Postfix(self._ours)
        self.importer.max_open = MAX_OPEN

    def _told(self, found: Iterable[Any], now: float) -> Iterator[Json]:
        for seen in found:
            data = to_json(seen)
            data["watched"] = True
            if seen.facts.direction is Direction.INBOUND:
                traps = {
                    r.address.raw for r in seen.facts.recipients if self._known.is_trap(r.address)
                }
                for recipient in data["recipients"]:
                    recipient["trap"] = recipient["address"] in traps
                data["fresh"] = abs(now - seen.facts.at - seen.waited) <= FRESH_S
            yield data
