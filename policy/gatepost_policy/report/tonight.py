"""The last hours (24 by default): who hit a trap, who came back, what was listed, what was lost.

How it works: there is little mail to traps, and the store has an index for it. For each of its
senders in the window the store is asked for earlier hits. A sender is the domain of a signature
that passed (d=), else the domain of MAIL FROM, else the client.

Limits: HITS_MAX trap messages of the window are looked at, the newest; `cut` says that there are
more. Submissions are counted by UTC day, so a count covers whole days, which are named beside it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from sqlalchemy import Connection, func, select

from gatepost_policy.mail import index_key
from gatepost_policy.mail.decision import Reason
from gatepost_policy.monitoring.privacy_result import Result
from gatepost_policy.report import messages
from gatepost_policy.report.report import Line
from gatepost_policy.report.rhythm import in_words
from gatepost_policy.store.tables import (
    JournalGap,
    Listing,
    Message,
    MessageDomain,
    SubmissionCount,
)
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

HOURS = 24
HITS_MAX = 2_000
LISTINGS_MAX = 50
DAY = 86_400
PROBE_STALE_S = 2 * DAY  # its timer runs every day
BACK_AFTER_S = 7 * DAY  # a shorter absence is not counted as coming back
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Hitter:
    """A sender that hit a trap in the window. Times in Unix seconds. `known`: its earlier trap
    messages that are still stored; `before`: the newest of them, None without any."""

    who: str
    kind: str  # sender or host, as the report's selectors
    messages: int
    traps: tuple[str, ...]
    first: float
    last: float
    known: int
    before: float | None
    proven: bool

    @property
    def away(self) -> float | None:
        """Seconds between the newest hit before the window and the first in it."""
        return None if self.before is None else self.first - self.before

    @property
    def came_back(self) -> bool:
        """True where the last trap hit before the window is at least BACK_AFTER_S older."""
        return self.away is not None and self.away >= BACK_AFTER_S

    def json(self) -> Json:
        """Times in UTC, `away_days` to one decimal."""
        return {
            "who": self.who,
            "kind": self.kind,
            "proven": self.proven,
            "messages": self.messages,
            "traps": list(self.traps),
            "first_seen": timestamp(self.first),
            "last_seen": timestamp(self.last),
            "hits_before": self.known,
            "last_hit_before": None if self.before is None else timestamp(self.before),
            "came_back": self.came_back,
            "away_days": None if self.away is None else round(self.away / DAY, 1),
        }


@dataclass(frozen=True, slots=True)
class ListedTonight:
    """A listing that began or ended in the window, or ends within a day after it. `since` and
    `until` are Unix seconds."""

    kind: str
    value: str
    since: float
    until: float
    reason: str
    change: str  # new, over, ends

    def json(self) -> Json:
        """Times in UTC."""
        return {
            "kind": self.kind,
            "value": self.value,
            "since": timestamp(self.since),
            "until": timestamp(self.until),
            "reason": self.reason,
            "change": self.change,
        }


@dataclass(frozen=True, slots=True)
class Tonight:
    """What happened from `since` to `until` (Unix seconds). `probe`: the last recorded privacy
    test; None: none on this host."""

    since: float
    until: float
    hits: int  # messages to traps
    hitters: tuple[Hitter, ...]
    listings: tuple[ListedTonight, ...]
    own_users: int  # submissions to traps, on the UTC days that the window touches
    lost: int  # records
    probe: Result | None
    cut: bool = False  # more trap messages than were looked at
    days: Mapping[str, int] = field(default_factory=dict)  # own_users by day

    @property
    def probe_stale(self) -> bool:
        """True where the last privacy test is more than PROBE_STALE_S older than the window's end,
        or more than a day after it (a wrong clock)."""
        probe = self.probe
        return probe is not None and not -DAY <= self.until - probe.at <= PROBE_STALE_S

    @property
    def back(self) -> tuple[Hitter, ...]:
        """Senders that came back, those with the longest absence first."""
        found = [hitter for hitter in self.hitters if hitter.came_back]
        return tuple(sorted(found, key=lambda hitter: -(hitter.away or 0.0)))

    def json(self) -> Json:
        """As `report --tonight --format json` prints it."""
        probe = self.probe
        return {
            "since": timestamp(self.since),
            "until": timestamp(self.until),
            "trap_messages": self.hits,
            "looked_at_all": not self.cut,
            "senders": [hitter.json() for hitter in self.hitters],
            "listings": [listing.json() for listing in self.listings],
            "own_users_at_traps": self.own_users,
            "own_users_by_day": dict(self.days),
            "records_lost": self.lost,
            "privacy_probe": None
            if probe is None
            else {
                "at": timestamp(probe.at),
                "clean": dict(probe.clean),
                "stale": self.probe_stale,
            },
        }


def away_in_words(hitter: Hitter) -> str:
    """`after 2 months`, `after 9 days`."""
    return f"after {in_words((hitter.away or 0.0) / DAY)}"


def read(
    connection: Connection, since: float, until: float, probe: Result | None = None
) -> Tonight:
    """What happened from `since` until before `until` (Unix seconds). Raises what SQLAlchemy
    raises."""
    where = (Message.traps > 0, Message.at >= since, Message.at < until)
    inbound = Message.direction == "inbound"
    count = connection.scalar(select(func.count()).select_from(Message).where(*where, inbound)) or 0
    newest = (
        select(Message.id)
        .where(*where, inbound)
        .order_by(Message.at.desc(), Message.id.desc())
        .limit(HITS_MAX)
    )
    ids = connection.scalars(newest).all() if count else ()
    days = own_users(connection, since, until)
    return Tonight(
        since=since,
        until=until,
        hits=count,
        hitters=_hitters(connection, messages.lines(connection, ids), since),
        listings=_listings(connection, since, until),
        own_users=sum(days.values()),
        lost=_lost(connection, since, until),
        probe=probe,
        cut=count > len(ids),
        days=days,
    )


def who(line: Line) -> tuple[str, str, bool]:
    """(kind of selector, value, proven): the sender or host that a trap message is counted for."""
    proven = next((s.domain for s in line.signatures if s.proven and s.domain), None)
    if proven is not None:
        return "sender", proven, True
    claimed = (line.sender or "").rpartition("@")[2].lower().rstrip(".")
    if claimed and "\0" not in claimed:
        return "sender", claimed, False
    return "host", line.address or "unknown", line.address is not None


def _hitters(connection: Connection, lines: Iterable[Line], since: float) -> tuple[Hitter, ...]:
    """The senders of `lines`, those with most messages first."""
    groups: dict[tuple[str, str], list[Line]] = {}
    proven: set[tuple[str, str]] = set()
    for line in lines:
        kind, value, sure = who(line)
        groups.setdefault((kind, value), []).append(line)
        if sure:
            proven.add((kind, value))
    found = []
    for (kind, value), mine in groups.items():
        known, last = before(connection, kind, value, since)
        times = [line.at for line in mine]
        traps = dict.fromkeys(a for line in mine for a, trap in line.recipients if trap)
        found.append(
            Hitter(
                who=value,
                kind=kind,
                messages=len(mine),
                traps=tuple(traps),
                first=min(times),
                last=max(times),
                known=known,
                before=last,
                proven=(kind, value) in proven,
            )
        )
    return tuple(sorted(found, key=lambda h: (-h.messages, h.who)))


def before(connection: Connection, kind: str, value: str, since: float) -> tuple[int, float | None]:
    """(number of trap messages before `since`, time of the last of them) of a sender or host.

    Times are Unix seconds. (0, None) where there are none, and for a host that is not an address.
    """
    if kind == "host":
        try:
            mine = Message.prefix == index_key.prefix_of(value.partition("/")[0])
        except ValueError:
            return 0, None
    else:
        first = index_key.fit(index_key.reverse(index_key.clean(value)))
        keys = select(MessageDomain.message_id).where(
            MessageDomain.reversed >= first,
            MessageDomain.reversed < first[:-1] + "/",
            MessageDomain.at < since,
        )
        mine = Message.id.in_(keys)
    known, last = connection.execute(
        select(func.count(), func.max(Message.at)).where(
            Message.traps > 0, Message.at < since, mine, Message.direction == "inbound"
        )
    ).one()
    return known, last


def _listings(connection: Connection, since: float, until: float) -> tuple[ListedTonight, ...]:
    """Listings that are new, then those that ended, then those that end within a day."""
    row = Listing
    wanted = {
        "new": (row.since >= since, row.since < until),
        "over": (row.since < since, row.until >= since, row.until < until),
        "ends": (row.since < since, row.until >= until, row.until < until + DAY),
    }
    found: list[ListedTonight] = []
    for change, where in wanted.items():
        order = row.since.desc() if change == "new" else row.until
        for one in connection.execute(
            select(row.kind, row.value, row.since, row.until, row.reason)
            .where(*where)
            .order_by(order)
            .limit(LISTINGS_MAX)
        ):
            found.append(
                ListedTonight(one.kind, one.value, one.since, one.until, one.reason, change)
            )
    return tuple(found)


def own_users(connection: Connection, since: float, until: float) -> dict[str, int]:
    """{`YYYY-MM-DD`: submissions to traps} for the UTC days that the window overlaps."""
    row = SubmissionCount
    found = connection.execute(
        select(row.day, func.sum(row.messages))
        .where(
            row.reason == str(Reason.OWN_USER_TRAP),
            row.day >= int(since // DAY),
            row.day <= int(until // DAY),
        )
        .group_by(row.day)
        .order_by(row.day)
    )
    return {timestamp(day * DAY)[:10]: int(number) for day, number in found}


def _lost(connection: Connection, since: float, until: float) -> int:
    gap = JournalGap
    lost = connection.scalar(
        select(func.sum(gap.lost)).where(gap.until >= since, gap.since < until)
    )
    return int(lost or 0)
