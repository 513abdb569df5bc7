"""One round: look for events, store them, tell them in each configured way.

How it works: an event is stored before it is told, and each way of telling has its position among
the stored events. A way that fails is tried again, after a longer pause each time, with the same
batch under the same name; later events wait. Before it tells, a process claims the way for
LEASE_S, so that no second process tells the same batch.

No event is missed: a position moves only when its batch was told, or after TRIES tries, which is
logged and said in the next batch. No event is told twice, with one exception: if this process ends
after the other side got a batch and before that is stored, the batch is told again under the same
name.

Mail, journal and recorder never wait for this: it runs in a process of its own, and holds the
store's write lock for a few rows only.
"""

import os
import secrets
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine

from gatepost_policy import config, store
from gatepost_policy.config import notify_values
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail import address
from gatepost_policy.monitoring import privacy_result
from gatepost_policy.notify import feed, looking, notices, ways
from gatepost_policy.notify.notices import Event, Json, Notice, Outrun
from gatepost_policy.notify.words import Batch
from gatepost_policy.render import tonight as render
from gatepost_policy.report import tonight
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Notify, Settings

MOST = 50  # most events in one batch: the newest; of the others only the number is told
LEASE_S = 300.0
TRIES = 12
FIRST_PAUSE_S, LONGEST_PAUSE_S = 30.0, 3_600.0  # doubled each time: TRIES last five hours
DIGEST_MOST_S = 7 * 86_400  # the longest period of a digest, after a long pause
DIGEST_ROWS = 50
Log = Callable[[str, str], None]  # level, text
Send = Callable[["Notify", Batch, float], None]
Ways = Mapping[str, tuple[Sequence[str], Send]]


def configured(settings: "Notify") -> Ways:
    """The configured ways: {name: (kinds of events, function that sends a batch)}."""
    found: dict[str, tuple[Sequence[str], Send]] = {}
    if settings.command:
        found["command"] = settings.command_events, ways.command
    if settings.webhook:
        found["webhook"] = settings.webhook_events, ways.webhook
    if settings.mail_to:
        found["mail"] = settings.mail_events, ways.mail
    return found


class Round:
    """Looks and tells; one process calls `once` again and again. `host`: this machine's name, for
    its privacy test; `clock`: Unix seconds."""

    def __init__(
        self,
        engine: Engine,
        settings: "Settings",
        host: str,
        log: Log,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.engine, self.settings, self.host = engine, settings, host
        self._log, self._clock = log, clock
        self._known = KnownState(settings)
        self._unsettled: dict[str, tuple[str, Json]] = {}
        self._written: object = None  # what the feed's file holds

    def once(self, alive: Callable[[], None] = lambda: None) -> None:
        """Look, and tell. `alive` is called between steps that may take long (watchdog).

        Where another process does the same, the rest is left to it. Raises StoreError.
        """
        self.look()
        for name, (kinds, send) in configured(self.settings.notify).items():
            alive()
            with suppress(Outrun):
                self._tell(name, kinds, send)
        alive()
        self._feed()

    # Looking

    def look(self) -> None:
        """Store new events; the first time only the place to begin from. Raises StoreError."""
        with suppress(Outrun):
            self._look()

    def _look(self) -> None:
        now, again = self._clock(), self.settings.notify.again
        own = f"probe:{self.host}"
        result = privacy_result.read(config.state_dir(self.settings))
        with store.reading(self.engine) as connection:
            before, state = notices.state(connection, "seen")
            if before is None:
                seen = looking.Seen(looking.begin(connection, now))
                seen.state["name"] = secrets.token_hex(8)
            else:
                seen = looking.look(connection, state, now, again)
            tested, probe = notices.state(connection, own)
            failed, probed = looking.probe(result, probe, self.host, now)
            told, digest = notices.state(connection, "digest")
            due = self._digest_due(now)
            summed: list[Event] = []
            if due is not None and told is not None and digest["at"] < due:
                since = max(digest["at"], now - DIGEST_MOST_S)
                summed = [_digest(tonight.read(connection, since, now, result), now)]
        new = [*seen.events, *failed, *summed]
        with store.writing(self.engine) as connection:
            notices.keep(connection, new)
            for number, event in seen.added:
                notices.add(connection, number, event)
            if seen.state != state:
                notices.move(connection, "seen", before, seen.state)
            if probed != probe or tested is None:
                notices.move(connection, own, tested, probed or {"at": 0.0})
            if summed or told is None:
                notices.move(connection, "digest", told, {"at": now})

    def _digest_due(self, now: float) -> float | None:
        """Unix seconds at which the last digest was due; None where no digest is configured."""
        if not self.settings.notify.digest:
            return None
        at = notify_values.minutes(self.settings.notify.digest) * 60
        return (now - at) // 86_400 * 86_400 + at

    # Telling

    def _tell(self, name: str, kinds: Sequence[str], send: Send) -> None:
        now, place = self._clock(), f"way:{name}"
        if name in self._unsettled:
            before, to = self._unsettled[name]
            with store.writing(self.engine) as connection:
                notices.move(connection, place, before, to)
            del self._unsettled[name]
        with store.reading(self.engine) as connection:
            before_, state = notices.state(connection, place)
            last = notices.last(connection)
            named = notices.state(connection, "seen")[1].get("name", "")
            found: list[Notice] = []
            total = upto = 0
            if before_ is not None:
                upto = state["upto"] or last
                found, total = notices.between(connection, state["told"], upto, kinds, MOST)
        if before_ is None:
            # A new way begins now: events stored before are not told by it.
            self._move(place, None, _place(last))
            return
        if _later(now, state["busy"], LEASE_S) or _later(now, state["next"], self._longest()):
            return
        if not total:
            if upto > state["told"]:
                self._move(place, before_, {**state, "told": upto, "upto": 0})
            return
        claimed = {**state, "upto": upto, "busy": now + LEASE_S}
        claim = self._move(place, before_, claimed)
        batch = Batch(
            f"{named}.{state['told'] + 1}-{upto}.{name}",
            tuple(found),
            total - len(found),
            state["missed"],
        )
        after = self._sent(name, send, batch, claimed, total)
        self._unsettled[name] = claim, after
        self._move(place, claim, after)
        del self._unsettled[name]

    def _sent(self, name: str, send: Send, batch: Batch, state: Json, total: int) -> Json:
        """Send a batch; returns the new position: after it, or, if that failed, for another try."""
        settings, now = self.settings.notify, self._clock()
        done = {**_place(state["upto"]), "next": now + settings.gather}
        try:
            if name == "mail":
                self._no_trap()
            send(settings, batch, now)
        except ways.PartlyDelivered as error:
            self._log("error", f"{error}; the others were told")
        except ways.Undelivered as error:
            tries = state["tries"] + 1
            if tries >= TRIES:
                self._log("error", f"{error}; given up after {tries} times")
                return {**done, "missed": state["missed"] + total}
            pause = min(FIRST_PAUSE_S * 2 ** (tries - 1), LONGEST_PAUSE_S)
            self._log("warning", f"{error}; tried again in {pause:g} s")
            return {**state, "tries": tries, "next": self._clock() + pause, "busy": 0.0}
        return done

    def _no_trap(self) -> None:
        """Raise ways.Undelivered where an address of mail_to is a trap: each mail would be a trap
        hit, and so a new event, without end."""
        for name in self.settings.notify.mail_to:
            if self._known.is_trap(address.parse(name)):
                raise ways.Undelivered(f"notify.mail_to: {shown(name)} is a trap: not mailed")

    def _longest(self) -> float:
        return max(LONGEST_PAUSE_S, float(self.settings.notify.gather))

    def _move(self, place: str, before: str | None, to: Json) -> str:
        with store.writing(self.engine) as connection:
            return notices.move(connection, place, before, to)

    # The feed

    def _feed(self) -> None:
        path = self.settings.notify.feed
        if not path:
            return
        with store.reading(self.engine) as connection:
            found = notices.newest(connection, feed.MOST)
            name = notices.state(connection, "seen")[1].get("name", "")
        holds = [(notice.id, notice.event.number) for notice in found]
        if holds == self._written and Path(path).exists():
            return
        data = feed.document(self.settings.notify, found, name, self._clock())
        try:
            _replace(Path(path), data)
        except OSError as error:
            self._log("error", f"notify.feed: {shown(path)}: {error.strerror or error}")
            return
        self._written = holds


def test(settings: "Notify", now: float) -> dict[str, str]:
    """Send a test in each configured way; returns {way: error}, '' where it was sent. `now`: Unix
    seconds."""
    event = Event("test", "", now, now, 0)
    said = {}
    for name, (_, send) in configured(settings).items():
        batch = Batch(f"test.{secrets.token_hex(8)}.{name}", (Notice(0, event),))
        said[name] = ""
        try:
            send(settings, batch, now)
        except (ways.Undelivered, ways.PartlyDelivered) as error:
            said[name] = str(error)
    return said


def _place(told: int) -> Json:
    """The position after the event with the id `told`, with no batch being sent."""
    return {"told": told, "upto": 0, "tries": 0, "next": 0.0, "busy": 0.0, "missed": 0}


def _later(now: float, at: float, longest: float) -> bool:
    """True where `at` is in the future, but not further than `longest` seconds: after the clock was
    set back, we must not wait for years."""
    return now < at <= now + longest


def _digest(found: tonight.Tonight, now: float) -> Event:
    told = found.json()
    for key in ("senders", "listings"):
        told[f"{key}_total"], told[key] = len(told[key]), told[key][:DIGEST_ROWS]
    data = {"tonight": told, "lines": render.lines(found)}
    return Event("digest", "", now, now, found.hits, data)


def _replace(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), 0o640)
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise
