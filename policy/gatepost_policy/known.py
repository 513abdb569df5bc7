"""What every process knows by heart: traps, listings and repeat senders, for the rules.

How it works: the process that records (`publish`) writes two files into the state directory and
bumps a counter in a third, `known.tick`, which everybody maps. Readers compare the counter at MAIL
or at a request (a few hundred nanoseconds) and map the new files when it has moved.

* `known.traps`: the sorted 64-bit hashes of all exact traps. Large, and shared by all processes,
  because it is only mapped. Rebuilt after an import or many changes.
* `known.now`: everything small or short-lived: the few traps that came or went since then, domain
  and pattern traps, listings with their ends, repeat senders. Rebuilt with every change.

A look-up is a binary search: no list makes it slow. The hashes are keyed (BLAKE2b) with a secret
that was made on this machine, so nobody can look for two addresses that collide, and at 64 bits
chance will not: a hit needs no second look at the store (docs/decisions/0080).

Rule: a reader never writes, never raises, and never waits for the store, but for `good_messages`,
one bounded read after a trap hit that nothing proves.
"""

import json
import mmap
import os
import re
import secrets
import struct
import threading
import time
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import translate
from hashlib import blake2b
from ipaddress import ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_policy.address import NULL, Address, parse
from gatepost_policy.facts import Direction, Facts, Identity, IdentityKind
from gatepost_policy.rules import Known, Listed

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from gatepost_policy.settings import Settings

TRAPS_FILE, NOW_FILE, TICK_FILE = "known.traps", "known.now", "known.tick"
_TRAPS_HEAD = struct.Struct("=8s16sQQ")  # magic, hash key, id of this file, how many
_NOW_HEAD = struct.Struct("=8sIII4x")  # magic, octets of JSON, listings, repeat senders
_MAGIC_TRAPS, _MAGIC_NOW = b"GPTRAPS1", b"GPKNOW01"
# So many traps may come and go before the large file is written again.
MAX_DELTA = 20_000
# Another host's clock may be off by this much when a change is looked for by its time.
SLACK_S = 3_600.0
# A tick file that was replaced (state directory restored) is noticed after this long.
LOOK_AGAIN_S = 2.0
READ_TIMEOUT_MS = 250
STORE_PAUSE_S = 10.0
OPEN = ("postmaster", "abuse")


def _hasher(key: bytes) -> Any:
    base = blake2b(digest_size=8, key=key)

    def hashed(text: str) -> int:
        one = base.copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        return int.from_bytes(one.digest(), "little")

    return hashed


def _contains(numbers: Any, wanted: int) -> bool:
    index = bisect_left(numbers, wanted)
    return index < len(numbers) and numbers[index] == wanted


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of what is known. `base` is the large file's array, all else is small."""

    key: bytes = b""
    hashed: Any = None
    base_id: int = 0
    base: Any = ()
    added: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    domains: frozenset[str] = frozenset()
    patterns: tuple[tuple[str, re.Pattern[str]], ...] = ()  # (literal domain or '', regex)
    listings: Any = ()
    untils: Any = ()
    repeat: Any = ()
    v4_bits: tuple[int, ...] = ()
    v6_bits: tuple[int, ...] = ()
    by_sender: bool = False
    traps_revision: int = -1
    keep: tuple[Any, ...] = field(default=(), compare=False)  # maps that must live as long

    def is_trap(self, address: Address) -> bool:
        """True where mail to `address` is for a trap."""
        if self.hashed is None:
            return False
        key = address.trap_key
        local, _, domain = key.rpartition("@")
        if local in OPEN:
            return False
        if domain and "@" + domain in self.domains:
            return True
        if len(self.base) or self.added:
            number = self.hashed(key)
            if number in self.added:
                return True
            if _contains(self.base, number) and number not in self.gone:
                return True
        return any(
            (not literal or literal == domain) and pattern.match(key)
            for literal, pattern in self.patterns
        )

    def until(self, kind: str, value: str) -> float | None:
        """When the listing of this identity ends (Unix seconds), or None."""
        if not len(self.listings):
            return None
        number = self.hashed(f"{kind}\0{value}")
        index = bisect_left(self.listings, number)
        if index < len(self.listings) and self.listings[index] == number:
            return float(self.untils[index])
        return None

    def is_repeat(self, identity: Identity) -> bool:
        """True where this identity has a repeat sender's history."""
        return bool(len(self.repeat)) and _contains(
            self.repeat, self.hashed(f"{identity.kind}\0{identity.value}")
        )

    def listed(self, facts: Facts) -> tuple[Listed, ...]:
        """The listings that hold for these facts at `facts.at`."""
        if not len(self.listings) or facts.direction is not Direction.INBOUND:
            return ()
        found: list[Listed] = []

        def look(kind: str, identity: Identity) -> None:
            until = self.until(kind, identity.value)
            if until is not None and until > facts.at:
                found.append(Listed(identity, until, promoted=kind == "promoted"))

        ip = facts.client.address
        if ip is not None:
            for bits in self.v4_bits if ip.version == 4 else self.v6_bits:
                prefix = Identity(IdentityKind.PREFIX, _network(int(ip), ip.version, bits), True)
                look("prefix", prefix)
                if ip.version == 6 and bits in (48, 56):
                    look("promoted", prefix)
        for domain in facts.aligned_domains():
            look("dkim", Identity(IdentityKind.DKIM, domain, True))
        if self.by_sender and not facts.sender.null:
            look("sender", Identity(IdentityKind.SENDER, facts.sender.key, False))
        return tuple(found)


def _network(ip: int, version: int, bits: int) -> str:
    width = 32 if version == 4 else 128
    shift = width - bits
    first = ip >> shift << shift
    if version == 4:
        return f"{first >> 24}.{first >> 16 & 255}.{first >> 8 & 255}.{first & 255}/{bits}"
    return str(ip_network((first, bits)))


EMPTY = Snapshot()


class KnownState:
    """One process's view. Thread-safe; make it before or after a fork, use it only after.

    `state_dir` defaults to the configured one. Works, knowing nothing, where nothing has been
    published yet.
    """

    def __init__(self, settings: "Settings", state_dir: Path | None = None) -> None:
        self.settings = settings
        if state_dir is None:
            from gatepost_policy import config

            state_dir = config.state_dir(settings)
        self.state_dir = state_dir
        self._now = EMPTY
        self._tick: Any = None  # the mapped counter
        self._tick_file: tuple[int, int] | None = None  # device and inode of what is mapped
        self._seen = -1
        self._look_at = 0.0  # monotonic: when the path of the counter is looked at again
        self._lock = threading.Lock()
        self._engine: Engine | None = None
        self._pause_until = 0.0

    def current(self) -> Snapshot:
        """The newest snapshot; loads it where the counter has moved."""
        moment = time.monotonic()
        if moment >= self._look_at:
            self._look_at = moment + LOOK_AGAIN_S
            self._map_tick()
        tick = self._tick
        if tick is not None and tick[0] != self._seen:
            with self._lock:
                self._load(tick[0])
        return self._now

    def is_trap(self, address: Address) -> bool:
        """True where mail to `address` is for a trap, by the newest snapshot."""
        return self.current().is_trap(address)

    def live_traps(self, used: Mapping[str, str]) -> dict[str, str]:
        """The trap keys among the addresses that one of our own users used; each under its name."""
        now = self.current()
        found = {}
        for how, text in used.items():
            address = parse(text) if "@" in text else NULL
            if not address.null and now.is_trap(address):
                found[how] = address.trap_key
        return found

    def lookup(self, facts: Facts, *, ask_store: bool = True) -> Known:
        """What the rules need to know about `facts`. Never raises.

        With `ask_store=False` it never leaves memory, and `good_messages` stays None.
        """
        now = self.current()
        if now.hashed is None:
            return Known()
        traps = frozenset(r.address.raw for r in facts.recipients if now.is_trap(r.address))
        if facts.direction is not Direction.INBOUND:
            return Known(traps=traps)
        repeat: tuple[Identity, ...] = ()
        if len(now.repeat):
            repeat = tuple(i for i in facts.identities() if now.is_repeat(i))
        good = None
        if ask_store and traps and not facts.trusted_relay and not facts.sender.null:
            if not facts.aligned_domains():
                good = self._good_messages(facts)
        return Known(traps=traps, listed=now.listed(facts), repeat=repeat, good_messages=good)

    def _map_tick(self) -> None:
        """Map the counter, or map it again where its file was replaced."""
        path = self.state_dir / TICK_FILE
        try:
            with path.open("rb") as file:
                status = os.fstat(file.fileno())
                if (status.st_dev, status.st_ino) == self._tick_file:
                    return
                mapped = mmap.mmap(file.fileno(), 8, prot=mmap.PROT_READ)
        except (OSError, ValueError):
            self._look_at = time.monotonic() + 0.1  # nothing there yet: look again soon
            return
        self._tick_file = (status.st_dev, status.st_ino)
        self._tick = memoryview(mapped).cast("Q")
        self._seen = -1

    def _load(self, tick: int) -> None:
        if tick == self._seen:
            return  # another thread was faster
        try:
            self._now = load(self.state_dir, self._now)
        except (OSError, ValueError, KeyError, TypeError, struct.error):
            # Between two renames of the publisher, or damaged: what was known stays known, and
            # the next look tries again.
            return
        self._seen = tick

    def _good_messages(self, facts: Facts) -> int | None:
        """Good mail from this client, from the store; None where it cannot say right now."""
        prefix = facts.client.prefix
        if prefix is None or time.monotonic() < self._pause_until:
            return None
        from sqlalchemy.exc import SQLAlchemyError

        from gatepost_policy import listings

        try:
            if self._engine is None:
                self._engine = _reader(self.settings)
            with self._engine.connect() as connection:
                return listings.good_messages(connection, prefix, facts.at, self.settings)
        except (SQLAlchemyError, OSError, ValueError):
            self._pause_until = time.monotonic() + STORE_PAUSE_S
            return None


def _reader(settings: "Settings") -> "Engine":
    """An engine that only reads, gives up soon, and never creates or upgrades a store."""
    from sqlalchemy import create_engine, event

    from gatepost_policy import config

    path = config.database_path(settings)
    if path is None:
        return create_engine(
            config.store_url(settings),
            pool_size=1,
            max_overflow=1,
            pool_timeout=READ_TIMEOUT_MS / 1000,
            connect_args={
                "connect_timeout": 2,
                "options": f"-c statement_timeout={READ_TIMEOUT_MS}",
                "application_name": "gatepost",
            },
        )
    if not path.exists():
        raise OSError("no store yet")
    engine = create_engine(
        f"sqlite:///{path}",
        pool_size=1,
        connect_args={"timeout": READ_TIMEOUT_MS / 1000, "isolation_level": None},
    )

    @event.listens_for(engine, "connect")
    def set_up(dbapi: Any, record: object) -> None:
        dbapi.execute("PRAGMA query_only=ON")

    return engine


def load(state_dir: Path, old: Snapshot = EMPTY) -> Snapshot:
    """Map the published files. Raises OSError or ValueError where they are not there or broken."""
    with (state_dir / NOW_FILE).open("rb") as file:
        now = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
    magic, octets, listed, repeated = _NOW_HEAD.unpack_from(now)
    start = _NOW_HEAD.size + octets
    if magic != _MAGIC_NOW or start % 8 or len(now) != start + 16 * listed + 8 * repeated:
        raise ValueError("known.now: damaged")
    meta = json.loads(bytes(now[_NOW_HEAD.size : start]))
    middle = start + 8 * listed
    if meta["base"] == old.base_id and old.hashed is not None:
        key, hashed, base, keep = old.key, old.hashed, old.base, old.keep
    else:
        with (state_dir / TRAPS_FILE).open("rb") as file:
            large = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        magic, key, base_id, count = _TRAPS_HEAD.unpack_from(large)
        if magic != _MAGIC_TRAPS or len(large) != _TRAPS_HEAD.size + 8 * count:
            raise ValueError("known.traps: damaged")
        if base_id != meta["base"]:
            raise ValueError("known.traps: of another moment")
        base = large[_TRAPS_HEAD.size :].cast("Q")
        hashed, keep = _hasher(key), (large,)
    return Snapshot(
        key=key,
        hashed=hashed,
        base_id=meta["base"],
        base=base,
        added=frozenset(meta["added"]),
        gone=frozenset(meta["gone"]),
        domains=frozenset(meta["domains"]),
        patterns=tuple(_pattern(p) for p in meta["patterns"]),
        listings=now[start:middle].cast("Q"),
        untils=now[middle : middle + 8 * listed].cast("d"),
        repeat=now[middle + 8 * listed :].cast("Q"),
        v4_bits=tuple(meta["v4_bits"]),
        v6_bits=tuple(meta["v6_bits"]),
        by_sender=meta["by_sender"],
        traps_revision=meta["traps"],
        keep=keep,
    )


def _pattern(glob: str) -> tuple[str, re.Pattern[str]]:
    domain = glob.rpartition("@")[2]
    literal = "" if "*" in domain or "?" in domain else domain
    # `[` is legal in no unquoted address: here it is a character, not a class.
    return literal, re.compile(translate(glob.replace("[", "[[]")))


def publish(
    connection: "Connection", state_dir: Path, settings: "Settings", now: float | None = None
) -> None:
    """Write what the store knows, for all processes of this host. One publisher at a time.

    Listings that have ended at `now` (Unix seconds; None: the clock) are left out.

    Raises OSError where the files cannot be written, and what the database raises.
    """
    from gatepost_policy import listings, revision

    revision_now = revision.number(connection, "traps")
    generation = revision.number(connection, "generation")
    old = _published(state_dir)
    base: _Base | None = None
    if old is not None and old["traps"] == revision_now:
        small = {name: old[name] for name in ("added", "gone", "domains", "patterns")}
        base = _Base(old["base"], old["built"], old["generation"], bytes.fromhex(old["key"]))
    else:
        if old is not None and old["generation"] == generation:
            base = _Base(old["base"], old["built"], old["generation"], bytes.fromhex(old["key"]))
        changes = None if base is None else _changes(connection, base)
        if base is None or changes is None:
            base = _write_base(connection, state_dir, generation)
            changes = [], []
        small = {"added": changes[0], "gone": changes[1], **_globs(connection)}
    hashed = _hasher(base.key)
    holding = listings.holding(connection, time.time() if now is None else now)
    pairs = sorted((hashed(f"{kind}\0{value}"), until) for kind, value, until in holding)
    repeat = sorted({hashed(f"{k}\0{v}") for k, v in listings.repeating(connection)})
    prefixes = [value for kind, value, _ in holding if kind in ("prefix", "promoted")]
    bits = {(":" in p, int(p.rpartition("/")[2])) for p in prefixes}
    meta = {
        **small,
        "base": base.number,
        "built": base.built,
        "generation": base.generation,
        "key": base.key.hex(),
        "traps": revision_now,
        "v4_bits": sorted((b for v6, b in bits if not v6), reverse=True),
        "v6_bits": sorted((b for v6, b in bits if v6), reverse=True),
        "by_sender": any(kind == "sender" for kind, _, _ in holding),
    }
    text = json.dumps(meta).encode()
    text += b" " * (-(_NOW_HEAD.size + len(text)) % 8)
    _replace(
        state_dir / NOW_FILE,
        _NOW_HEAD.pack(_MAGIC_NOW, len(text), len(pairs), len(repeat)),
        text,
        array("Q", [number for number, _ in pairs]),
        array("d", [until for _, until in pairs]),
        array("Q", repeat),
    )
    _bump(state_dir / TICK_FILE)


@dataclass(frozen=True, slots=True)
class _Base:
    number: int
    built: float
    generation: int
    key: bytes


def _published(state_dir: Path) -> dict[str, Any] | None:
    """The small file's JSON where both files are sound, else None: all is written anew."""
    try:
        load(state_dir)
        with (state_dir / NOW_FILE).open("rb") as file:
            _, octets, _, _ = _NOW_HEAD.unpack(file.read(_NOW_HEAD.size))
            meta: dict[str, Any] = json.loads(file.read(octets))
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return None
    return meta


def _write_base(connection: "Connection", state_dir: Path, generation: int) -> _Base:
    from sqlalchemy import select

    from gatepost_policy import traps
    from gatepost_policy.tables import TrapRow

    base = _Base(secrets.randbits(53), time.time(), generation, secrets.token_bytes(16))
    keys = connection.execute(
        select(TrapRow.key).where(TrapRow.kind == "exact", traps.live()),
        execution_options={"yield_per": 10_000},
    )
    numbers = _sorted_hashes(base.key, keys.scalars())
    _replace(
        state_dir / TRAPS_FILE,
        _TRAPS_HEAD.pack(_MAGIC_TRAPS, base.key, base.number, len(numbers)),
        numbers,
    )
    return base


def _sorted_hashes(key: bytes, texts: Iterable[str]) -> "array[int]":
    hashed = _hasher(key)
    # Sorted by first octet as they come: a million numbers cost eight octets each, not fifty.
    buckets = [array("Q") for _ in range(256)]
    for text in texts:
        number = hashed(text)
        buckets[number >> 56].append(number)
    out = array("Q")
    for bucket in buckets:
        out.extend(sorted(set(bucket)))
    return out


def _changes(connection: "Connection", base: _Base) -> tuple[list[int], list[int]] | None:
    """Exact traps that came and went since the large file; None where they are too many."""
    from sqlalchemy import and_, or_, select

    from gatepost_policy.tables import TrapRow

    since = base.built - SLACK_S
    rows = connection.execute(
        select(TrapRow.key, TrapRow.removed)
        .where(
            TrapRow.kind == "exact",
            # An import's rows are in the large file: what came later was added by hand.
            or_(and_(TrapRow.generation == 0, TrapRow.added >= since), TrapRow.removed >= since),
        )
        .limit(MAX_DELTA + 1)
    ).all()
    if len(rows) > MAX_DELTA:
        return None
    hashed = _hasher(base.key)
    return (
        [hashed(r.key) for r in rows if r.removed is None],
        [hashed(r.key) for r in rows if r.removed is not None],
    )


def _globs(connection: "Connection") -> dict[str, list[str]]:
    from sqlalchemy import select

    from gatepost_policy import traps
    from gatepost_policy.tables import TrapRow

    rows = connection.execute(
        select(TrapRow.kind, TrapRow.key).where(TrapRow.kind != "exact", traps.live())
    ).all()
    return {
        "domains": [r.key for r in rows if r.kind == "domain"],
        "patterns": [r.key for r in rows if r.kind == "pattern"],
    }


def _replace(path: Path, *parts: "bytes | array[int] | array[float]") -> None:
    """Write aside, then rename: a reader sees the old file or the new one, whole."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with open(descriptor, "wb") as file:
            file.writelines(memoryview(part).cast("B") for part in parts)
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def _bump(path: Path) -> None:
    """Move the counter. The file is made once and then only written to: it is mapped by all."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        before = os.pread(descriptor, 8, 0)
        number = int.from_bytes(before, "little") if len(before) == 8 else 0
        # Nanoseconds, so that a file that was made anew does not repeat an old number.
        number = max(number + 1, time.time_ns())
        os.pwrite(descriptor, number.to_bytes(8, "little"), 0)
    finally:
        os.close(descriptor)

