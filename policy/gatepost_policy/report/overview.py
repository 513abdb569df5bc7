"""The overview: repeat senders, domains on both families, and low-and-slow patterns.

How it works: identities that hit a trap are few and indexed; each that could be a repeat sender is
counted as in its own sender report, so that the figures agree.
"""

from dataclasses import replace
from ipaddress import ip_address

from sqlalchemy import Connection, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import client_address
from gatepost_policy.mail.address import within_any
from gatepost_policy.mail.facts import IdentityKind, client_prefix
from gatepost_policy.report import clients, count, dual_stack, patterns
from gatepost_policy.report.count import Counted
from gatepost_policy.report.overview_values import Sender
from gatepost_policy.report.proof import Proof, proof
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.standing import standing
from gatepost_policy.store.tables import Listing, SenderIdentity

SENDERS_MAX = 50
CANDIDATES_MAX = 2_000  # identities with trap hits that are read to choose them
COUNTED_MAX = 100  # senders counted message by message
FEW = 2_000  # messages; clients with no more than this are counted together, in few queries

Candidate = tuple[str, str]  # kind, value


def add(
    connection: Connection, report: Report, selection: Selection, settings: Settings, now: float
) -> Report:
    """`report`, which is on all mail, with `senders`, `dual_stack` and `low_and_slow` filled.
    `now`: Unix seconds."""
    return replace(
        report,
        overview=True,
        senders=_senders(connection, selection, settings, now),
        dual_stack=dual_stack.domains(connection, selection),
        low_and_slow=patterns.low_and_slow(connection, selection, settings),
    )


def _senders(
    connection: Connection, selection: Selection, settings: Settings, now: float
) -> tuple[Sender, ...]:
    """Those who hit a trap: repeat senders first, then who came in most months."""
    domains, prefixes = _candidates(connection, settings)
    found: list[Sender] = []
    explained: dict[str, int] = {}  # messages by client prefix that a sender above accounts for
    for kind, value in domains[:COUNTED_MAX]:
        sender = _count(connection, kind, value, selection, settings)
        if sender is None:
            continue
        found.append(sender)
        for host in sender.summary.hosts:
            prefix = _prefix(host.address)
            explained[prefix] = explained.get(prefix, 0) + host.messages
    # A client is left out where the senders above account for all of its mail.
    new = [p for p in prefixes[:COUNTED_MAX] if p[2] > explained.get(p[1], 0)]
    few = [value for _, value, messages in new if messages <= FEW]
    counted = clients.count(connection, few, selection)
    for kind, value, messages in new:
        if messages <= FEW:
            sender = _judged(kind, value, counted.get(value), Proof("address"), settings)
        else:
            sender = _count(connection, kind, value, selection, settings)
        if sender is not None and sender.summary.messages > explained.get(value, 0):
            found.append(sender)
    found.sort(
        key=lambda s: (s.standing.repeat, s.rhythm.months, s.trap_messages, s.rhythm.last),
        reverse=True,
    )
    return _with_listings(connection, found[:SENDERS_MAX], now)


def _candidates(
    connection: Connection, settings: Settings
) -> tuple[list[Candidate], list[tuple[str, str, int]]]:
    """Domains (or single addresses of a mail service) that hit a trap, and clients that did.

    A domain below another candidate is left out. Clients come with the number of their messages.
    """
    identity = SenderIdentity
    rows = connection.execute(
        select(identity.kind, identity.value, identity.messages)
        # SPF identities are skipped: the same domain also has a row as sender domain.
        .where(identity.trap_messages > 0, identity.kind != str(IdentityKind.SPF))
        .order_by(identity.repeat.desc(), identity.days.desc(), identity.last_seen.desc())
        .limit(CANDIDATES_MAX)
    ).all()
    is_crowd = within_any(settings.sender.never_list)
    domains: dict[str, Candidate] = {}
    prefixes: list[tuple[str, str, int]] = []
    for kind, value, messages in rows:
        if kind == IdentityKind.PREFIX:
            prefixes.append((kind, value, messages))
            continue
        # Of a mail service (never_list) single addresses count, of anybody else the domain.
        if is_crowd(value.rpartition("@")[2]) != (kind == IdentityKind.SENDER):
            continue
        if value not in domains or kind == IdentityKind.DKIM:
            domains[value] = (kind, value)
    kept = [
        candidate
        for value, candidate in domains.items()
        if not any(value[at + 1 :] in domains for at, c in enumerate(value) if c == ".")
    ]
    return kept, prefixes


def _count(
    connection: Connection, kind: str, value: str, selection: Selection, settings: Settings
) -> Sender | None:
    """One candidate's line of the overview; None where no selected message of it hit a trap."""
    if kind == IdentityKind.PREFIX:
        network = client_address.listed_network(value)
        if network is None:
            return None  # a row that was made by hand
        mine = replace(selection, host=network)
    else:
        mine = replace(selection, sender=value)
    counted = count.count(connection, mine)
    if not counted.trap_messages:
        return None
    return _judged(kind, value, counted, proof(connection, mine), settings)


def _judged(
    kind: str, value: str, counted: Counted | None, found: Proof, settings: Settings
) -> Sender | None:
    """The overview's line from one candidate's counts; None where it hit no trap."""
    if counted is None or counted.rhythm is None or not counted.trap_messages:
        return None
    judged = standing(
        counted.rhythm,
        counted.trap_messages,
        found.word,
        signed=found.signed,
        messages=settings.sender.repeat_messages,
        span=settings.sender.repeat_span,
    )
    return Sender(value, kind, counted.summary, counted.rhythm, judged, counted.trap_messages, None)


def _prefix(address: str | None) -> str:
    if address is None or "/" in address:
        return address or ""
    try:
        return client_prefix(ip_address(address))
    except ValueError:
        return ""


def _with_listings(connection: Connection, senders: list[Sender], now: float) -> tuple[Sender, ...]:
    values = {sender.sender for sender in senders}
    if not values:
        return ()
    until: dict[str, float] = {}
    for value, end in connection.execute(
        select(Listing.value, Listing.until).where(Listing.value.in_(values), Listing.until > now)
    ):
        until[value] = max(end, until.get(value, 0.0))
    return tuple(replace(s, listed_until=until.get(s.sender)) for s in senders)
