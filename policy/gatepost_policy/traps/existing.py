"""Which addresses exist, as far as the store knows: they had mail, or wrote what was accepted.

A name without a domain, as logins have it, exists where it is the local part of an address that
does. Recipients are kept for `retention.recipients`. That an address was accepted after it had been
tried as unknown is kept for longer (`mined`, kind accepted).
"""

from collections.abc import Iterable, Iterator

from sqlalchemy import Connection

from gatepost_policy.mail import index_key
from gatepost_policy.mail.address import Address
from gatepost_policy.store import sqltext

# SQL: message m was accepted for its recipient r. Stage rcpt does not count: after the policy
# service, the MTA may still refuse an unknown user. Nor does mail to a trap.
HAD_MAIL = "m.direction = 'inbound' AND m.stage = 'end' AND r.accepted AND NOT r.trap"
_FROM = "FROM recipient r JOIN message m ON m.id = r.message_id"
MANY = 1_000  # names without a domain
SHORTEST = 3  # characters of a local part: shorter ones are too often one edit apart


def had_mail(connection: Connection, names: Iterable[str]) -> dict[str, float]:
    """When mail was last accepted for each of `names` (Unix seconds); a name without any is left
    out.
    """
    found: dict[str, float] = {}
    full, bare = _sorted(names)
    for part in sqltext.chunks(full):
        marks = ", ".join("?" * len(part))
        for sql in (
            f"SELECT r.trap_key AS name, MAX(m.at) AS last {_FROM}"
            f" WHERE r.trap_key IN ({marks}) AND {HAD_MAIL} GROUP BY r.trap_key",
            "SELECT address AS name, MAX(last_at) AS last FROM mined"
            f" WHERE address IN ({marks}) AND kind = 'accepted' GROUP BY address",
        ):
            for row in sqltext.execute(connection, sql, tuple(part)):
                found[row.name] = max(row.last, found.get(row.name, row.last))
    if len(bare) > MANY:
        # One statement for each name would cost more than reading all addresses once.
        wanted = set(bare)
        sql = f"SELECT r.trap_key AS name, MAX(m.at) AS last {_FROM} WHERE {HAD_MAIL} GROUP BY 1"
        for row in sqltext.execute(connection, sql):
            local = row.name.rpartition("@")[0]
            if local in wanted:
                found[local] = max(row.last, found.get(local, row.last))
        return found
    for name in bare:
        # "A" comes after "@" in the index: this range has every address with this local part.
        sql = f"SELECT MAX(m.at) {_FROM} WHERE r.trap_key >= ? AND r.trap_key < ? AND {HAD_MAIL}"
        last = sqltext.execute(connection, sql, (f"{name}@", f"{name}A")).scalar()
        if last is not None:
            found[name] = float(last)
    return found


def wrote(connection: Connection, names: Iterable[str]) -> set[str]:
    """Those of `names` that accepted mail named as its envelope sender or author."""
    full, _ = _sorted(names)
    keys: dict[str, str] = {}
    for name in full:
        local, _, domain = name.rpartition("@")
        keys[index_key.address_key(Address(name, local, domain))] = name
    found: set[str] = set()
    for part in sqltext.chunks(sorted(keys)):
        marks = ", ".join("?" * len(part))
        sql = (
            "SELECT DISTINCT d.reversed FROM message_domain d JOIN message m ON m.id = d.message_id"
            f" WHERE d.reversed IN ({marks}) AND m.action = 'accept' AND m.stage = 'end'"
        )
        found.update(keys[key] for key in sqltext.execute(connection, sql, tuple(part)).scalars())
    return found


def near(connection: Connection, names: Iterable[str]) -> dict[str, str]:
    """For each of `names` that is one edit away from an address that exists: that address.

    An edit is a letter too many, missing, wrong, or two neighbours that changed places.
    """
    index: dict[str, list[str]] = {}
    for name in names:
        local = name.rpartition("@")[0] or name
        if len(local) >= SHORTEST:
            for short in _shortened(local):
                index.setdefault(short, []).append(name)
    found: dict[str, str] = {}
    if not index:
        return found
    sql = f"SELECT DISTINCT r.trap_key {_FROM} WHERE {HAD_MAIL}"
    for address in sqltext.execute(connection, sql).scalars():
        local, _, domain = address.rpartition("@")
        for short in _shortened(local):
            for name in index.get(short, ()):
                wanted, at, place = name.rpartition("@") if "@" in name else (name, "", "")
                if (not at or place == domain) and one_edit(wanted, local):
                    found.setdefault(name, address)
    return found


def exist(connection: Connection, names: Iterable[str]) -> set[str]:
    """Those of `names` that exist, or are one edit away from an address that does."""
    wanted = set(names)
    there = set(had_mail(connection, wanted)) | wrote(connection, wanted)
    return there | set(near(connection, wanted - there))


def one_edit(one: str, other: str) -> bool:
    """True where exactly one edit makes `other` of `one`."""
    if one == other or abs(len(one) - len(other)) > 1:
        return False
    start = index_key.common(one, other)
    a, b = one[start:], other[start:]
    if len(a) == len(b):
        swapped = len(a) > 1 and (a[0], a[1]) == (b[1], b[0]) and a[2:] == b[2:]
        return a[1:] == b[1:] or swapped
    return a[1:] == b if len(a) > len(b) else b[1:] == a


def _shortened(local: str) -> Iterator[str]:
    """`local`, and `local` without each of its letters: two names one edit apart have one in
    common.
    """
    yield local
    yield from {local[:at] + local[at + 1 :] for at in range(len(local))}


def _sorted(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """`names` sorted: (those with a domain, those without)."""
    every = sorted(set(names))
    return [n for n in every if "@" in n], [n for n in every if "@" not in n]
