"""Everything about one message: what was decided, what was known then, what each rule says to it.

How it works: the facts are read back from the row as far as they are stored; the store is asked for
what it knew of the sender before that message and for what it knows now; `rules.explain` runs every
rule with both.

Limits, which the output names: the settings of that time are not stored (today's are used), nor
whether the sender was a repeat sender then; a recipient marked as a trap was one then or became one
later; listings that retention deleted are missing.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import translate
from ipaddress import ip_network
from typing import Any

from sqlalchemy import ColumnElement, Connection, and_, func, or_, select

from gatepost_policy import listings, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import rows, stored_facts
from gatepost_policy.mail import index_key
from gatepost_policy.mail.address import Address
from gatepost_policy.mail.facts import Direction, Facts, Identity, IdentityKind
from gatepost_policy.mail.organisation import covering
from gatepost_policy.mail.own import NOTHING_OWN, Own
from gatepost_policy.report import messages
from gatepost_policy.report.report import Line
from gatepost_policy.report.selection import Selection
from gatepost_policy.rules import Known, Listed
from gatepost_policy.rules.explain import Explained, explain
from gatepost_policy.rules.rules import is_open
from gatepost_policy.store.tables import Listing, Message, MessageDomain, SenderIdentity, TrapRow
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

FOUND_MAX = 20
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Before:
    """The stored messages of one identity from before the message. Times are Unix seconds."""

    who: str
    messages: int
    traps: int
    first: float | None
    last: float | None

    def json(self) -> Json:
        """Times in UTC."""
        return {
            "who": self.who,
            "messages": self.messages,
            "trap_messages": self.traps,
            "first_seen": None if self.first is None else timestamp(self.first),
            "last_seen": None if self.last is None else timestamp(self.last),
        }


@dataclass(frozen=True, slots=True)
class Why:
    """One message in full. `then`: the rules with what was known before it; `now`: as if it came
    now; both with today's settings. None for submissions, which are not judged again."""

    line: Line
    stage: str
    shadow: tuple[str, ...]
    before: tuple[Before, ...]
    listed: tuple[Listed, ...]  # listings that were active when it came
    then: Explained | None
    now: Explained | None
    others: tuple[Line, ...] = ()  # further messages of this id

    def json(self) -> Json:
        """As `milterctl why --format json` prints it."""
        return {
            "message": self.line.json() | {"id": self.line.id, "stage": self.stage},
            "shadow": list(self.shadow),
            "known_then": {
                "before": [one.json() for one in self.before],
                "listed": [_listed_json(one) for one in self.listed],
                "repeat_sender": None,  # not stored
                "settings": None,  # not stored
            },
            "then": None if self.then is None else self.then.json(),
            "now": None if self.now is None else self.now.json(),
            "others": [{"id": line.id, "at": timestamp(line.at)} for line in self.others],
        }


def _listed_json(one: Listed) -> Json:
    return {
        "kind": one.identity.kind.value,
        "value": one.identity.value,
        "until": timestamp(one.until),
        "promoted": one.promoted,
    }


def find(connection: Connection, text: str) -> list[int]:
    """The ids of the messages with this queue id or Message-ID, newest first."""
    text = index_key.clean(text).strip()
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    for chosen in (
        Selection(queue_id=text),
        Selection(message_id=f"<{bare}>"),
        Selection(message_id=bare),
    ):
        found = messages.newest(connection, chosen, FOUND_MAX)
        if found:
            return found
    return []


def tell(
    connection: Connection,
    ids: Sequence[int],
    settings: Settings,
    now: float,
    own: Own = NOTHING_OWN,
) -> Why | None:
    """Everything about the first of these messages; None where it is not stored any more. The rest
    become `others`. `now`: Unix seconds."""
    lines = messages.lines(connection, ids)
    row = rows.load(connection, ids[:1]).get(ids[0]) if ids else None
    if row is None or not lines:
        return None
    facts = stored_facts.read(row)
    stored = row.message
    why = Why(
        line=lines[0],
        stage=stored.stage,
        shadow=tuple(filter(None, (stored.shadow or "").split(","))),
        before=_before(connection, facts),
        listed=listed(connection, facts, facts.at),
        then=None,
        now=None,
        others=lines[1:],
    )
    if facts.direction is not Direction.INBOUND:
        return why
    marked = frozenset(r.address for r in row.recipients if r.trap)
    then = Known(
        traps=marked,
        listed=why.listed,
        past=listings.gather(connection, facts, settings, without=ids[:1]) if marked else None,
        own=own,
    )
    return replace(
        why,
        then=explain(facts, then, settings),
        now=now_of(connection, facts, settings, now, own, without=ids[:1]),
    )


def now_of(
    connection: Connection,
    facts: Facts,
    settings: Settings,
    now: float,
    own: Own = NOTHING_OWN,
    *,
    without: Sequence[int] = (),
) -> Explained:
    """What the rules say if a message with these `facts` comes now, with what the store knows now.

    `now`: Unix seconds; `without`: ids of messages that are not counted as its past.
    """
    facts = replace(facts, at=now)
    hit = frozenset(r.address.raw for r in facts.recipients if is_trap(connection, r.address))
    known = Known(
        traps=hit,
        listed=listed(connection, facts, now),
        repeat=_repeat(connection, facts),
        past=listings.gather(connection, facts, settings, without=without) if hit else None,
        own=own,
    )
    return explain(facts, known, settings)


def is_trap(connection: Connection, address: Address) -> bool:
    """True where a trap covers this address now: by itself, its domain, or a pattern."""
    if is_open(address):
        return False
    key = index_key.clean(address.trap_key)
    named = select(TrapRow.id).where(
        or_(
            and_(TrapRow.kind == "exact", TrapRow.key == key),
            and_(TrapRow.kind == "domain", TrapRow.key == f"@{address.domain}"),
        ),
        traps.live(),
    )
    if connection.scalar(named.limit(1)) is not None:
        return True
    patterns = connection.scalars(
        select(TrapRow.key).where(TrapRow.kind == "pattern", traps.live())
    )
    # In trap patterns `[` is a plain character, but fnmatch would begin a class with it.
    return any(re.match(translate(p.replace("[", "[[]")), key) for p in patterns)


def listed(connection: Connection, facts: Facts, at: float) -> tuple[Listed, ...]:
    """The listings active at `at` (Unix seconds) that cover an identity of this message."""
    wanted: list[tuple[tuple[str, ...], list[str], IdentityKind]] = []
    prefix = facts.client.prefix
    if prefix is not None:
        net = ip_network(prefix)
        above = [str(net.supernet(new_prefix=bits)) for bits in range(net.prefixlen + 1)]
        wanted.append((("prefix", "promoted"), above, IdentityKind.PREFIX))
    aligned = facts.aligned_domains()
    names = list(dict.fromkeys(name for domain in aligned for name in covering(domain)))
    wanted.append((("dkim", "promoted-dkim"), names, IdentityKind.DKIM))
    author = facts.author_identity()
    if author is not None:
        wanted.append((("author",), [author.value], IdentityKind.AUTHOR))
    if facts.sender.key:
        wanted.append((("sender",), [facts.sender.key], IdentityKind.SENDER))
    found: list[Listed] = []
    for kinds, values, kind in wanted:
        for row in connection.execute(
            select(Listing.kind, Listing.value, func.max(Listing.until).label("until"))
            .where(
                Listing.kind.in_(kinds),
                Listing.value.in_(values),
                Listing.since <= at,
                Listing.until > at,
                or_(Listing.forgiven.is_(None), Listing.forgiven > at),
            )
            .group_by(Listing.kind, Listing.value)
        ):
            identity = Identity(kind, row.value, kind is not IdentityKind.SENDER)
            found.append(Listed(identity, row.until, promoted=row.kind.startswith("promoted")))
    return tuple(found)


def _repeat(connection: Connection, facts: Facts) -> tuple[Identity, ...]:
    """Identities of this message that are flagged as repeat senders now."""
    flagged = []
    for identity in facts.identities():
        row = SenderIdentity
        mine = select(row.value).where(
            row.kind == identity.kind.value, row.value == identity.value, row.repeat.is_(True)
        )
        if connection.scalar(mine.limit(1)) is not None:
            flagged.append(identity)
    return tuple(flagged)


def _before(connection: Connection, facts: Facts) -> tuple[Before, ...]:
    """What is stored of the client, and of the domains in the message, from before it."""
    found: list[Before] = []
    figures = (
        func.count(), func.count().filter(Message.traps > 0),
        func.min(Message.at), func.max(Message.at),
    )  # fmt: skip

    def add(who: str, *where: ColumnElement[bool]) -> None:
        count, hits, first, last = connection.execute(select(*figures).where(*where)).one()
        found.append(Before(who, count, hits, first, last))

    prefix = facts.client.prefix
    if prefix is not None:
        add(prefix, Message.prefix == prefix, Message.at < facts.at)
    names = [facts.sender.domain, facts.header_from.domain if facts.header_from else ""]
    names += [s.domain for s in facts.signatures if s.domain]
    for name in dict.fromkeys(filter(None, names)):
        first = index_key.reverse(index_key.clean(name))
        mine = select(MessageDomain.message_id).where(
            MessageDomain.reversed >= first,
            MessageDomain.reversed < first[:-1] + "/",
            MessageDomain.at < facts.at,
        )
        add(name, Message.id.in_(mine))
    return tuple(found)
