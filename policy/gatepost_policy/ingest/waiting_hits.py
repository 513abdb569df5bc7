"""Trap hits that wait to be judged, so that hosts that share a store do not wait for one another.

How it works: two hosts that list one identity at once would list it twice, so one host at a time
has the turn to judge (a lock that is tried, not waited for). The host with the turn judges in the
transaction of the batch. A host without it leaves its hits in `waiting_hit`, committed with their
message rows, and judges them in a transaction of its own once the turn is free: a kill -9 in
between loses nothing and counts nothing twice. SQLite has one writer, which always has the turn.

A host judges its own hits, because the result depends on its configuration, and on its MTA's own
domains. Hits that have waited for ABANDONED_S are judged by another host.

New hits are never judged before waiting ones: a message may replace one whose hit waits. A hit
whose message is deleted by then lists nobody.

Limits: TAKE hits in one transaction; with more than QUEUE_MAX waiting a host does wait for its turn
(`recorder.intake`).
"""

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from gatepost_policy import config
from gatepost_policy.config import own_names
from gatepost_policy.ingest import doors, waiting
from gatepost_policy.journal.record import Json, read_seen
from gatepost_policy.listings.table import Fresh
from gatepost_policy.mail import index_key
from gatepost_policy.store import sqltext

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

TAKE = 50
QUEUE_MAX = 500
ABANDONED_S = 3_600.0

_OLDEST = """SELECT id, message_id, hit FROM waiting_hit WHERE host = ? OR learned < ?
 ORDER BY id LIMIT ?"""
_PUT = "INSERT INTO waiting_hit (host, learned, message_id, hit) VALUES (?, ?, ?, ?)"


@dataclass(frozen=True, slots=True)
class Hit:
    """The record of a message (`journal.record`) and the row that holds it.

    `replaces`: rows that it made void.
    """

    message_id: int
    record: Json
    replaces: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Judged:
    """What has to be published after the commit, and how many hits of this host still wait."""

    listings: bool = False
    repeat: bool = False
    waiting: int = 0


def judge(
    connection: Connection,
    hits: Sequence[Hit],
    settings: "Settings",
    host: str,
    learned: float,
) -> Judged:
    """Judge the hits of rows that were just inserted, once each, or leave them waiting.

    `host` names the journal they come from; "" (an import) waits for the turn. `learned` is now, in
    Unix seconds. Raises SQLAlchemyError, and KeyError, TypeError or ValueError for a damaged
    record.
    """
    hits = [hit for hit in hits if _counts(hit)]
    if not hits:
        return Judged()
    fresh = [_fresh(hit) for hit in hits]
    if not host:
        waiting.wait(connection, waiting.LISTINGS_TURN)
    else:
        before = waits(connection, host)
        if before or not waiting.turn(connection, waiting.LISTINGS_TURN):
            leave(connection, hits, host, learned)
            return Judged(waiting=before + len(hits))
    return _judge(connection, fresh, settings)


def judge_waiting(
    connection: Connection,
    settings: "Settings",
    host: str,
    learned: float,
    *,
    wait: bool = False,
    most: int = TAKE,
) -> Judged:
    """Judge hits that this host has left waiting, at most `most`; with `wait` it waits for the
    turn. `learned` is now, in Unix seconds.

    Raises SQLAlchemyError.
    """
    if wait:
        waiting.wait(connection, waiting.LISTINGS_TURN)
    elif not waiting.turn(connection, waiting.LISTINGS_TURN):
        return Judged(waiting=waits(connection, host))
    taken = [_load(row) for row in _take(connection, host, learned, most)]
    if not taken:
        return Judged()
    there = _there(connection, [hit.message_id for hit in taken])
    fresh = [_fresh(hit, there=hit.message_id in there) for hit in taken]
    return replace(_judge(connection, fresh, settings), waiting=waits(connection, host))


def set_aside(connection: Connection, host: str, learned: float) -> list[str]:
    """Take out the oldest hit, which cannot be judged; returns its text, in a list that may be
    empty.

    Raises SQLAlchemyError.
    """
    waiting.wait(connection, waiting.LISTINGS_TURN)
    return [str(row.hit) for row in _take(connection, host, learned, 1)]


def _take(connection: Connection, host: str, learned: float, most: int) -> Sequence[Any]:
    """Take the oldest hits that wait for this host out of the table. Call it with the turn."""
    found = sqltext.execute(connection, _OLDEST, (host, learned - ABANDONED_S, most)).all()
    sqltext.many(connection, "DELETE FROM waiting_hit WHERE id = ?", [(r.id,) for r in found])
    return found


def waits(connection: Connection, host: str) -> int:
    """How many hits of this host wait."""
    sql = "SELECT count(*) FROM waiting_hit WHERE host = ?"
    return int(sqltext.execute(connection, sql, (host,)).scalar_one())


def leave(connection: Connection, hits: Sequence[Hit], host: str, learned: float) -> None:
    """Leave `hits`, learned at `learned` (Unix seconds), in `waiting_hit`. Raises
    SQLAlchemyError.
    """
    rows = [(host, learned, hit.message_id, _dump(hit.record, hit.replaces)) for hit in hits]
    sqltext.many(connection, _PUT, rows)


def change(
    connection: Connection, messages: Sequence[int], to: Callable[[int, Json], Json | None]
) -> None:
    """Replace the records of waiting hits of these messages by what `to` returns; None deletes the
    hit.

    For callers that change message rows (a trap that was none, a person who is erased).
    """
    for part in sqltext.chunks(messages):
        marks = ", ".join("?" * len(part))
        sql = f"SELECT id, message_id, hit FROM waiting_hit WHERE message_id IN ({marks})"
        for row in sqltext.execute(connection, sqltext.locked(connection, sql), part).all():
            hit = _load(row)
            record = to(hit.message_id, hit.record)
            if record is None:
                sqltext.execute(connection, "DELETE FROM waiting_hit WHERE id = ?", (row.id,))
                continue
            sql = "UPDATE waiting_hit SET hit = ? WHERE id = ?"
            sqltext.execute(connection, sql, (_dump(record, hit.replaces), row.id))


def without_traps(record: Json, keys: Collection[str]) -> Json | None:
    """`record` with these trap keys no longer marked as traps; None where no trap is left."""
    recipients = [
        {**r, "trap": bool(r["trap"] and _key(r["address"]) not in keys)}
        for r in record["recipients"]
    ]
    if not any(r["trap"] for r in recipients):
        return None
    return {**record, "recipients": recipients}


def without_recipient(record: Json, key: str, instead: str) -> Json:
    """`record` with the address `instead` for the recipient of this key."""
    recipients = [
        {**r, "address": instead} if _key(r["address"]) == key else r for r in record["recipients"]
    ]
    return {**record, "recipients": recipients}


def _key(recipient: str) -> str:
    """The trap key of a raw address, in the form of the store."""
    return index_key.fit(index_key.read_address(index_key.clean(recipient)).trap_key)


def _counts(hit: Hit) -> bool:
    """False for a row of an imported log: it lists nobody (`listings.automatic`)."""
    told = hit.record
    return bool(told["source"] in doors.DOORS or told.get("fresh") or hit.replaces)


def _judge(connection: Connection, fresh: Sequence[Fresh], settings: "Settings") -> Judged:
    """Judge these hits, in the order of their times. Call it with the turn."""
    from gatepost_policy import listings

    own = own_names.read(config.state_dir(settings))
    in_order = sorted(fresh, key=lambda one: one.seen.facts.at)
    changes = listings.apply(connection, in_order, settings, own)
    return Judged(changes.listings, changes.repeat)


def _there(connection: Connection, messages: Sequence[int]) -> set[int]:
    """Those of `messages` that still have a row."""
    marks = ", ".join("?" * len(messages))
    sql = f"SELECT id FROM message WHERE id IN ({marks})"
    return set(sqltext.execute(connection, sql, messages).scalars())


def _fresh(hit: Hit, *, there: bool = True) -> Fresh:
    seen = read_seen(hit.record)
    if not there:
        # Another message replaced it, or it was purged: what it had replaced must still be undone.
        seen = replace(seen, traps=())
    return Fresh(hit.message_id, seen, hit.replaces, fresh=bool(hit.record.get("fresh")))


def _dump(record: Json, replaces: Sequence[int]) -> str:
    return json.dumps({"record": record, "replaces": list(replaces)}, separators=(",", ":"))


def _load(row: Any) -> Hit:
    told = json.loads(row.hit)
    return Hit(row.message_id, told["record"], tuple(told["replaces"]))
