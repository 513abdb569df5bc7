"""What can be done from a row of the live page. Each action is one transaction and one log line.

The log line names the action and its object; who did it is whoever may reach the socket.
"""

import logging

from sqlalchemy import Connection, select, update

from gatepost_policy import listings, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import IdentityKind
from gatepost_policy.store.tables import SenderIdentity
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural

log = logging.getLogger("gatepost.web")
NOTE_MAX = 500


def act(
    connection: Connection, name: str, value: str, note: str, at: float, settings: Settings
) -> str:
    """Carry out one action; returns what was done, in words. Raises ValueError for a bad object."""
    note = note.strip()[:NOTE_MAX]
    match name:
        case "list":
            identity = listings.identify(value)
            if identity.kind is IdentityKind.SENDER:
                raise ValueError(
                    "want a client address, a prefix or a domain: an address is a claim"
                )
            seconds = settings.sender.listing_first
            listings.punish(connection, identity, seconds=seconds, at=at, note=note)
            done = f"{identity.value} is listed for {plural(seconds // 3600, 'hour')}"
        case "forgive":
            identity = listings.identify(value)
            count = listings.forgive(connection, identity, at=at, note=note)
            done = f"{plural(count, 'listing')} of {identity.value} lifted"
        case "trap":
            added = traps.add(connection, value, at=at, source="web", note=note)
            done = f"{value} is a trap" if added else f"{value} was a trap already"
        case "note":
            count = set_note(connection, value, note)
            if not count:
                raise ValueError("want a sender that was seen before")
            done = f"note on {value} kept"
        case _:
            raise ValueError("want list, forgive, trap or note")
    log.info('action=%s object="%s" note="%s"', name, shown(value), shown(note))
    return done


def set_note(connection: Connection, value: str, note: str) -> int:
    """Keep `note` with every identity of this value; returns how many there are."""
    return connection.execute(
        update(SenderIdentity)
        .where(SenderIdentity.value.in_(_values(value)))
        .values(note=note or None)
    ).rowcount


def notes(connection: Connection, value: str) -> list[str]:
    """The notes on a sender, client or domain, each once."""
    found = connection.execute(
        select(SenderIdentity.note)
        .where(SenderIdentity.value.in_(_values(value)), SenderIdentity.note.is_not(None))
        .distinct()
    )
    return [str(note) for (note,) in found]


def _values(value: str) -> list[str]:
    """How the identities that `value` may mean are written in the store."""
    try:
        return [listings.identify(value).value]
    except ValueError:
        return [address.parse(value).key]
