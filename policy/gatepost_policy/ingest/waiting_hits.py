"""Trap hits that wait to be judged, so that hosts that share a store do not wait for one another.

How it works: two hosts that list one identity at once would list it twice, so one host at a time
has the turn to judge (a lock that is tried, not waited for). Whoever has it judges in the
transaction of the batch. Whoever has it not leaves its hits in `waiting_hit`, committed with the
rows they are of, and judges them in a transaction of its own once the turn is free: a kill -9 in
between loses and doubles nothing. SQLite has one writer, whose turn it always is.

A host judges its own hits: whom they blame depends on its configuration, and on what its MTA calls
ours. Those of a host that is gone for ABANDONED_S are judged by another one.

What is new is never judged before what waits: a message may replace one whose hit waits. A hit
whose message is gone by then was never one.

Limits: TAKE hits in one transaction; with more than QUEUE_MAX waiting a host waits for its turn
after all (`recorder.intake`).
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

    `host` names the journal they come from; with none ("": an import) the turn is waited for.
    `learned` is now, in Unix seconds. Raises SQLAlchemyError, and ValueError and the like for a
    record that is none.
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
    """Judge what this host has left, `most` hits; with `wait` the turn is waited for.

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
    """Take the oldest hit out without judging it; its text, if there is one.

    For one that cannot be judged. Raises SQLAlchemyError.
    """
    waiting.wait(connection, waiting.LISTINGS_TURN)
    return [str(row.hit) for row in _take(connection, host, learned, 1)]


def _take(connection: Connection, host: str, learned: float, most: int) -> Sequence[Any]:
    """The oldest hits that wait for this host, which do so no more. It has the turn."""
    found = sqltext.execute(connection, _OLDEST, (host, learned - ABANDONED_S, most)).all()
    sqltext.many(connection, "DELETE FROM waiting_hit WHERE id = ?", [(r.id,) for r in found])
    return found


def waits(connection: Connection, host: str) -> int:
    """How many hits of this host are not judged yet."""
    sql = "SELECT count(*) FROM waiting_hit WHERE host = ?"
    return int(sqltext.execute(connection, sql, (host,)).scalar_one())


def leave(connection: Connection, hits: Sequence[Hit], host: str, learned: float) -> None:
    """Let `hits` wait. Raises SQLAlchemyError."""
    rows = [(host, learned, hit.message_id, _dump(hit.record, hit.replaces)) for hit in hits]
    sqltext.many(connection, _PUT, rows)


def change(
    connection: Connection, messages: Sequence[int], to: Callable[[int, Json], Json | None]
) -> None:
    """Replace the records of these messages' hits that wait; None: the hit never was.

    For whoever changes the rows of messages (a trap that is none, a person who is erased).
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
    """`record`, of whose recipients these are traps no more; None where no trap is left."""
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
    """The trap key of an address as it came, as the store has it."""
    return index_key.fit(index_key.read_address(index_key.clean(recipient)).trap_key)


def _counts(hit: Hit) -> bool:
    """False for a row of an imported log: it lists nobody (`listings.automatic`)."""
    told = hit.record
    return bool(told["source"] in doors.DOORS or told.get("fresh") or hit.replaces)


def _judge(connection: Connection, fresh: Sequence[Fresh], settings: "Settings") -> Judged:
    """This host has the turn."""
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
        # Another message stands for it, or retention took it: what it replaced goes all the same.
        seen = replace(seen, traps=())
    return Fresh(hit.message_id, seen, hit.replaces, fresh=bool(hit.record.get("fresh")))


def _dump(record: Json, replaces: Sequence[int]) -> str:
    return json.dumps({"record": record, "replaces": list(replaces)}, separators=(",", ":"))


def _load(row: Any) -> Hit:
    told = json.loads(row.hit)
    return Hit(row.message_id, told["record"], tuple(told["replaces"]))
