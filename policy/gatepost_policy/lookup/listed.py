"""The listings as they are published: a large sorted file, and what has changed since it was made.

There may be hundreds of thousands of them after a storm, and each hit changes one. So the large
file is rarely made anew: changes are read from `listing_change` by their number, put into a small
table beside the large one, and merged into it when they are many.

The numbers are 64-bit keyed hashes of `kind NUL value`, the ends are Unix seconds, 0 for "not
listed".
"""

import secrets
from array import array
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, func, select

from gatepost_policy.listings import without_effect
from gatepost_policy.lookup.snapshot import LISTED_HEAD, MAGIC_LISTED, Hash
from gatepost_policy.store.sqltext import chunks, execute
from gatepost_policy.store.tables import Listing, ListingChange

# With more changes than this beside the large file, it is made anew from both.
DELTA_MAX = 2_000
# Seconds after which the large file is read anew from the store, without ended listings.
REBUILD_S = 86_400.0
# How many changes before `mark` are read again. PostgreSQL gives numbers before a commit: a change
# of another host may become visible after one with a larger number. SQLite has one writer at a
# time: there only the newest is read again, to see that it is the same store.
OVERLAP = {"sqlite": 1, "postgresql": 1_000}


@dataclass(slots=True)
class State:
    """What is published. `base` is a random number that names the large file, `mark` the number of
    the newest change in it, `built` when the store was last read whole (Unix seconds). `v4_bits`
    and `v6_bits` are the prefix lengths that are listed.
    """

    base: int
    built: float
    mark: int
    numbers: "array[int]"  # of the changes, sorted
    ends: "array[float]"
    v4_bits: set[int]
    v6_bits: set[int]
    by_sender: bool
    by_author: bool
    left_out: list[str] = field(default_factory=list)  # listings that cannot be, and why

    def meta(self) -> dict[str, Any]:
        """What the small file (the head) says of it, for JSON."""
        return {
            "listed": self.base,
            "listed_built": self.built,
            "listed_mark": self.mark,
            "v4_bits": sorted(self.v4_bits, reverse=True),
            "v6_bits": sorted(self.v6_bits, reverse=True),
            "by_sender": self.by_sender,
            "by_author": self.by_author,
        }

    def takes(self, kind: str, value: str) -> bool:
        """Note what a reader has to look for: this prefix length, senders, or authors.

        False for a row that was made by hand and that nobody can be looked up under: it is named,
        and the others are published.
        """
        if (why := without_effect(kind, value)) is not None:
            self.left_out.append(why)
            return False
        if kind in ("prefix", "promoted"):
            bits = int(value.rpartition("/")[2])
            (self.v6_bits if ":" in value else self.v4_bits).add(bits)
        self.by_sender = self.by_sender or kind == "sender"
        self.by_author = self.by_author or kind == "author"
        return True


def newest_change(connection: Connection) -> int:
    """The number of the newest change; 0 where there is none."""
    return connection.scalar(select(func.max(ListingChange.id))) or 0


def whole(connection: Connection, hashed: Hash, now: float) -> tuple[State, "list[Any]"]:
    """The state with all listings that hold at `now` (Unix seconds), and the parts of the large
    file.
    """
    state = State(
        base=secrets.randbits(53), built=now, mark=newest_change(connection), numbers=array("Q"),
        ends=array("d"), v4_bits=set(), v6_bits=set(), by_sender=False, by_author=False,
    )  # fmt: skip
    rows = connection.execute(
        select(Listing.kind, Listing.value, func.max(Listing.until))
        .where(Listing.until > now, Listing.forgiven.is_(None))
        .group_by(Listing.kind, Listing.value),
        execution_options={"yield_per": 5_000},
    )
    # Kept in arrays by first octet: a pair takes sixteen octets of memory, not two hundred.
    keys = [array("Q") for _ in range(256)]
    ends = [array("d") for _ in range(256)]
    for kind, value, until in rows:
        if not state.takes(kind, value):
            continue
        number = hashed(f"{kind}\0{value}")
        keys[number >> 56].append(number)
        ends[number >> 56].append(until)
    numbers, untils = array("Q"), array("d")
    for mine, until_of in zip(keys, ends, strict=True):
        order = sorted(range(len(mine)), key=mine.__getitem__)
        numbers.extend(mine[i] for i in order)
        untils.extend(until_of[i] for i in order)
    return state, [head(state.base, len(numbers)), numbers, untils]


def head(base: int, count: int) -> bytes:
    """The first octets of the large file."""
    return LISTED_HEAD.pack(MAGIC_LISTED, base, count)


def step(connection: Connection, state: State, hashed: Hash, now: float) -> bool:
    """Take the changes since `state` into it. False where the store must be read whole: too many
    changes, the last reading too old, or another store.
    """
    limit = DELTA_MAX * 10
    after = state.mark - OVERLAP[connection.dialect.name]
    sql = "SELECT id, kind, value FROM listing_change WHERE id > ? ORDER BY id LIMIT ?"
    rows = execute(connection, sql, (after, limit + 1)).all()
    if len(rows) > limit or now - state.built > REBUILD_S:
        return False
    newest = max((row.id for row in rows), default=0)
    if newest < state.mark:
        return False  # another store, or an older copy of it
    kinds: dict[str, set[str]] = {}
    for row in rows:
        kinds.setdefault(row.kind, set()).add(row.value)
    fresh: dict[int, float] = {}
    for kind, values in kinds.items():
        for value in values:
            fresh[hashed(f"{kind}\0{value}")] = 0.0
        for part in chunks(sorted(values)):
            sql = (
                "SELECT value, max(until) FROM listing WHERE kind = ? AND until > ?"
                f" AND forgiven IS NULL AND value IN ({', '.join('?' * len(part))}) GROUP BY value"
            )
            for value, until in execute(connection, sql, (kind, now, *part)):
                if state.takes(kind, value):
                    fresh[hashed(f"{kind}\0{value}")] = float(until)
    state.mark = newest
    if fresh:
        both = dict(zip(state.numbers, state.ends, strict=True)) | fresh
        state.numbers = array("Q", sorted(both))
        state.ends = array("d", [both[number] for number in state.numbers])
    return True


def merged(state: State, base: Any, untils: Any) -> "list[Any]":
    """The parts of a new large file made from the old one and the changes; `state` has no changes
    left.

    Whole slices are copied: half a million listings take some milliseconds.
    """
    numbers, ends = array("Q"), array("d")
    start = 0
    for number, end in zip(state.numbers, state.ends, strict=True):
        place = bisect_left(base, number, start)
        numbers.frombytes(base[start:place].tobytes())
        ends.frombytes(untils[start:place].tobytes())
        start = place
        if place < len(base) and base[place] == number:
            start = place + 1
        if end:
            numbers.append(number)
            ends.append(end)
    numbers.frombytes(base[start:].tobytes())
    ends.frombytes(untils[start:].tobytes())
    state.base = secrets.randbits(53)
    state.numbers, state.ends = array("Q"), array("d")
    return [head(state.base, len(numbers)), numbers, ends]
