"""One message that two doors saw is one message: the milter's row and the policy service's.

How it works: client address, port and envelope sender make a session (a hash). Within WINDOW_S,
a finished message takes over the recipients that a RCPT TO row of its session has already
recorded, and that row goes when none is left; a RCPT TO that comes after its finished message
adds nothing; RCPT TO rows of one Postfix `instance` (or, where there is none, of one session) are
one message with several recipients. Sums are corrected through `deltas.Sums`.

Limits: a finished message without anything remarkable (no trap, nobody refused, nothing decided)
keeps no session, so a RCPT TO that is ingested after it stands as a row of its own.
"""

from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select

from gatepost_policy.ingest import deltas
from gatepost_policy.ingest.rows import AT, Row, load
from gatepost_policy.store import sqltext
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageKey

WINDOW_S = 600.0
Sessions = dict[tuple[str, str], list[Row]]  # by session and stage

_BY_SESSION = select(Message.id).where(
    Message.session.is_not(None),
    Message.session.in_(bindparam("values", expanding=True)),
    Message.stage.in_(bindparam("stages", expanding=True)),
    Message.at.between(bindparam("since"), bindparam("until")),
)
_KNOWN_KEYS = select(MessageKey.key).where(MessageKey.key.in_(bindparam("values", expanding=True)))
NO_MESSAGE = 0  # ids begin at 1
_BY_KEY = select(MessageKey.key, MessageKey.message_id).where(
    MessageKey.key.in_(bindparam("values", expanding=True))
)
_KEYS_OF = select(MessageKey.key, MessageKey.message_id).where(
    MessageKey.message_id.in_(bindparam("values", expanding=True))
)


@dataclass(slots=True)
class Merged:
    """What is left to write. `told` pairs each record that was not a mere repetition with the
    row that holds it; `gone` maps the id of a stored row to the row that replaced it."""

    fresh: list[Row] = field(default_factory=list)
    rewritten: dict[int, Row] = field(default_factory=dict)
    gone: dict[int, Row] = field(default_factory=dict)
    adopted: dict[str, Row] = field(default_factory=dict)  # new keys of stored rows
    told: list[tuple[Row, Row, bool]] = field(default_factory=list)  # record, holder, hit


def merge(connection: Connection, batch: list[Row], sums: deltas.Sums) -> Merged:
    """Sort out what `batch` repeats. Stored rows that change are taken out of `sums` here."""
    merged = Merged()
    sessions: Sessions = {}
    keys = {row.key for row in batch if row.key is not None}
    stored = _candidates(connection, [row for row in batch if row.session], keys)
    for row in stored.rows.values():
        if row.session is not None:
            sessions.setdefault((row.session, row.stage), []).append(row)
    by_key = stored.by_key
    for row in batch:
        if row.key is not None and row.key in by_key:
            holder = by_key[row.key]
            # An import that was told before; only `instance` ever brings more recipients.
            if holder is not None and row.stage == "rcpt":
                _join(row, holder, merged, sums)
            continue
        if row.stage == "end":
            # Only what was seen at RCPT TO: a busy client's finished messages share a session,
            # and looking at all of them for each would take longer with every one.
            for other in _near(row, sessions, "rcpt"):
                _absorb(row, other, merged, sums, sessions, by_key)
        else:
            near = _near(row, sessions, "end") + _near(row, sessions, "rcpt")
            if near and _repeats(row, near, merged, sums, by_key):
                continue
        merged.fresh.append(row)
        merged.told.append((row, row, row.hit))
        if row.session is not None:
            sessions.setdefault((row.session, row.stage), []).append(row)
        if row.key is not None:
            by_key[row.key] = row
    return merged


def _near(row: Row, sessions: Sessions, stage: str) -> list[Row]:
    """The rows of this session and `stage` within the window."""
    if row.session is None:
        return []
    found = sessions.get((row.session, stage), ())
    return [other for other in found if abs(other.at - row.at) <= WINDOW_S]


def new_keys(
    connection: Connection, keyed: dict[str, tuple[object, ...]]
) -> list[tuple[object, ...]]:
    """The values of `keyed` whose key was not known; from now on it is.

    No message belongs to such a key: a submission is a number, also when it comes from a log.
    """
    known: set[str] = set()
    for part in chunks(sorted(keyed)):
        known.update(connection.scalars(_KNOWN_KEYS, {"values": part}))
    fresh = {key: value for key, value in sorted(keyed.items()) if key not in known}
    sqltext.many(
        connection,
        sqltext.insert(connection.dialect.name, "message_key"),
        [(key, NO_MESSAGE) for key in fresh],
    )
    return list(fresh.values())


@dataclass(slots=True)
class _Stored:
    rows: dict[int, Row]
    by_key: dict[str, Row | None]


def _candidates(connection: Connection, told: list[Row], keys: set[str]) -> _Stored:
    """The stored rows that `told` (records with a session) or `keys` may speak of."""
    ids: set[int] = set()
    sessions = sorted({row.session for row in told if row.session})
    if sessions:
        rcpt = any(row.stage == "rcpt" for row in told)
        narrowed = {
            # A finished message is only ever looked for by a RCPT TO.
            "stages": ["rcpt", "end"] if rcpt else ["rcpt"],
            "since": min(row.at for row in told) - WINDOW_S,
            "until": max(row.at for row in told) + WINDOW_S,
        }
        for part in chunks(sessions):
            ids.update(connection.scalars(_BY_SESSION, {"values": part, **narrowed}))
    found: dict[str, int] = {}
    for part in chunks(sorted(keys)):
        found.update((k, i) for k, i in connection.execute(_BY_KEY, {"values": part}))
    ids.update(i for k, i in found.items() if k.startswith("policy:"))
    rows = load(connection, sorted(ids)) if ids else {}
    for part in chunks(sorted(rows)):
        for key, number in connection.execute(_KEYS_OF, {"values": part}):
            rows[number].key = key
    return _Stored(rows, {k: rows.get(i) for k, i in found.items()})


def _repeats(
    row: Row, near: list[Row], merged: Merged, sums: deltas.Sums, by_key: dict[str, Row | None]
) -> bool:
    """True where this RCPT TO is part of a message we have."""
    wanted = {r[1] for r in row.recipients}
    for other in near:
        if other.stage == "end":
            if wanted <= {r[1] for r in other.recipients}:
                return True
        elif row.key is None or other.key is None:
            # Two instances are two messages; without one (Exim, a transaction that the milter saw
            # end without a message) the session is all there is.
            _join(row, other, merged, sums)
            if row.key is not None:
                _adopt(row.key, other, merged, by_key)
            return True
    return False


def _adopt(key: str, holder: Row, merged: Merged, by_key: dict[str, Row | None]) -> None:
    """What still comes of this `instance` belongs to `holder`."""
    by_key[key] = holder
    if holder.stored:
        merged.adopted[key] = holder
    holder.key = holder.key or key


def _join(row: Row, holder: Row, merged: Merged, sums: deltas.Sums) -> None:
    """One more recipient of a message that is known by its RCPT TO."""
    have = {r[1] for r in holder.recipients}
    more = [r for r in row.recipients if r[1] not in have]
    if not more:
        return
    before = holder.traps
    _touch(holder, merged, sums)
    holder.recipients.extend(more)
    _retrap(holder)
    if not before and holder.traps:
        for name in ("action", "reason"):
            holder.values[AT[name]] = row.values[AT[name]]
    merged.told.append((row, holder, row.hit and not before))


def _absorb(
    row: Row,
    other: Row,
    merged: Merged,
    sums: deltas.Sums,
    sessions: Sessions,
    by_key: dict[str, Row | None],
) -> None:
    """The finished message `row` takes over what `other` recorded at RCPT TO."""
    mine = {r[1] for r in row.recipients}
    common = [r for r in other.recipients if r[1] in mine]
    if not common:
        return
    if any(r[2] for r in common):
        row.hit = False  # counted when it was seen at RCPT TO, unless that row goes: see below
    _touch(other, merged, sums)
    other.recipients = [r for r in other.recipients if r[1] not in mine]
    _retrap(other)
    if other.recipients:
        return
    sessions[other.session or "", "rcpt"].remove(other)
    # What still comes of this `instance` belongs to the finished message.
    for key in [k for k, holder in by_key.items() if holder is other]:
        by_key[key] = row
    if other.stored:
        row.merged.append(other.id)
        merged.gone[other.id] = row
        del merged.rewritten[other.id]
    else:
        row.key = row.key or other.key
        merged.fresh = [f for f in merged.fresh if f is not other]
        # Nobody was told of it yet: the hit is this row's after all.
        told = [t for t in merged.told if t[1] is other]
        row.hit = row.hit or any(t[2] for t in told)
        merged.told = [t for t in merged.told if t[1] is not other]


def _touch(row: Row, merged: Merged, sums: deltas.Sums) -> None:
    if row.stored and row.id not in merged.rewritten:
        row.add_to(sums, row.keys()[1], -1)
        merged.rewritten[row.id] = row


def _retrap(row: Row) -> None:
    row.values[AT["traps"]] = row.traps
