"""Merge rows of the same message: of the milter, the policy service and a followed log.

How it works: client address, port and envelope sender make a session (a hash). Within WINDOW_S, a
finished message takes over the recipients that a RCPT TO row of its session has already recorded,
and that row is deleted when none is left; a RCPT TO that comes after its finished message adds
nothing; RCPT TO rows of one Postfix `instance` (or, where there is none, of one session) are one
message with several recipients. Sums are corrected through `deltas.Sums`.

Limits: a finished message without anything remarkable (no trap, no refused recipient, no reason
against it) keeps no session, so a RCPT TO that is ingested after it becomes a row of its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import Connection, bindparam, select

from gatepost_policy.ingest import deltas, doors
from gatepost_policy.ingest.rows import RecipientRow, Row, load
from gatepost_policy.mail import index_key
from gatepost_policy.store import sqltext
from gatepost_policy.store.sqltext import chunks
from gatepost_policy.store.tables import Message, MessageKey

WINDOW_S = 600.0

_BY_SESSION = select(Message.id).where(
    Message.session.is_not(None),
    Message.session.in_(bindparam("values", expanding=True)),
    Message.stage.in_(bindparam("stages", expanding=True)),
    Message.at.between(bindparam("since"), bindparam("until")),
)
_KNOWN_KEYS = select(MessageKey.key).where(MessageKey.key.in_(bindparam("values", expanding=True)))
_Side = tuple[str | None, str | None]  # client prefix, sender key
NO_MESSAGE = 0  # ids begin at 1
_BY_KEY = select(MessageKey.key, MessageKey.message_id).where(
    MessageKey.key.in_(bindparam("values", expanding=True))
)
_KEYS_OF = select(MessageKey.key, MessageKey.message_id).where(
    MessageKey.message_id.in_(bindparam("values", expanding=True))
)


@dataclass(slots=True)
class Recorded:
    """A record that brought something new, and the row that holds it (mostly its own).

    `hit`: the record has a trap hit that has not been counted yet.
    """

    record: Row
    holder: Row
    hit: bool


@dataclass(slots=True)
class Merged:
    """What is left to write: new rows, stored rows that changed (by id), stored rows that another
    one replaced (by id), and keys that now belong to a stored row."""

    fresh: list[Row] = field(default_factory=list)
    rewritten: dict[int, Row] = field(default_factory=dict)
    gone: dict[int, Row] = field(default_factory=dict)
    adopted: dict[str, Row] = field(default_factory=dict)
    known: list[str] = field(default_factory=list)  # keys of the batch that the store had
    recorded: list[Recorded] = field(default_factory=list)
    # ids of stored rows that a log says were refused later
    undelivered: list[int] = field(default_factory=list)


def merge(connection: Connection, batch: list[Row], sums: deltas.Sums) -> Merged:
    """Find what `batch` repeats. Stored rows that change are subtracted from `sums` here."""
    stored = _candidates(connection, batch)
    work = _Merge(stored, sums)
    work.result.known = sorted(stored.by_key)
    for row in doors.stored(connection, batch):
        work.stands_beside(row)
    for row in batch:
        work.take(row)
    return work.result


def known_keys(connection: Connection, keys: Iterable[str]) -> list[str]:
    """Those of `keys` (as importers make them) that the store already has."""
    stored = {index_key.fit(index_key.clean(key)): key for key in keys}
    found: list[str] = []
    for part in chunks(sorted(stored)):
        found += [stored[key] for key in connection.scalars(_KNOWN_KEYS, {"values": part})]
    return found


def new_keys(
    connection: Connection, keyed: dict[str, tuple[object, ...]], import_id: int | None
) -> dict[str, tuple[object, ...]]:
    """Those of `keyed` whose key was not known; they are recorded as keys of `import_id`.

    No message belongs to such a key, because a submission is only counted, also from a log.
    """
    known: set[str] = set()
    for part in chunks(sorted(keyed)):
        known.update(connection.scalars(_KNOWN_KEYS, {"values": part}))
    fresh = {key: value for key, value in sorted(keyed.items()) if key not in known}
    sqltext.many(
        connection,
        sqltext.insert("message_key"),
        [(key, NO_MESSAGE, import_id) for key in fresh],
    )
    return fresh


@dataclass(slots=True)
class _Stored:
    """Stored rows that records of a batch may belong to: by id, and by key (None: a key without a
    message).
    """

    rows: dict[int, Row]
    by_key: dict[str, Row | None]


def _candidates(connection: Connection, batch: list[Row]) -> _Stored:
    ids: set[int] = set()
    in_session = [row for row in batch if row.session]
    sessions = sorted({row.session for row in in_session if row.session})
    if sessions:
        rcpt = any(row.stage == "rcpt" for row in in_session)
        narrowed = {
            # Only a RCPT TO looks for a finished message.
            "stages": ["rcpt", "end"] if rcpt else ["rcpt"],
            "since": min(row.at for row in in_session) - WINDOW_S,
            "until": max(row.at for row in in_session) + WINDOW_S,
        }
        for part in chunks(sessions):
            ids.update(connection.scalars(_BY_SESSION, {"values": part, **narrowed}))
    found: dict[str, int] = {}
    for part in chunks(sorted({row.key for row in batch if row.key is not None})):
        found.update((k, i) for k, i in connection.execute(_BY_KEY, {"values": part}))
    ids.update(i for k, i in found.items() if k.startswith("policy:"))
    rows = load(connection, sorted(ids)) if ids else {}
    for part in chunks(sorted(rows)):
        for key, number in connection.execute(_KEYS_OF, {"values": part}):
            rows[number].key = key
    return _Stored(rows, {k: rows.get(i) for k, i in found.items()})


class _Merge:
    """The merging of one batch: it knows the stored rows, and the records of the batch so far."""

    def __init__(self, stored: _Stored, sums: deltas.Sums) -> None:
        self.result = Merged()
        self._sums = sums
        self._by_key = stored.by_key
        self._sessions: dict[tuple[str, str], list[Row]] = {}  # by session and stage
        # By client and sender: rows that a followed log and a door (`doors`) may both have seen. In
        # two dicts, so that a door's message of a busy client is compared with log rows only.
        self._logs: dict[_Side, list[Row]] = {}
        self._doors: dict[_Side, list[Row]] = {}
        for row in stored.rows.values():
            self._remember(row, doors.watched(row))

    def take(self, row: Row) -> None:
        """Merge one record; they must come in the order in which they were written."""
        if row.key is not None and row.key in self._by_key:
            holder = self._by_key[row.key]
            # An import that was read before; only `instance` ever brings more recipients.
            if holder is not None and row.stage == "rcpt":
                self._join(row, holder)
            return
        watched = doors.watched(row)
        if watched:
            for other in self._doors.get(_side(row), ()):
                if doors.is_same(other, row):
                    if doors.refused_behind(other, row):
                        other.message.delivered = False
                        if other.stored:
                            self.result.undelivered.append(other.id)
                    if row.key is not None:
                        self._adopt(row.key, other)
                    return
        elif row.message.source in doors.DOORS:
            for other in list(self._logs.get(_side(row), ())):
                if doors.is_same(row, other):
                    self._supersede(other, row)
        if row.stage == "end":
            # Only rows of RCPT TO: finished messages of a busy client share a session, and to
            # compare each with all of them would take longer and longer.
            for other in self._near(row, "rcpt"):
                self._absorb(row, other)
        elif self._repeats(row):
            return
        self.result.fresh.append(row)
        self.result.recorded.append(Recorded(row, row, row.hit))
        self._remember(row, watched)
        if row.key is not None:
            self._by_key[row.key] = row

    def stands_beside(self, row: Row) -> None:
        """Remember `row` as one that both a door and a followed log may have seen."""
        if row.message.prefix is not None:
            side = self._doors if row.message.source in doors.DOORS else self._logs
            side.setdefault(_side(row), []).append(row)

    def _supersede(self, other: Row, row: Row) -> None:
        """Drop the log's row `other`, because a door has seen the same message."""
        if doors.refused_behind(row, other):
            row.message.delivered = False
        self._logs[_side(row)].remove(other)
        known = self._sessions.get((other.session or "", other.stage), [])
        known[:] = [one for one in known if one is not other]
        self._take_place(other, row)

    def _remember(self, row: Row, watched: bool) -> None:
        if watched or row.message.source in doors.DOORS:
            self.stands_beside(row)
        if row.session is not None:
            self._sessions.setdefault((row.session, row.stage), []).append(row)

    def _near(self, row: Row, stage: str) -> list[Row]:
        """The rows of this session and `stage` within the window."""
        if row.session is None:
            return []
        found = self._sessions.get((row.session, stage), ())
        return [other for other in found if abs(other.at - row.at) <= WINDOW_S]

    def _repeats(self, row: Row) -> bool:
        """True where this RCPT TO is part of a message we have: finished, or one more recipient."""
        wanted = _keys(row.recipients)
        for other in self._near(row, "end"):
            if wanted <= _keys(other.recipients):
                return True
        for other in self._near(row, "rcpt"):
            # Two instances are two messages. Where one row has no instance (Exim, or a transaction
            # that the milter saw end without a message), only the session can tell.
            if row.key is None or other.key is None:
                self._join(row, other)
                if row.key is not None:
                    self._adopt(row.key, other)
                return True
        return False

    def _adopt(self, key: str, holder: Row) -> None:
        """Later records of this `instance` belong to `holder`."""
        self._by_key[key] = holder
        if holder.stored:
            self.result.adopted[key] = holder
        holder.key = holder.key or key

    def _join(self, row: Row, holder: Row) -> None:
        """Add one more RCPT TO to `holder`, the row of an earlier one of the same message."""
        have = _keys(holder.recipients)
        more = [recipient for recipient in row.recipients if recipient.trap_key not in have]
        if not more:
            return
        before = holder.traps
        self._touch(holder)
        holder.recipients.extend(more)
        holder.message.traps = holder.traps
        if not before and holder.traps:
            holder.message.action = row.message.action
            holder.message.reason = row.message.reason
        self.result.recorded.append(Recorded(row, holder, row.hit and not before))

    def _absorb(self, row: Row, other: Row) -> None:
        """DATA has ended: the message `row` takes over what `other` recorded at RCPT TO."""
        mine = _keys(row.recipients)
        common = [recipient for recipient in other.recipients if recipient.trap_key in mine]
        if not common:
            return
        if any(recipient.trap for recipient in common):
            # counted at RCPT TO, unless that row is dropped uncounted (`_take_place`)
            row.hit = False
        self._touch(other)
        other.recipients = [r for r in other.recipients if r.trap_key not in mine]
        other.message.traps = other.traps
        if not other.recipients:
            self._replace(other, row)

    def _replace(self, other: Row, row: Row) -> None:
        """Drop `other`: all its recipients are recipients of the finished message `row`."""
        self._touch(other)
        self._sessions[other.session or "", "rcpt"].remove(other)
        self._take_place(other, row)

    def _take_place(self, other: Row, row: Row) -> None:
        """`row` takes the place of `other`."""
        result = self.result
        self._touch(other)
        # Later records of this `instance` belong to the finished message.
        for key in [key for key, holder in self._by_key.items() if holder is other]:
            self._by_key[key] = row
        if other.stored:
            row.merged.append(other.id)
            result.gone[other.id] = row
            del result.rewritten[other.id]
            return
        row.key = row.key or other.key
        result.fresh = [fresh for fresh in result.fresh if fresh is not other]
        # The hit of the dropped row was not counted yet: it is this row's.
        row.hit = row.hit or any(one.hit for one in result.recorded if one.holder is other)
        result.recorded = [one for one in result.recorded if one.holder is not other]

    def _touch(self, row: Row) -> None:
        """Call before a stored row changes: subtracts its old values from the sums."""
        if row.stored and row.id not in self.result.rewritten:
            self._sums.add(row, row.keys()[1], -1)
            self.result.rewritten[row.id] = row


def _side(row: Row) -> _Side:
    """Rows of one message have the same client prefix and sender key (`doors.is_same`)."""
    return row.message.prefix, row.message.sender_key


def _keys(recipients: list[RecipientRow]) -> set[str]:
    return {recipient.trap_key for recipient in recipients}
