"""What the store knows of those who may be listed for a trap hit. Reads only, and bounded.

Good mail is what was delivered, as far as can be known: accepted by every rule, not refused later
by the MTA or another milter, and not tried again. One client, sender, recipients and Message-ID are
one message, whatever the number of tries: what the MTA or another milter answers with 4xx comes
again and is no good mail. What they refuse for good does not come again: only a followed log
(`milterctl watch`) shows that, and without one it counts as delivered.

Only what is older than an hour counts as old: a sender can easily send good mail in the minutes
before a hit.

Limits: OLD_SCAN old and NEW_SCAN newer messages of one identity are looked at.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import Connection, func, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.listings.window import Window
from gatepost_policy.mail import index_key
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Facts, IdentityKind, Signature
from gatepost_policy.mail.organisation import organisation
from gatepost_policy.rules.known import DAY_S, HOUR_S, EarlierHit, Good, Past, Signer
from gatepost_policy.store.sqltext import chunks, execute
from gatepost_policy.store.tables import (
    Message,
    MessageRecipient,
    MessageSignature,
    SenderIdentity,
)

OLD_SCAN, NEW_SCAN = 300, 200
HITS_MAX = 200
CLIENTS = 20  # read together
# At most about so many messages are kept in memory from one hit to the next.
READ_MAX = 5_000
# At most so many index entries of one organisation are read.
INDEX_SCAN = 5_000


@dataclass(slots=True)
class _Mail:
    """One message of the history. `at` in Unix seconds."""

    id: int
    at: float
    who: tuple[str | None, str | None, str | None]  # client, sender, Message-ID
    accepted: bool
    quiet: bool  # nothing was known against it
    prefix: str | None
    recipients: set[str] = field(default_factory=set)
    signed: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    organisations: set[str] = field(default_factory=set)  # those that proved it theirs
    spf: str | None = None  # the envelope sender's organisation where SPF passed
    same: tuple[object, ...] = ()  # what all tries of one message have in common


# So many more rows of an identity are read than one hit needs, so that later hits of a batch find
# theirs.
SLACK = 1_000


class Read:
    """What was read for one hit, kept for the next ones of the same transaction.

    In a storm, each hit needs the same 500 messages and 200 hits of one client. The hits must come
    in the order of their times, none later than `until` (Unix seconds). The caller must report what
    the transaction does to hits meanwhile (`hit`, `forget_hits`).
    """

    def __init__(self, until: float | None = None) -> None:
        self.until = until
        self.mail: dict[int, _Mail | None] = {}  # None: there is no finished message of this id
        self.old: dict[str, Window[int]] = {}  # ids of a client's messages
        self.new: dict[str, Window[int]] = {}
        # of an organisation's messages: id, time
        self.named: dict[str, list[tuple[int, float]]] = {}
        self.hits: dict[str, Window[tuple[int, EarlierHit]]] = {}

    @property
    def slack(self) -> int:
        """How many rows are read beyond those that one hit asks for."""
        return 0 if self.until is None else SLACK

    def hit(self, connection: Connection, message_id: int) -> None:
        """To be called when a hit was recorded."""
        if not self.hits:
            return
        for row in execute(connection, f"{_HITS} WHERE h.message_id = ?", (message_id,)):
            window = self.hits.get(row.whose)
            if window is not None:
                window.add(row.at, row.number, _earlier(row))

    def forget_hits(self) -> None:
        """To be called when hits were deleted."""
        self.hits.clear()


def gather(
    connection: Connection,
    facts: Facts,
    settings: Settings,
    *,
    without: Collection[int] = (),
    read: Read | None = None,
) -> Past:
    """What is known before this hit; the message rows `without` (its own) are left out. Raises what
    the database raises.
    """
    read = read or Read()
    organisations = list(dict.fromkeys(organisation(d) for d in facts.aligned_domains()))
    prefix = facts.client.prefix
    since = facts.at - settings.sender.good_window
    mine: list[_Mail] = []
    if prefix is not None:
        ids = _of_client(connection, prefix, since, facts.at, read)
        mine = _mail(connection, ids, without, read)
    client = [m for m in mine if not m.organisations & set(organisations)]
    signers = {
        name: _signer(connection, name, facts, since, mine, without, read) for name in organisations
    }
    whose = [*organisations, *([prefix] if prefix is not None else [])]
    hits = {name: _hits(connection, name, facts.at, settings, without, read) for name in whose}
    return Past(client=_good(client, facts.at), signers=signers, hits=hits)


def clients_good(
    connection: Connection, clients: Iterable[tuple[str, float]], settings: Settings
) -> Iterator[tuple[str, Good]]:
    """(prefix, its good mail) for each client (prefix, at): before `at` (Unix seconds), within
    `sender.good_window`. The mail of several clients is read at once."""
    for group in chunks(clients, CLIENTS):
        read = Read()
        ids = [
            _of_client(connection, prefix, at - settings.sender.good_window, at, read)
            for prefix, at in group
        ]
        _mail(connection, set[int]().union(*ids), (), read)
        for (prefix, at), mine in zip(group, ids, strict=True):
            yield prefix, _good(_mail(connection, mine, (), read), at)


def _of_client(
    connection: Connection, prefix: str, since: float, at: float, read: Read
) -> set[int]:
    """Ids of a client's newest old messages, and of its newer ones."""
    edge = at - HOUR_S
    slack = read.slack
    until = at if read.until is None else read.until
    old, new = read.old.get(prefix), read.new.get(prefix)
    if old is None or new is None:
        most = OLD_SCAN + slack
        old = read.old[prefix] = _window(connection, prefix, since, until - HOUR_S, most)
        new = read.new[prefix] = _window(connection, prefix, edge, until, NEW_SCAN + slack)
    before = old.newest(since, edge, OLD_SCAN)
    if before is None:
        window = _window(connection, prefix, since, edge, OLD_SCAN)
        before = window.newest(since, edge, OLD_SCAN) or []
    later = new.newest(edge, at, NEW_SCAN, behind=True)
    if later is None:
        window = _window(connection, prefix, edge, at, NEW_SCAN)
        later = window.newest(edge, at, NEW_SCAN, behind=True) or []
    return {*before, *later}


def _window(
    connection: Connection, prefix: str, since: float, until: float, most: int
) -> Window[int]:
    sql = (
        "SELECT at, id FROM message WHERE prefix = ? AND at >= ? AND at <= ?"
        " ORDER BY at DESC, id DESC LIMIT ?"
    )
    rows = execute(connection, sql, (prefix, since, until, most)).all()
    return Window([(row.at, row.id, row.id) for row in rows], cut=len(rows) == most)


def _of_organisation(
    connection: Connection, name: str, since: float, at: float, read: Read
) -> set[int]:
    """Ids of messages that name this organisation, whether it proved them or not."""
    named = read.named.get(name)
    if named is None:
        first = index_key.reverse(index_key.clean(name))
        # The end of the range: `/` comes after the dot that ends every label.
        end = first[:-1] + "/"
        sql = (
            "SELECT message_id, at FROM message_domain"
            " WHERE reversed >= ? AND reversed < ? AND shared < ? LIMIT ?"
        )
        rows = execute(connection, sql, (first, end, len(first), INDEX_SCAN))
        named = read.named[name] = [(row.message_id, row.at) for row in rows]
    edge = at - HOUR_S
    old = [number for number, when in named if since <= when <= edge]
    new = [number for number, when in named if edge < when <= at]
    return {*old[:OLD_SCAN], *new[:NEW_SCAN]}


def _mail(
    connection: Connection, ids: set[int], without: Collection[int], read: Read
) -> list[_Mail]:
    """These messages, with their recipients and the organisations that proved them."""
    wanted = sorted(ids.difference(without))
    missing = [number for number in wanted if number not in read.mail]
    if missing:
        if len(read.mail) > READ_MAX:
            for number in set(read.mail).difference(wanted):
                del read.mail[number]
        read.mail.update(dict.fromkeys(missing))
        read.mail.update(_load(connection, missing))
    return [one for number in wanted if (one := read.mail[number]) is not None]


def _load(connection: Connection, ids: Sequence[int]) -> dict[int, _Mail]:
    found: dict[int, _Mail] = {}
    for part in chunks(ids):
        for m in connection.execute(
            select(
                Message.id, Message.at, Message.prefix, Message.sender_key, Message.message_id,
                Message.action, Message.reason, Message.shadow, Message.delivered, Message.spf,
                Message.spf_domain,
            ).where(Message.id.in_(part), Message.stage == "end")
        ):  # fmt: skip
            quiet = m.action == Action.ACCEPT and m.reason == Reason.NO_BAD_SIGNAL
            found[m.id] = _Mail(
                id=m.id,
                at=m.at,
                who=(m.prefix, m.sender_key, m.message_id),
                accepted=m.action == Action.ACCEPT and m.delivered is not False,
                quiet=quiet and m.shadow is None and m.delivered is not False,
                prefix=m.prefix,
                spf=_passed(m),
            )
        recipient = MessageRecipient
        for number, key in connection.execute(
            select(recipient.message_id, recipient.trap_key).where(recipient.message_id.in_(part))
        ):
            if number in found:
                found[number].recipients.add(key)
        signature = MessageSignature
        for s in connection.execute(
            select(signature).where(signature.message_id.in_(part), signature.crypto == "pass")
            .with_only_columns(*signature.__table__.columns)
        ).mappings():  # fmt: skip
            if s["message_id"] in found and s["domain"] and _proven(s):
                signed = (organisation(s["domain"]), s["b_hash"], s["addressed"])
                found[s["message_id"]].signed.append(signed)
                found[s["message_id"]].organisations.add(signed[0])
    for one in found.values():
        one.same = (*one.who, *sorted(one.recipients))
    return found


def _passed(row: Any) -> str | None:
    """The organisation of the envelope sender of a row, where SPF passed."""
    return organisation(row.spf_domain) if row.spf == "pass" and row.spf_domain else None


def _proven(s: Any) -> bool:
    return Signature(
        domain=s["domain"],
        algorithm=s["algorithm"],
        key_bits=s["key_bits"],
        body_limit=s["body_limit"],
        unsigned_bytes=s["unsigned_bytes"],
        crypto=s["crypto"],
        result=s["result"],
        flags=tuple(s["flags"].split(",")) if s["flags"] else (),
    ).proven


def _delivered(mail: Sequence[_Mail]) -> list[_Mail]:
    """The messages that were accepted and did not come again."""
    tries: dict[tuple[object, ...], int] = {}
    for m in mail:
        if m.accepted:
            tries[m.same] = tries.get(m.same, 0) + 1
    return [m for m in mail if m.quiet and tries[m.same] == 1]


def _good(mail: Sequence[_Mail], at: float) -> Good:
    delivered = _delivered(mail)
    old = [m for m in delivered if m.at <= at - HOUR_S]
    return Good(
        messages=len(delivered),
        old=len(old),
        days=len({int(m.at // DAY_S) for m in old}),
        domains=len({o for m in old for o in m.organisations}),
        customers=len({m.spf for m in old if m.spf is not None}),
    )


def _signer(
    connection: Connection,
    name: str,
    facts: Facts,
    since: float,
    of_client: Sequence[_Mail],
    without: Collection[int],
    read: Read,
) -> Signer:
    """What the organisation `name` did here, and whether this client is known to send for it."""
    ids = _of_organisation(connection, name, since, facts.at, read)
    named = _mail(connection, ids, without, read)
    mail = [m for m in named if name in m.organisations]
    count = len(mail)
    if len(named) >= OLD_SCAN:
        count = max(count, _all_mail(connection, name))
    # At most one domain: other names that sign its mail are no independent correspondents.
    good = _good(mail, facts.at)
    good = replace(good, domains=min(good.domains, 1))
    days: dict[int, set[str]] = {}
    for m in _delivered(of_client):
        for organisation_, b_hash, addressed in m.signed:
            old = m.at <= facts.at - HOUR_S
            if organisation_ == name and addressed in ("recipient", "both") and old:
                days.setdefault(int(m.at // DAY_S), set()).add(b_hash or str(m.id))
    distinct: set[str] = set()
    introduced = 0
    for _, hashes in sorted(days.items()):
        if hashes - distinct:
            introduced += 1
            distinct |= hashes
    return Signer(good=good, mail=count, introduced=introduced)


def _all_mail(connection: Connection, name: str) -> int:
    """How many messages this organisation has ever proved here, with those to traps."""
    first = index_key.reverse(index_key.clean(name))
    identity = SenderIdentity
    return (
        connection.scalar(
            select(func.sum(identity.messages)).where(
                identity.kind == IdentityKind.DKIM,
                identity.reversed >= first,
                identity.reversed < first[:-1] + "/",
            )
        )
        or 0
    )


_HITS = (
    "SELECT h.whose, h.at, h.reason, h.b_hash, h.prefix, h.host, h.message_id AS number,"
    " m.message_id, m.from_key, m.spf, m.spf_domain"
    " FROM trap_hit h LEFT JOIN message m ON m.id = h.message_id"
)


def _hits(
    connection: Connection,
    whose: str,
    at: float,
    settings: Settings,
    without: Collection[int],
    read: Read,
) -> tuple[EarlierHit, ...]:
    key = index_key.fit(index_key.clean(whose))
    since = at - settings.sender.listing_memory
    window = read.hits.get(key)
    if window is None:
        until = at if read.until is None else read.until
        window = read.hits[key] = _hits_of(connection, key, since, until, HITS_MAX + read.slack)
    found = window.newest(since, at, HITS_MAX)
    if found is None:
        window = _hits_of(connection, key, since, at, HITS_MAX)
        found = window.newest(since, at, HITS_MAX) or []
    return tuple(hit for number, hit in found if number not in without)


def _hits_of(
    connection: Connection, key: str, since: float, until: float, most: int
) -> Window[tuple[int, EarlierHit]]:
    sql = (
        f"{_HITS} WHERE h.whose = ? AND h.at <= ? AND h.at >= ?"
        " ORDER BY h.at DESC, h.message_id DESC LIMIT ?"
    )
    rows = execute(connection, sql, (key, until, since, most)).all()
    return Window([(row.at, row.number, _earlier(row)) for row in rows], cut=len(rows) == most)


def _earlier(row: Any) -> tuple[int, EarlierHit]:
    return row.number, EarlierHit(
        at=row.at,
        reason=row.reason,
        b_hash=row.b_hash,
        message_id=row.message_id,
        prefix=row.prefix,
        host=row.host,
        author=row.from_key,
        spf=_passed(row),
    )
