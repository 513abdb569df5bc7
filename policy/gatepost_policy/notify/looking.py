"""Look for events since the last look.

How it works: trap mail has an index of its own; each message is looked at once. A message gets its
id before its transaction commits, so messages of another host may become visible after those with
larger ids. So ids of the last LATE_S are looked at again; those that were told already are kept in
the state. A recipient that only the policy service has seen waits RCPT_S for its message, which
shows the sender.

Privacy: of submissions only their number is told, by UTC day, as in `report.tonight`.

Limits: mail that was received more than a day before the look is not told; nor is mail from an old
log. At most MOST trap messages at one look, the rest at the next.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import Connection, func, select

from gatepost_policy.monitoring.privacy_result import Result
from gatepost_policy.notify import notices
from gatepost_policy.notify.notices import Event, Json
from gatepost_policy.report import messages, tonight
from gatepost_policy.report.report import Line
from gatepost_policy.store.tables import JournalGap, Message
from gatepost_policy.text.times import timestamp

DAY = tonight.DAY
LATE_S = 120.0
RCPT_S = 60.0
MOST = 500
IDS_MOST = 20_000
GAPS_MOST = 500
TRAPS_SHOWN = 5
OWN_S = 30 * DAY  # older submissions are not told, after a longer pause either
HITS = ("trap-hit", "sender-back")


@dataclass
class Seen:
    """What a look has found: `events`, `added`: (id of an earlier event, what to add to it), and
    the new `state`."""

    state: Json
    events: list[Event] = field(default_factory=list)
    added: list[tuple[int, Event]] = field(default_factory=list)


def begin(connection: Connection, now: float) -> Json:
    """The state to begin with: earlier events are not told. `now`: Unix seconds."""
    return {
        "id": connection.scalar(select(func.max(Message.id))) or 0,
        "ids": [],
        "gaps": [_gap_key(gap) for gap in _gaps(connection)],
        "own": _own_users(connection, now),
    }


def look(connection: Connection, state: Json, now: float, again: float) -> Seen:
    """What has happened since `state`. `now`: Unix seconds; `again`: seconds within which more
    messages of one sender are added to the same event."""
    seen = Seen(dict(state))
    _hits(connection, seen, now, again)
    _losses(connection, seen, now, again)
    _submissions(connection, seen, now, again)
    return seen


def probe(result: Result | None, state: Json, host: str, now: float) -> tuple[list[Event], Json]:
    """(events, new state): an event if the privacy test was not clean. The first result that is
    seen makes no event."""
    if result is None or result.at <= state.get("at", 0.0):
        return [], state
    bad = sorted(way for way, clean in result.clean.items() if not clean)
    found = []
    if bad and state:
        data = {"host": host, "ways": bad}
        found = [Event("probe-failed", host, result.at, now, len(bad), data)]
    return found, {"at": result.at}


def _hits(connection: Connection, seen: Seen, now: float, again: float) -> None:
    known = set(seen.state["ids"])
    rows = connection.execute(
        select(Message.id, Message.learned, Message.stage)
        .where(
            Message.traps > 0,
            Message.at > now - DAY,
            Message.id > seen.state["id"],
            Message.direction == "inbound",
        )
        .order_by(Message.id)
        .limit(IDS_MOST)
    ).all()
    new: list[int] = []
    for row in rows:
        waits = row.stage == "rcpt" and row.learned > now - RCPT_S
        if row.id not in known and not waits and len(new) < MOST:
            new.append(row.id)
    known.update(new)
    old = seen.state["id"]
    for row in rows:
        if row.id not in known or row.learned > now - LATE_S:
            break
        old = row.id
    seen.state["id"] = old
    seen.state["ids"] = sorted(number for number in known if number > old)
    if not new:
        return
    told = notices.recent(connection, HITS, now - again)
    groups: dict[tuple[str, str], list[Line]] = {}
    proven: set[tuple[str, str]] = set()
    for line in messages.lines(connection, new):
        kind, value, sure = tonight.who(line)
        groups.setdefault((kind, value), []).append(line)
        if sure:
            proven.add((kind, value))
    for (kind, value), lines in groups.items():
        event = _hit(connection, kind, value, lines, (kind, value) in proven, value in told, now)
        if event is not None and value in told:
            seen.added.append((told[value], event))
        elif event is not None:
            seen.events.append(event)


def _hit(
    connection: Connection,
    kind: str,
    value: str,
    lines: Sequence[Line],
    proven: bool,
    told: bool,
    now: float,
) -> Event | None:
    """The event for these messages of one sender, which are `told` about already or not; None where
    they make no event."""
    first = min(line.at for line in lines)
    # For a sender that is told already this is not needed, and it is slow for a busy sender.
    times, before = (0, None) if told else tonight.before(connection, kind, value, first)
    away = None if before is None else first - before
    back = away is not None and away >= tonight.BACK_AFTER_S
    if not (told or back or (proven and kind == "sender")):
        return None
    traps = dict.fromkeys(a for line in lines for a, trap in line.recipients if trap)
    data: Json = {
        "kind": kind,
        "proven": proven,
        "traps": list(traps)[:TRAPS_SHOWN],
        "traps_total": len(traps),
        "hits_before": times,
    }
    if back and away is not None:
        data["away_days"] = round(away / DAY, 1)
    return Event("sender-back" if back else "trap-hit", value, first, now, len(lines), data)


@dataclass(frozen=True, slots=True)
class Gap:
    """A period (Unix seconds) in which `lost` records were lost."""

    since: float
    until: float
    lost: int


def _gaps(connection: Connection) -> list[Gap]:
    """The newest losses. Not told apart by id: SQLite uses ids of deleted rows again."""
    gap = JournalGap
    rows = connection.execute(
        select(gap.since, gap.until, gap.lost)
        .order_by(gap.until.desc(), gap.id.desc())
        .limit(GAPS_MOST)
    )
    return [Gap(row.since, row.until, row.lost) for row in rows]


def _gap_key(gap: Gap) -> str:
    return f"{gap.since!r} {gap.until!r} {gap.lost}"


def _losses(connection: Connection, seen: Seen, now: float, again: float) -> None:
    known, found = set(seen.state["gaps"]), _gaps(connection)
    new = [gap for gap in found if _gap_key(gap) not in known]
    seen.state["gaps"] = [_gap_key(gap) for gap in found]
    if new:
        since, until = min(gap.since for gap in new), max(gap.until for gap in new)
        lost = sum(gap.lost for gap in new)
        data = {"since": timestamp(since), "until": timestamp(until)}
        _once(connection, seen, Event("loss", "", since, now, lost, data), again)


def _own_users(connection: Connection, now: float) -> dict[str, int]:
    return tonight.own_users(connection, now - OWN_S, now)


def _submissions(connection: Connection, seen: Seen, now: float, again: float) -> None:
    before, found = seen.state["own"], _own_users(connection, now)
    seen.state["own"] = found  # may be smaller than before, after an import was undone
    more = {day: number - before.get(day, 0) for day, number in found.items()}
    days = {day: number for day, number in more.items() if number > 0}
    if days:
        event = Event("own-user", "", now, now, sum(days.values()), {"days": days})
        _once(connection, seen, event, again)


def _once(connection: Connection, seen: Seen, event: Event, again: float) -> None:
    """Add `event` to a recent one of the same kind, or make a new one."""
    told = notices.recent(connection, (event.kind,), event.last - again)
    if event.who in told:
        seen.added.append((told[event.who], event))
    else:
        seen.events.append(event)
