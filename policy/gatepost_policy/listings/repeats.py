"""Repeat senders, and clients that are shared: what the history of an identity says about it."""

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, select

from gatepost_policy.config.settings import Settings
from gatepost_policy.listings.past import clients_good
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import IdentityKind
from gatepost_policy.store.sqltext import MANY, chunks, many
from gatepost_policy.store.tables import SenderIdentity


def flag_repeat(
    connection: Connection,
    since: float,
    settings: Settings,
    touched: Collection[tuple[str, str]] | None = None,
) -> bool:
    """Flag those who became repeat senders, among the identities seen at or after `since`.

    `since` is in Unix seconds. `touched` are the (kind, value) that the batch has counted, None for
    any. No other identity can have become one, and each client checked costs a read: with ten
    million messages in the store, thousands of shared clients would be checked again for every
    batch of an old log.

    Call it once a batch, after identities were counted and listings were made (the longest listing
    is for the next hit, not for the one that makes a repeat sender). True where one was new; the
    caller bumps the revision.

    Never flagged: never_list and own domains, and clients that deliver good mail: many senders
    share those.
    """
    sender = settings.sender
    protected = address.within_any(sender.never_list + sender.own_domains)
    flagged: list[tuple[str, str]] = []
    clients: list[tuple[str, float]] = []
    for kind, value, last_seen in _candidates(connection, since, settings, touched):
        if kind == IdentityKind.PREFIX:
            clients.append((value, last_seen))
        elif kind == IdentityKind.SENDER or not protected(value.rpartition("@")[2]):
            flagged.append((kind, value))
    for prefix, good in clients_good(connection, clients, settings):
        if not good.counts(sender.good_messages):
            flagged.append((str(IdentityKind.PREFIX), prefix))
    sql = "UPDATE identity SET repeat = (1 = 1) WHERE kind = ? AND value = ?"
    many(connection, sql, sorted(flagged))
    return bool(flagged)


def _candidates(
    connection: Connection,
    since: float,
    settings: Settings,
    touched: Collection[tuple[str, str]] | None,
) -> Iterator[tuple[str, str, float]]:
    """(kind, value, last seen) of those who are not yet flagged and have come often enough."""
    sender, identity = settings.sender, SenderIdentity
    query = select(identity.kind, identity.value, identity.last_seen).where(
        identity.trap_messages > 0,
        # A domain for which SPF passed may be shared by all customers of a hoster: it is not
        # listed.
        identity.kind != str(IdentityKind.SPF),
        identity.repeat.is_(False),
        identity.messages >= sender.repeat_messages,
        identity.days >= sender.repeat_messages,
        identity.last_seen - identity.first_seen >= sender.repeat_span,
    )
    recent = query.where(identity.last_seen >= since)
    if touched is None:
        yield from ((kind, value, at) for kind, value, at in connection.execute(recent))
        return
    found = connection.execute(recent.limit(MANY + 1)).all()
    if len(found) <= MANY:
        yield from ((kind, value, at) for kind, value, at in found if (kind, value) in touched)
        return
    # With an old log `since` is long ago, and too many match: ask for the batch's own identities.
    for kind in sorted({kind for kind, _ in touched}):
        mine = query.where(identity.kind == kind)
        for part in chunks(value for other, value in touched if other == kind):
            of_part = connection.execute(mine.where(identity.value.in_(part)))
            yield from ((kind, value, at) for kind, value, at in of_part)


def repeating(connection: Connection) -> list[tuple[str, str]]:
    """(kind, value) of every repeat sender."""
    return [
        (kind, value)
        for kind, value in connection.execute(
            select(SenderIdentity.kind, SenderIdentity.value).where(
                SenderIdentity.trap_messages > 0, SenderIdentity.repeat.is_(True)
            )
        )
    ]
