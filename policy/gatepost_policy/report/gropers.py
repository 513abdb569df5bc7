"""Hosts that try logins: how many names, in which order, over which time, and mail to traps.

Read from the tables `groper` and `mined`, which imports and `milterctl watch` fill; users who
mistype are not in them (`importers.guessing`). Where the times of two sources overlap they may have
read the same lines, so the larger number is taken, else the sum: figures are lower bounds.
"""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection

from gatepost_policy.store import sqltext
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.traps.mined import Walk

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Groper:
    """One host, an IPv4 /32 or an IPv6 /64 in CIDR notation. Times are Unix seconds.

    `names` counts all names it tried, existing ones too. `alphabetical`: it tried names in
    alphabetical order, alone or with others (`Gropers.walks`).
    """

    prefix: str
    attempts: int
    names: int
    first: float
    last: float
    alphabetical: bool = False
    trap_messages: int = 0

    def json(self) -> Json:
        """The object in the JSON's `hosts`; times as ISO 8601 in UTC."""
        out = asdict(self)
        out["first_seen"] = timestamp(out.pop("first"))
        out["last_seen"] = timestamp(out.pop("last"))
        return out


@dataclass(frozen=True, slots=True)
class Gropers:
    """All hosts that tried logins, those with most attempts first."""

    hosts: tuple[Groper, ...]
    names: int  # different names that do not exist
    walks: tuple["Walk", ...]

    @property
    def attempts(self) -> int:
        """Attempts of all hosts."""
        return sum(one.attempts for one in self.hosts)

    @property
    def first(self) -> float | None:
        """When the first attempt was, in Unix seconds; None without hosts."""
        return min((one.first for one in self.hosts), default=None)

    @property
    def last(self) -> float | None:
        """When the newest attempt was, in Unix seconds; None without hosts."""
        return max((one.last for one in self.hosts), default=None)

    @property
    def trapped(self) -> int:
        """How many of the hosts have mailed a trap as well."""
        return sum(one.trap_messages > 0 for one in self.hosts)

    def summary(self) -> Json:
        """Everything but the hosts."""
        first, last = self.first, self.last
        return {
            "attempts": self.attempts,
            "hosts": len(self.hosts),
            "names": self.names,
            "first_seen": None if first is None else timestamp(first),
            "last_seen": None if last is None else timestamp(last),
            "most": self.hosts[0].json() if self.hosts else None,
            "fewest": self.hosts[-1].json() if self.hosts else None,
            "hosts_that_mailed_traps": self.trapped,
            "walks": [one.sentence for one in self.walks],
        }

    def json(self) -> Json:
        """As `report --gropers --format json` prints it."""
        return {"summary": self.summary(), "hosts": [one.json() for one in self.hosts]}


def read(connection: Connection, since: float | None = None, until: float | None = None) -> Gropers:
    """Who tried logins from `since` on, before `until` (Unix seconds). Raises SQLAlchemyError."""
    sql = (
        "SELECT prefix, first_at, last_at, attempts, names FROM groper"
        " WHERE last_at >= ? AND first_at < ? ORDER BY first_at, last_at, import_id"
    )
    span = (-1.0 if since is None else since, 1e18 if until is None else until)
    found: dict[str, Groper] = {}
    for row in sqltext.execute(connection, sql, span):
        one = Groper(row.prefix, row.attempts, row.names, row.first_at, row.last_at)
        before = found.get(one.prefix)
        found[one.prefix] = one if before is None else _both(before, one)
    if not found:
        return Gropers((), 0, ())
    from gatepost_policy.traps import mined  # loaded where there are any: each report looks

    walks = mined.login_walks(connection, since, until)
    walking = {prefix for one in walks for prefix in one.prefixes}
    trapped = _trap_messages(connection, found)
    hosts = [
        replace(one, alphabetical=name in walking, trap_messages=trapped.get(name, 0))
        for name, one in found.items()
    ]
    hosts.sort(key=lambda one: (-one.attempts, -one.names, one.first, one.prefix))
    sql = (
        "SELECT count(DISTINCT address) FROM mined"
        " WHERE kind = 'login' AND last_at >= ? AND first_at < ?"
    )
    names = int(sqltext.execute(connection, sql, span).scalar_one())
    return Gropers(tuple(hosts), names, tuple(walks))


def _both(one: Groper, other: Groper) -> Groper:
    """One host's figures from two sources as one; `other` does not begin before `one`."""
    again = other.first <= one.last
    attempts = max(one.attempts, other.attempts) if again else one.attempts + other.attempts
    return Groper(
        one.prefix, attempts, max(one.names, other.names), one.first, max(one.last, other.last)
    )


def _trap_messages(connection: Connection, prefixes: Iterable[str]) -> dict[str, int]:
    """{prefix: messages to traps}, for those of `prefixes` that sent any."""
    found: dict[str, int] = {}
    for part in sqltext.chunks(sorted(prefixes)):
        marks = ", ".join("?" * len(part))
        sql = (
            "SELECT value, trap_messages FROM identity"
            f" WHERE kind = 'prefix' AND trap_messages > 0 AND value IN ({marks})"
        )
        for row in sqltext.execute(connection, sql, tuple(part)):
            found[row.value] = int(row.trap_messages)
    return found
