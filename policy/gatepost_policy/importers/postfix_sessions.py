"""Refusals of smtpd wait for the end of their session: only that line tells of a login.

smtpd names the login in a message's `client=` line, but Postfix 3.7 does not where it refuses a
recipient (3.10 does). On a service that is called submission or smtps each client is a user; on any
other (port 25 with AUTH, a name of the site's own) a user whose recipients are refused looks like a
stranger until `disconnect from NAME[ADDRESS] ehlo=1 auth=1 mail=1 rcpt=0/1 ...` (Postfix 3.0 and
later), which counts the commands that succeeded. So a refusal is kept in memory until then, and
nowhere else.

A session may also end without this line: the log ends or lacks it, smtpd was killed, or it lasts
longer than SESSION_S or MAX_HELD allow. What is believed then depends on what was seen before:
where the host writes such lines, and the service (host and `syslog_name`) has shown logins, the
refusal is not recorded (UNKNOWN); else it is a stranger's, as far as the log can tell (LIKELY).

A client that a proxy has logged in (XCLIENT LOGIN) is not counted as a login, so on a service that
has shown such logins sessions with XCLIENT are UNKNOWN.

Limits: a log without these lines cannot tell users from strangers, other than by addresses from
which somebody has logged in at another time.
"""

import math
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple

from gatepost_policy.importers.postfix_line import Refusal
from gatepost_policy.importers.syslog import Entry

# smtpd gives up sooner on a client that only holds on: 100 idle commands (smtpd_junk_command_limit)
# and 19 errors (smtpd_hard_error_limit), 300 s each (smtpd_timeout), are ten hours.
SESSION_S = 12 * 3600.0
# The same in a log that is followed, where a hit should list soon: where the service has never
# shown a login (smtpd_timeout), and where the host has not shown that it counts commands.
NO_LOGIN_S = 300.0
NO_COUNTS_S = 2.0
MAX_HELD = 20_000
MAX_KNOWN = 10_000  # processes, services
# Refusals older than this share no second with later ones.
SAME_SECOND_S = 60.0

_AUTH = re.compile(r" auth=[1-9]")

Place = tuple[str, str]  # host and process (or, in a log without these, the client)
Service = tuple[str, str]  # host and program


class Verdict(Enum):
    """Whose refusals these are.

    LIKELY: a stranger's as far as is known; UNKNOWN: a user's or a stranger's. Both are a user's
    where the client has logged in at another time.
    """

    OURS = "ours"
    STRANGER = "stranger"
    LIKELY = "likely"
    UNKNOWN = "unknown"


class Held(NamedTuple):
    """A refusal that waits. `number`: which one it is of its process in its second; `read`: Unix
    seconds at which it was read, 0 in an import."""

    entry: Entry
    queue_id: str
    told: Refusal
    number: int
    read: float


Judged = tuple[Held, Verdict]  # a refusal that waits no longer


class _Session:
    __slots__ = ("held", "serial", "service")

    def __init__(self, service: Service, serial: int) -> None:
        self.service, self.serial = service, serial
        self.held: list[Held] = []


class Sessions:
    """The sessions of one log that had a refusal. `now`: Unix seconds, set by who follows a log."""

    def __init__(self) -> None:
        self.now = 0.0
        self._sessions: dict[Place, _Session] = {}  # oldest first refusal first
        self._count = 0  # refusals that wait
        self._serial = 0
        self._numbers: dict[Place, tuple[float, int]] = {}
        # What was seen: hosts that count commands; services that have a login, one by XCLIENT.
        self._counts: dict[str, None] = {}
        self._logins: dict[Service, None] = {}
        self._proxied: dict[Service, None] = {}

    def knows(self, entry: Entry) -> bool:
        """True where `line` has something to do for this `connect` or `disconnect` line."""
        return (
            " auth=" in entry.text
            or (bool(self._sessions) and _place(entry) in self._sessions)
            or (entry.host not in self._counts and " commands=" in entry.text)
        )

    def line(self, entry: Entry) -> tuple[str | None, list[Judged]]:
        """Read `connect from` or `disconnect from`: the client (`name[address]`) of a session that
        had logged in with success, and what waits no longer."""
        text = entry.text
        peer = user = verdict = None
        if " commands=" in text and text.startswith("disconnect from "):
            peer = text.split(" ", 3)[2]
            service = (entry.host, entry.program)
            if entry.host not in self._counts:
                _note(self._counts, entry.host)
            if " auth=" in text and _AUTH.search(text) is not None:
                _note(self._logins, service)
                user, verdict = peer, Verdict.OURS
            elif " xclient=" in text and service in self._proxied:
                verdict = Verdict.UNKNOWN
            else:
                verdict = Verdict.STRANGER
        # Else a log without counts, or a new session of the process: the old one's end is missing.
        session = self._sessions.pop(_place(entry), None)
        if session is None:
            return user, []
        # Of another client it tells nothing: lines are missing, or two machines have one name.
        return user, self._judge(session, verdict, peer)

    def takes_logins(self, entry: Entry, *, proxied: bool = False) -> None:
        """This line shows a login, or one that failed; `proxied`: by XCLIENT."""
        service = (entry.host, entry.program)
        _note(self._logins, service)
        if proxied:
            _note(self._proxied, service)

    def logins_at(self, host: str) -> bool:
        """True where a service of `host` has shown a login."""
        return any(service[0] == host for service in self._logins)

    def number(self, entry: Entry) -> int:
        """Which one this is of the refusals of its process in its second, from 1."""
        place = (entry.host, entry.pid)
        told = self._numbers.get(place)
        number = told[1] + 1 if told is not None and told[0] == entry.at else 1
        if told is None:
            _note(self._numbers, place, (entry.at, number))
        else:
            self._numbers[place] = (entry.at, number)
        return number

    def hold(self, entry: Entry, queue_id: str, told: Refusal) -> list[Judged]:
        """Keep this refusal. Returns what waits no longer: it is old, or there are too many."""
        judged: list[Judged] = []
        while self._first() < entry.at - SESSION_S:
            judged += self._release(next(iter(self._sessions)))
        place = _place(entry, told.peer)
        self._serial += 1
        session = self._sessions.get(place)
        if session is None:
            session = self._sessions[place] = _Session((entry.host, entry.program), self._serial)
        number = self.number(entry)
        session.held.append(Held(entry, queue_id, told, number, self.now))
        self._count += 1
        while self._count > MAX_HELD:
            judged += self._release(next(iter(self._sessions)))
        return judged

    def quiet(self, now: float, *, last: bool) -> Iterator[Judged]:
        """What need not wait longer where all lines have been read; `now` in Unix seconds. `last`:
        nobody will look again soon."""
        for place, session in list(self._sessions.items()):
            age = now - session.held[0].entry.at
            if session.service[0] not in self._counts:
                most = -math.inf if last else NO_COUNTS_S
            else:
                most = SESSION_S if session.service in self._logins else NO_LOGIN_S
            if age > most:
                yield from self._release(place)

    def rest(self) -> Iterator[Judged]:
        """All that waits, at the end of the log."""
        for place in list(self._sessions):
            yield from self._release(place)

    def mark(self) -> int:
        """This moment, for `settled`."""
        return self._serial

    def settled(self, mark: int) -> bool:
        """True where nothing waits any more that was read before `mark`."""
        oldest = next(iter(self._sessions.values()), None)
        return oldest is None or oldest.serial > mark

    def dump(self, last: float) -> dict[str, Any]:
        """What a follower saves: nothing of a client. `last`: Unix seconds of the newest line."""
        return {
            "numbers": [
                [*place, *told]
                for place, told in self._numbers.items()
                if told[0] > last - SAME_SECOND_S
            ],
            "counts": list(self._counts),
            "logins": [list(service) for service in self._logins],
            "proxied": [list(service) for service in self._proxied],
        }

    def load(self, told: dict[str, Any]) -> None:
        """Restore what `dump` gave. Raises KeyError, TypeError or ValueError for anything else."""
        for host, pid, at, number in told["numbers"]:
            self._numbers[str(host), str(pid)] = float(at), int(number)
        self._counts.update({str(host): None for host in told["counts"]})
        for name, target in (
            ("logins", self._logins),
            ("proxied", self._proxied),
        ):
            target.update({(str(host), str(word)): None for host, word in told[name]})

    def _first(self) -> float:
        for session in self._sessions.values():
            return session.held[0].entry.at
        return math.inf

    def _release(self, place: Place) -> list[Judged]:
        return self._judge(self._sessions.pop(place))

    def _judge(
        self, session: _Session, verdict: Verdict | None = None, peer: str | None = None
    ) -> list[Judged]:
        """All refusals of `session`; those of `peer` with this verdict."""
        self._count -= len(session.held)
        service = session.service
        known = service in self._logins and service[0] in self._counts
        unsure = Verdict.UNKNOWN if known else Verdict.LIKELY
        return [
            (held, unsure if verdict is None or held.told.peer != peer else verdict)
            for held in session.held
        ]


def _place(entry: Entry, peer: str | None = None) -> Place:
    if entry.pid not in ("", "-"):
        return entry.host, entry.pid
    return entry.host, entry.text.split(" ", 3)[2] if peer is None else peer


def _note(known: dict[Any, Any], key: Any, value: Any = None) -> None:
    if key not in known and len(known) >= MAX_KNOWN:
        del known[next(iter(known))]
    known[key] = value
