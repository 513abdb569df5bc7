"""Addresses that senders tried and that do not exist: which of them would make good traps.

Read from the table `mined`, which imports and `milterctl watch` write, each source in rows of its
own. Two sources that cover the same time may have read the same log, so the larger number counts;
otherwise the sum. So the number of hits means "at least".
"""

import json
import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from fnmatch import translate

from sqlalchemy import Connection

from gatepost_policy.mail import walks
from gatepost_policy.mail.walks import Step
from gatepost_policy.store import sqltext
from gatepost_policy.store.guess_tables import MAX_ROWS
from gatepost_policy.text.times import timestamp
from gatepost_policy.traps import existing
from gatepost_policy.traps.names import classify

DAY = 86_400.0
# RFC 2142: names that every site is expected to have, so people write to them in good faith.
ROLES = frozenset(
    (
        "info", "marketing", "sales", "support", "abuse", "noc", "security", "postmaster",
        "hostmaster", "usenet", "news", "webmaster", "www", "uucp", "ftp", "list",
    )
)  # fmt: skip
# How an address was tried; the first that applies goes into the trap's provenance.
KINDS = ("rcpt", "login", "backscatter")


@dataclass(frozen=True, slots=True)
class Walk:
    """Names that were tried in alphabetical order. Times are Unix seconds."""

    kind: str
    names: int
    hosts: int
    first: str
    last: str
    since: float
    until: float
    prefixes: frozenset[str]

    @property
    def sentence(self) -> str:
        """The walk in one line, as it is printed."""
        return (
            f"{self.hosts} hosts worked through {self.names} names in alphabetical order,"
            f" {self.first} to {self.last}, from {timestamp(self.since)[:10]}"
            f" to {timestamp(self.until)[:10]}"
        )


@dataclass(slots=True)
class Candidate:
    """An address that was tried, and what speaks for and against it as a trap. Times are Unix
    seconds.

    `kind` is pristine, typo (of `near`), recycled (had mail until `accepted`) or role (RFC 2142).
    """

    address: str  # without a domain where it is not known
    kinds: tuple[str, ...]
    kind: str = "pristine"
    first: float = 0.0
    last: float = 0.0
    hits: int = 0
    hosts: dict[str, tuple[float, float]] = field(default_factory=dict)
    near: str | None = None
    accepted: float | None = None
    walk: Walk | None = None
    position: int | None = None  # in the walk, from 1

    @property
    def days(self) -> int:
        """On how many UTC days it was tried, at least."""
        spans = [*self.hosts.values(), (self.first, self.last)]
        return len({at // DAY for span in spans for at in span})

    @property
    def proposed(self) -> bool:
        """True where it is proposed as a trap."""
        return self.kind == "pristine" and "@" in self.address

    @property
    def source(self) -> str:
        """The provenance of the trap."""
        return f"mined:{next(kind for kind in KINDS if kind in self.kinds)}"


@dataclass(frozen=True, slots=True)
class Mined:
    """All candidates, and how many names were left out: existing addresses, traps, other
    domains.
    """

    candidates: tuple[Candidate, ...]
    walks: tuple[Walk, ...]
    existing: int
    traps: int
    elsewhere: int  # in a domain that is not ours
    known_since: float | None  # since when accepted mail has been recorded (Unix seconds)


@dataclass(slots=True)
class _Told:
    """One address, tried in one way: what all sources say together."""

    first: float
    last: float
    hits: int
    until: float  # of the newest source counted
    hosts: dict[str, tuple[float, float]]


def candidates(
    connection: Connection,
    own: Collection[str],
    *,
    since: float | None = None,
    domain: str | None = None,
) -> Mined:
    """What was tried, from `since` on (Unix seconds). Raises SQLAlchemyError.

    `own` are our domains; `domain` is added to logins without one (None: our domain, if there is
    only one).
    """
    told = _read(connection, since)
    ours = {name.rpartition("@")[2] for name, kind in told if kind != "login"} | set(own)
    if domain is not None:
        ours.add(domain)
    elif len(ours) == 1:
        domain = next(iter(ours))
    found: dict[str, Candidate] = {}
    elsewhere: set[str] = set()
    placed: dict[tuple[str, str], str] = {}
    for (name, kind), one in told.items():
        full = name if "@" in name or domain is None else f"{name}@{domain}"
        if "@" in full and (full.rpartition("@")[2] not in ours or not _can_be_one(full)):
            elsewhere.add(full)
            continue
        placed[name, kind] = full
        mine = found.setdefault(full, Candidate(full, (), first=one.first, last=one.last))
        mine.kinds = tuple(k for k in KINDS if k in (*mine.kinds, kind))
        mine.first, mine.last = min(mine.first, one.first), max(mine.last, one.last)
        mine.hits += one.hits
        _join(mine.hosts, one.hosts.items())
    trapped = _trapped(connection, found)
    accepted = existing.had_mail(connection, found)
    there = {name for name, at in accepted.items() if at >= found[name].last}
    there |= existing.wrote(connection, found)
    there |= {name for name in accepted if "@" not in name}
    for name in trapped | there:
        del found[name]
    near = existing.near(connection, found)
    for name, mine in found.items():
        local = name.rpartition("@")[0] or name
        mine.near, mine.accepted = near.get(name), accepted.get(name)
        if mine.accepted is not None:
            mine.kind = "recycled"
        elif local in ROLES or local.endswith("-request"):
            mine.kind = "role"
        elif mine.near is not None:
            mine.kind = "typo"
    walks = list(_walks(told, placed, found))
    sql = "SELECT MIN(learned) FROM message WHERE id >= (SELECT MIN(message_id) FROM recipient)"
    known = sqltext.execute(connection, sql).scalar()
    return Mined(
        candidates=tuple(found[name] for name in sorted(found)),
        walks=tuple(walks),
        existing=len(there - trapped),
        traps=len(trapped),
        elsewhere=len(elsewhere),
        known_since=None if known is None else float(known),
    )


def full(connection: Connection) -> bool:
    """True where the table `mined` has reached MAX_ROWS."""
    there = sqltext.execute(connection, "SELECT count(*) FROM mined").scalar_one()
    return int(there) >= MAX_ROWS


def login_walks(connection: Connection, since: float | None, until: float | None) -> list[Walk]:
    """The walks among logins alone, from `since` to `until` (Unix seconds, None: no limit), for the
    report.
    """
    told = {key: one for key, one in _read(connection, since).items() if key[1] == "login"}
    if until is not None:
        told = {key: one for key, one in told.items() if one.first < until}
    return list(_walks(told, {key: key[0] for key in told}, {}))


def _read(connection: Connection, since: float | None) -> dict[tuple[str, str], _Told]:
    told: dict[tuple[str, str], _Told] = {}
    sql = (
        "SELECT address, kind, first_at, last_at, hits, hosts FROM mined"
        " WHERE kind <> 'accepted' AND last_at >= ? ORDER BY first_at, last_at, import_id"
    )
    for row in sqltext.execute(connection, sql, (-1.0 if since is None else since,)):
        hosts = {prefix: (first, last) for prefix, first, last in json.loads(row.hosts)}
        key = (str(row.address), str(row.kind))
        one = told.get(key)
        if one is None:
            told[key] = _Told(row.first_at, row.last_at, row.hits, row.last_at, hosts)
            continue
        again = row.first_at <= one.until
        one.hits = max(one.hits, row.hits) if again else one.hits + row.hits
        one.last = one.until = max(one.last, row.last_at)
        _join(one.hosts, hosts.items())
    return told


def _join(
    hosts: dict[str, tuple[float, float]], more: Iterable[tuple[str, tuple[float, float]]]
) -> None:
    for prefix, (first, last) in more:
        before = hosts.get(prefix, (first, last))
        hosts[prefix] = min(before[0], first), max(before[1], last)


def _can_be_one(name: str) -> bool:
    try:
        return classify(name)[0] == "exact" or name.partition("@")[0] in ROLES
    except ValueError:
        return name.partition("@")[0] in ROLES


def _trapped(connection: Connection, names: Collection[str]) -> set[str]:
    """Those of `names` that are traps, or were traps and were removed by hand."""
    found: set[str] = set()
    for part in sqltext.chunks(sorted(names)):
        marks = ", ".join("?" * len(part))
        sql = f"SELECT key FROM trap WHERE kind = 'exact' AND key IN ({marks})"
        found.update(sqltext.execute(connection, sql, tuple(part)).scalars())
    sql = "SELECT kind, key FROM trap WHERE kind <> 'exact' AND removed IS NULL"
    wide = sqltext.execute(connection, sql).all()
    domains = {row.key for row in wide if row.kind == "domain"}
    patterns = [
        re.compile(translate(r.key.replace("[", "[[]"))) for r in wide if r.kind == "pattern"
    ]
    for name in names:
        at, domain = name.rpartition("@")[1:]
        if f"{at}{domain}" in domains or any(p.match(name) for p in patterns):
            found.add(name)
    return found


def _walks(
    told: dict[tuple[str, str], _Told],
    placed: dict[tuple[str, str], str],
    found: dict[str, Candidate],
) -> Iterable[Walk]:
    """The walks of each kind; sets `walk` and `position` of the candidates in them."""
    for kind in KINDS:
        steps = [
            Step(first, prefix, placed[key])
            for key, one in told.items()
            if key[1] == kind and key in placed
            for prefix, (first, _) in one.hosts.items()
        ]
        steps.sort(key=lambda step: (step.at, step.name))
        for run in walks.walks(steps):
            told_of = _told_of(kind, run)
            for position, step in enumerate(run, 1):
                mine = found.get(step.name)
                if mine is not None and mine.walk is None:
                    mine.walk, mine.position = told_of, position
            yield told_of


def _told_of(kind: str, run: Sequence[Step]) -> Walk:
    return Walk(
        kind=kind,
        names=len(run),
        hosts=len({step.host for step in run}),
        first=run[0].name,
        last=run[-1].name,
        since=run[0].at,
        until=run[-1].at,
        prefixes=frozenset(step.host for step in run),
    )
