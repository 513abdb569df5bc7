"""Answer `milterctl report`: one sender's, host's or trap's history, or the overview.

`tell` reads everything in one transaction, so that its parts agree with each other.
"""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import ColumnElement, Connection, and_, or_, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.facts import IdentityKind, client_prefix
from gatepost_policy.mail.results import RESULTS
from gatepost_policy.report import count, messages, overview
from gatepost_policy.report.count import Counted, in_order
from gatepost_policy.report.proof import (
    TRAPS_NAMED,
    Proof,
    came_over,
    domain_of,
    no_sender,
    proof,
    signers,
    traps_hit,
)
from gatepost_policy.report.report import Key, Line, Listed, Report
from gatepost_policy.report.selection import Selection, key_range
from gatepost_policy.report.standing import Standing, standing
from gatepost_policy.store import acts
from gatepost_policy.store.tables import DkimKey, Listing, SenderIdentity

KEYS_MAX = 100
LISTINGS_MAX = 100
HOSTS_LOOKED_AT = 100
HITS_LOOKED_AT = 100
MANY = 5_000  # messages of a sender; with more, those to traps are looked up by their own index
HITS_NAMED = 10_000  # messages to a trap that are looked up once; of more each query does


def tell(
    connection: Connection,
    selection: Selection,
    settings: Settings,
    now: float,
    *,
    marks: int = messages.MARKS_MAX,
) -> Report:
    """The report on `selection` as of `now` (Unix seconds), with the newest `marks` messages for a
    time line. Raises conditions.TooWide."""
    counted = count.count(connection, selection)
    summary = counted.summary
    if not selection.everything:
        mine = signers(connection, selection, summary.messages)
        if mine is not None:
            own, others = (in_order(part, RESULTS) for part in (mine.own, mine.others))
            summary = replace(summary, dkim_own=own, dkim_others=others)
    hits = _hits(connection, selection, counted)
    named = traps_hit(connection, hits) if counted.trap_messages else ()
    ids = messages.newest(connection, selection, max(selection.limit, marks))
    lines = messages.lines(connection, ids[: selection.limit])
    report = Report(
        query=selection.query(),
        summary=summary,
        came_over=came_over(connection, selection, summary.messages),
        no_verdict=no_sender(selection, settings),
        traps=named[:TRAPS_NAMED],
        more_traps=len(named) > TRAPS_NAMED,
        messages=lines,
        hit=None if selection.everything else _newest_hit(connection, hits, counted, lines),
        rhythm=counted.rhythm,
        standing=_judge(connection, hits, counted, settings),
        marks=messages.marks(connection, ids[:marks]),
        keys=_keys(connection, selection),
        listings=_listings(connection, selection, counted, now),
        spans=counted.spans,
        hosts=counted.hosts,
        acts=tuple(acts.about(connection, _by_hand(selection))),
    )
    if selection.everything:
        return overview.add(connection, report, selection, settings, now)
    return report


def _judge(
    connection: Connection, selection: Selection, counted: Counted, settings: Settings
) -> Standing | None:
    """Whether the selected sender or client is a repeat sender; None where it is not one sender.
    `selection`: its messages to a trap, which alone prove it."""
    if selection.sender is None and selection.host is None:
        return None
    if no_sender(selection, settings) is not None:
        return None
    found = proof(connection, selection) if counted.trap_messages else Proof()
    return standing(
        counted.rhythm,
        counted.trap_messages,
        found.word,
        messages=settings.sender.repeat_messages,
        span=settings.sender.repeat_span,
        signed=found.signed,
    )


def _hits(connection: Connection, selection: Selection, counted: Counted) -> Selection:
    """The selected messages to a trap, as a selection. Their ids are looked up once: a busy
    sender's are few among many."""
    hits = replace(selection, trapped=True)
    if selection.everything or not 0 < counted.trap_messages <= HITS_NAMED:
        return hits
    many = counted.summary.messages > MANY
    look = messages.newest_of_many if many else messages.newest
    return replace(hits, only=tuple(look(connection, hits, HITS_NAMED)))


def _newest_hit(
    connection: Connection, hits: Selection, counted: Counted, lines: Sequence[Line]
) -> Line | None:
    """The newest message to a trap by a client that is known; None where there is none.

    It may be older than all that are listed: what a busy sender did to a trap must not go unseen.
    """
    if not counted.trap_messages:
        return None
    listed = next((line for line in lines if line.hit), None)
    if listed is not None:
        return listed
    ids = messages.newest(connection, hits, HITS_LOOKED_AT)
    return next((line for line in messages.lines(connection, ids) if line.hit), None)


def _by_hand(selection: Selection) -> list[str]:
    """The values under which operators' acts on the selected sender, host or trap are stored."""
    if selection.trap is not None:
        return [selection.trap.trap_key]
    if selection.host is not None:
        network = selection.host
        if network.prefixlen == network.max_prefixlen:
            return [client_prefix(network.network_address)]
        return [str(network)]
    domain = selection.domain
    if domain is None:
        return [] if selection.address is None else [selection.address.key]
    # A domain that is a trap is written with its @.
    return [domain, f"@{domain}"]


def _dkim_within(domain: str) -> ColumnElement[bool]:
    start, end = key_range(domain)
    return and_(
        SenderIdentity.kind == str(IdentityKind.DKIM),
        SenderIdentity.reversed >= start,
        SenderIdentity.reversed < end,
    )


def _keys(connection: Connection, selection: Selection) -> tuple[Key, ...]:
    """The DKIM keys of the sender's domain and those below it, newest first."""
    domain = domain_of(selection)
    if not domain:
        return ()
    start, end = key_range(domain)
    rows = connection.execute(
        select(DkimKey.__table__)
        .where(DkimKey.reversed >= start, DkimKey.reversed < end)
        .order_by(DkimKey.last_seen.desc())
        .limit(KEYS_MAX)
    )
    return tuple(
        Key(
            row.domain, row.selector, row.algorithm, row.key_bits, row.previous_bits,
            row.changed, row.first_seen, row.last_seen, row.messages,
        )
        for row in rows
    )  # fmt: skip


def _listings(
    connection: Connection, selection: Selection, counted: Counted, now: float
) -> tuple[Listed, ...]:
    """The listings of this sender's domains and clients, past ones included, newest first."""
    if selection.everything:
        wanted: ColumnElement[bool] = and_(Listing.until > now)
    else:
        wanted = or_(*_listed(connection, selection, counted))
    rows = connection.execute(
        select(Listing.__table__)
        .where(wanted)
        .order_by(Listing.since.desc(), Listing.id.desc())
        .limit(LISTINGS_MAX)
    )
    return tuple(
        Listed(
            kind=row.kind,
            value=row.value,
            since=row.since,
            until=row.until,
            active=row.until > now,
            reason=row.reason,
            hits=row.hits,
            by_hand=bool(row.by_hand),
            forgiven=row.forgiven,
            note=row.note,
        )
        for row in rows
    )


def _listed(
    connection: Connection, selection: Selection, counted: Counted
) -> list[ColumnElement[bool]]:
    domain = domain_of(selection)
    found: list[ColumnElement[bool]] = []
    if domain:
        proven = connection.scalars(
            select(SenderIdentity.value).where(_dkim_within(domain)).limit(HOSTS_LOOKED_AT)
        ).all()
        values = {domain, *proven}
        found.append(and_(Listing.kind == str(IdentityKind.DKIM), Listing.value.in_(values)))
    prefixes = {
        prefix
        for host in counted.summary.hosts[:HOSTS_LOOKED_AT]
        if (prefix := _prefix(host.address)) is not None
    }
    found.append(and_(Listing.kind == str(IdentityKind.PREFIX), Listing.value.in_(prefixes)))
    return found


def _prefix(address: str | None) -> str | None:
    """The prefix identity (CIDR) of a client given as an address or a prefix; None for neither."""
    from ipaddress import ip_address

    if address is None or "/" in address:
        return address
    try:
        return client_prefix(ip_address(address))
    except ValueError:
        return None
