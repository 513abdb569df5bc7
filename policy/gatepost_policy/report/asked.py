"""Find out what a pasted text is: an address, domain, IP address, prefix, host name, queue id,
Message-ID or trap.

How it works: by its form a text may be several of these (`candidates`, pure). Each is looked up in
the store, in that order; the first one that has a message is taken, and the others are named beside
it. Where none has a message, the answer says so, and what was looked for. Quotes, a display name, a
log's `client=` and the like are removed where the text itself is none of these.

Limits: a trap that is a pattern is not found by the pattern, only by an address that it matched.
"""

import re
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, or_, select

from gatepost_policy.mail.address import canonical_domain, parse
from gatepost_policy.mail.index_key import clean
from gatepost_policy.report import messages, pasted, selection
from gatepost_policy.report.conditions import TooWide
from gatepost_policy.report.selection import Selection
from gatepost_policy.store.tables import TrapRow
from gatepost_policy.system.dataclass import dataclass

LONGEST = 1_000  # characters; a longer text is none of these
_LABEL = r"(?!-)[^\s@<>/:;,\[\]()\"\\]+"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?\Z")
_QUOTED = re.compile(r'\A"(?:[^"\\]|\\.)*"')
_BLANK = re.compile(r"[\s<>]")
WANTED = (
    "want an address, a domain, an IP address, a prefix, a host name, a queue id or a Message-ID"
)
# Postfix (short and long), Exim (old and new), Sendmail.
_QUEUE_ID = re.compile(r"[0-9A-Za-z]{5,24}(-[0-9A-Za-z]{4,11}-[0-9A-Za-z]{2,4})?\Z", re.ASCII)


class Kind(StrEnum):
    """What a text can be. The value is the word that is printed for it."""

    TRAP = "trap"
    SENDER = "sender"
    DOMAIN = "domain"
    HOST = "address of a client"
    PREFIX = "prefix"
    NAME = "host name"
    RECIPIENT = "recipient"
    QUEUE_ID = "queue id"
    MESSAGE_ID = "Message-ID"


@dataclass(frozen=True, slots=True)
class Asked:
    """What a text was found to be. `known`: the store has a message of it, or it is a trap.

    `also`: the other kinds that it is too; `tried`: all kinds that were looked for.
    """

    text: str
    kind: Kind
    selection: Selection
    known: bool
    also: tuple[Kind, ...] = ()
    tried: tuple[Kind, ...] = ()

    @property
    def message(self) -> bool:
        """True where the text names a single message."""
        return self.kind in (Kind.QUEUE_ID, Kind.MESSAGE_ID)

    @property
    def article(self) -> str:
        """The kind with its article, such as `a domain`."""
        return _a(self.kind)

    def json(self) -> dict[str, Any]:
        """As in the report's `asked`."""
        return {
            "text": self.text,
            "kind": self.kind.value,
            "known": self.known,
            "also": [kind.value for kind in self.also],
            "looked_for_as": [kind.value for kind in self.tried],
        }

    @property
    def sentence(self) -> str:
        """What it is, in words."""
        if not self.known:
            return f"nothing is known of it (looked for as {_or(self.tried)})"
        also = f", and {_or(self.also, 'and')} as well" if self.also else ""
        return f"{_a(self.kind)}{also}"


def _a(kind: Kind) -> str:
    return f"{'an' if kind is Kind.HOST else 'a'} {kind}"


def _or(kinds: tuple[Kind, ...], word: str = "or") -> str:
    names = [_a(kind) for kind in kinds]
    return f" {word} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def candidates(text: str, base: Selection) -> list[tuple[Kind, Selection]]:
    """What `text` may be by its form, the likeliest first: (kind, selection of its messages). Pure.

    The text itself comes first, then the text without quotes, names and the like. Raises ValueError
    where it is none of these.
    """
    text = clean(text).strip()
    if not text or len(text) > LONGEST:
        raise ValueError(WANTED)
    found: list[tuple[Kind, Selection]] = []
    for reading in pasted.readings(text):
        with suppress(ValueError):
            found += [one for one in _as_it_stands(reading, base) if one not in found]
    if not found:
        printable = text.isprintable()
        raise ValueError(
            f"{text!r} is no address, domain, IP address, queue id or Message-ID"
            if printable
            else WANTED
        )
    return found


def _as_it_stands(text: str, base: Selection) -> list[tuple[Kind, Selection]]:
    """What `text` itself may be. Raises ValueError where it is none of these."""
    if not text.isprintable():
        raise ValueError(WANTED)
    network = _network(text)
    if network is not None:
        return [(network, replace(base, host=selection.host(text)))]
    if text == "<>":
        return [(Kind.SENDER, replace(base, sender=text))]
    bare = text[1:-1] if text.startswith("<") and text.endswith(">") else text
    found: list[tuple[Kind, Selection]] = []
    if "@" in bare:
        address = parse(bare)
        if not address.domain or _BLANK.search(_QUOTED.sub("", bare)):
            raise ValueError(WANTED)
        found.append((Kind.TRAP, replace(base, trap=address)))
        if address.local and address.domain:
            found.append((Kind.SENDER, replace(base, sender=bare)))
            found.append((Kind.RECIPIENT, replace(base, trap=address)))
        elif address.domain:
            found.append((Kind.DOMAIN, replace(base, sender=address.domain)))
        found += [(Kind.MESSAGE_ID, replace(base, message_id=each)) for each in (f"<{bare}>", bare)]
        return found
    if _QUEUE_ID.match(bare) and "." not in bare:
        found.append((Kind.QUEUE_ID, replace(base, queue_id=bare)))
    if _DOMAIN.match(bare):
        name = canonical_domain(bare)
        found.append((Kind.DOMAIN, replace(base, sender=bare)))
        found.append((Kind.NAME, replace(base, name=name)))
    return found


def _network(text: str) -> Kind | None:
    try:
        network = selection.host(text)
    except ValueError:
        return None
    return Kind.HOST if network.prefixlen == network.max_prefixlen else Kind.PREFIX


def ask(connection: Connection, text: str, base: Selection) -> Asked:
    """What `text` is, by the store; `base` holds the filters. Raises ValueError where it is nothing
    that can be looked up, and SQLAlchemyError."""
    given = candidates(text, base)
    known = [(kind, chosen) for kind, chosen in given if _known(connection, kind, chosen)]
    tried = tuple(dict.fromkeys(kind for kind, _ in given))
    if not known:
        kind, chosen = given[0] if len(given) == 1 else _likeliest(given)
        return Asked(text, kind, chosen, False, tried=tried)
    kind, chosen = known[0]
    # Not "recipient" beside "trap": every trap is one.
    others = (k for k, _ in known[1:] if (kind, k) != (Kind.TRAP, Kind.RECIPIENT) and k != kind)
    return Asked(text, kind, chosen, True, tuple(dict.fromkeys(others)), tried)


def _likeliest(given: list[tuple[Kind, Selection]]) -> tuple[Kind, Selection]:
    """The candidate to name where the store knows none."""
    order = (Kind.SENDER, Kind.DOMAIN, Kind.QUEUE_ID, *Kind)
    return min(given, key=lambda one: order.index(one[0]))


def _known(connection: Connection, kind: Kind, chosen: Selection) -> bool:
    if kind is Kind.TRAP:
        return _is_trap(connection, chosen)
    try:
        return bool(messages.newest(connection, chosen, 1))
    except TooWide:
        return True


def _is_trap(connection: Connection, chosen: Selection) -> bool:
    """True where it is, or was, an exact trap, or in a domain that is one."""
    address = chosen.trap
    assert address is not None
    key = clean(address.trap_key)
    domain = f"@{address.domain}"
    wanted = TrapRow.key.in_((key, domain) if address.local else (domain,))
    found = select(TrapRow.id).where(wanted, or_(TrapRow.kind == "exact", TrapRow.kind == "domain"))
    return connection.scalar(found.limit(1)) is not None
