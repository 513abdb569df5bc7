"""One state of what is kept in memory, read from three files: traps, listings, repeat senders.

* `known.traps.ID`: the sorted 64-bit hashes of all exact traps. With more than half a million it
  stays on disk and is searched there (`numbers`). Rebuilt after an import or many changes.
* `known.listed.ID`: the sorted hashes of all listings with their ends, made anew when many changed.
* `known.now`: everything small or short-lived: the traps and listings that changed since the large
  files, domain and pattern traps, repeat senders. Rebuilt with every change.

`known.now` names the two large files that belong to it, and they never change: so the rename that
puts `known.now` in its place changes everything at once. It has their checksums, and its own: with
a wrong bit in the hash key nobody would be a trap any more, and nothing else would show it. Of a
large file that stays on disk a reader does not look at it; the recorder does at its start.

A look-up is a binary search, so a long list does not make it slow. The hashes are keyed (BLAKE2b)
with a secret made on this machine, so nobody can search for two addresses that collide, and with 64
bits a collision by chance is not to be expected: a hit is not checked in the store
(docs/decisions/0080-known-by-hash.md).

Numbers are in this machine's byte order: the files never leave it.
"""

import json
import os
import re
import struct
import zlib
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import translate
from hashlib import blake2b
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from gatepost_policy.lookup.numbers import COPY_MAX, OnDisk, contains, whole
from gatepost_policy.mail.address import OPEN, Address
from gatepost_policy.mail.facts import Direction, Facts, Identity, IdentityKind
from gatepost_policy.mail.organisation import covering
from gatepost_policy.mail.real_address import names_nobody, real
from gatepost_policy.rules import Listed

TRAPS_FILE, NOW_FILE, TICK_FILE = "known.traps", "known.now", "known.tick"
LISTED_FILE = "known.listed"
LISTED_HEAD = struct.Struct("=8sQQ")  # magic, id of this file, how many
TRAPS_HEAD = struct.Struct("=8s16sQQ")  # magic, hash key, id of this file, how many
# Magic, octets of JSON, listings, repeat senders, CRC-32 of all that follows (0: not told).
NOW_HEAD = struct.Struct("=8sIIII")
MAGIC_TRAPS, MAGIC_NOW, MAGIC_LISTED = b"GPTRAPS1", b"GPKNOW02", b"GPLISTD1"
# How often loading is tried when a file is gone: the publisher may have replaced it meanwhile.
LOADS = 5
# What loading raises where a file is missing or damaged.
DAMAGE = (OSError, ValueError, KeyError, TypeError, struct.error)

Hash = Callable[[str], int]
# Looking a member up in its class costs as much as a call (enum defines __getattr__).
_INBOUND = Direction.INBOUND


def hasher(key: bytes) -> Hash:
    """A function that gives the keyed 64-bit hash of a text."""
    base = blake2b(digest_size=8, key=key)

    def hashed(text: str) -> int:
        one = base.copy()
        one.update(text.encode("utf-8", "surrogatepass"))
        return int.from_bytes(one.digest(), "little")

    return hashed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of what is known. `base` and `listings` are the sorted hashes of the large files,
    `untils` the ends of the listings (Unix seconds); all else is small.
    """

    key: bytes = b""
    hashed: Any = None  # a Hash; None where nothing was published yet
    base_id: int = 0
    base: Any = ()
    added: frozenset[int] = frozenset()
    gone: frozenset[int] = frozenset()
    domains: frozenset[str] = frozenset()
    patterns: tuple[tuple[str, re.Pattern[str]], ...] = ()  # (literal domain or '', regex)
    listed_id: int = 0
    listings: Any = ()  # of the large file, sorted; `fresh` is what has changed since
    untils: Any = ()
    fresh: Any = ()
    fresh_untils: Any = ()
    repeat: Any = ()
    v4_bits: tuple[int, ...] = ()
    v6_bits: tuple[int, ...] = ()
    by_sender: bool = False
    by_author: bool = False

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
            if contains(self.base, number) and number not in self.gone:
                return True
        return any(
            (not literal or literal == domain) and pattern.match(key)
            for literal, pattern in self.patterns
        )

    def until(self, kind: str, value: str) -> float | None:
        """When the listing of this identity ends (Unix seconds), or None."""
        if not self.anybody:
            return None
        number = self.hashed(f"{kind}\0{value}")
        for numbers, ends in ((self.fresh, self.fresh_untils), (self.listings, self.untils)):
            index = bisect_left(numbers, number)
            if index < len(numbers) and numbers[index] == number:
                return float(ends[index]) or None
        return None

    @property
    def anybody(self) -> bool:
        """True where there are listings, so that a look-up is needed."""
        return bool(len(self.listings) or len(self.fresh))

    def is_repeat(self, identity: Identity) -> bool:
        """True where this identity has a repeat sender's history."""
        return bool(len(self.repeat)) and contains(
            self.repeat, self.hashed(f"{identity.kind}\0{identity.value}")
        )

    def listed(self, facts: Facts) -> tuple[Listed, ...]:
        """The listings that hold for these facts at `facts.at`."""
        if not self.anybody or facts.direction is not _INBOUND:
            return ()
        found: list[Listed] = []

        def look(kind: str, identity: Identity) -> None:
            until = self.until(kind, identity.value)
            if until is not None and until > facts.at:
                found.append(Listed(identity, until, promoted=kind.startswith("promoted")))

        ip = facts.client.address
        if ip is not None and not names_nobody(ip):
            ip = real(ip)
            for bits in self.v4_bits if ip.version == 4 else self.v6_bits:
                prefix = Identity(IdentityKind.PREFIX, _network(int(ip), ip.version, bits), True)
                look("prefix", prefix)
                look("promoted", prefix)
        aligned = facts.aligned_domains()
        # A listing covers what lies below it, within its organisation.
        for domain in dict.fromkeys(above for d in aligned for above in covering(d)):
            signer = Identity(IdentityKind.DKIM, domain, True)
            look("dkim", signer)
            look("promoted-dkim", signer)
        if self.by_author and aligned and (author := facts.author_identity()) is not None:
            look("author", author)
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


def file_names(meta: dict[str, Any]) -> tuple[str, str]:
    """The large files of traps and of listings that belong to this small one.

    A small file of an older release belongs to large files without an id in their names.
    """
    if meta.get("named"):
        return f"{TRAPS_FILE}.{meta['base']:x}", f"{LISTED_FILE}.{meta['listed']:x}"
    return TRAPS_FILE, LISTED_FILE


def load(state_dir: Path, old: Snapshot = EMPTY) -> Snapshot:
    """Read the published files; large ones that `old` already has are not read again.

    Raises one of DAMAGE where they are missing or damaged.
    """
    for _ in range(LOADS - 1):
        try:
            return _load(state_dir, old)
        except FileNotFoundError:
            # Meanwhile the publisher has replaced `known.now` and removed the large files of the
            # old one.
            if not (state_dir / NOW_FILE).exists():
                break
    return _load(state_dir, old)


def _load(state_dir: Path, old: Snapshot) -> Snapshot:
    now = whole(state_dir / NOW_FILE)
    magic, octets, listed, repeated, crc = NOW_HEAD.unpack_from(now)
    start = NOW_HEAD.size + octets
    if magic != MAGIC_NOW or start % 8 or len(now) != start + 16 * listed + 8 * repeated:
        raise ValueError("known.now: damaged")
    _same(crc or None, now[NOW_HEAD.size :], NOW_FILE)
    meta = json.loads(bytes(now[NOW_HEAD.size : start]))
    middle = start + 8 * listed
    traps_name, listed_name = file_names(meta)
    if meta["listed"] == old.listed_id and old.hashed is not None:
        listings, untils = old.listings, old.untils
    else:
        wide = whole(state_dir / listed_name)
        magic, listed_id, count = LISTED_HEAD.unpack_from(wide)
        if magic != MAGIC_LISTED or len(wide) != LISTED_HEAD.size + 16 * count:
            raise ValueError("known.listed: damaged")
        _same(meta.get("crc", {}).get(LISTED_FILE), wide, LISTED_FILE)
        if listed_id != meta["listed"]:
            raise ValueError("known.listed: of another moment")
        half = LISTED_HEAD.size + 8 * count
        listings, untils = wide[LISTED_HEAD.size : half].cast("Q"), wide[half:].cast("d")
    if meta["base"] == old.base_id and old.hashed is not None:
        key, hashed, base = old.key, old.hashed, old.base
    else:
        key, base_id, base = _traps(state_dir / traps_name, meta.get("crc", {}).get(TRAPS_FILE))
        if base_id != meta["base"]:
            raise ValueError("known.traps: of another moment")
        hashed = hasher(key)
    return Snapshot(
        key=key,
        hashed=hashed,
        base_id=meta["base"],
        base=base,
        added=frozenset(meta["added"]),
        gone=frozenset(meta["gone"]),
        domains=frozenset(meta["domains"]),
        patterns=tuple(_pattern(p) for p in meta["patterns"]),
        listed_id=meta["listed"],
        listings=listings,
        untils=untils,
        fresh=now[start:middle].cast("Q"),
        fresh_untils=now[middle : middle + 8 * listed].cast("d"),
        repeat=now[middle + 8 * listed :].cast("Q"),
        v4_bits=tuple(meta["v4_bits"]),
        v6_bits=tuple(meta["v6_bits"]),
        by_sender=meta["by_sender"],
        by_author=meta.get("by_author", False),
    )


def _pattern(glob: str) -> tuple[str, re.Pattern[str]]:
    domain = glob.rpartition("@")[2]
    literal = "" if "*" in domain or "?" in domain else domain
    # `[` is not legal in an unquoted address: here it is a plain character, no class as in a shell.
    return literal, re.compile(translate(glob.replace("[", "[[]")))


def _same(told: int | None, octets: "memoryview | bytes", name: str) -> None:
    """Raises ValueError where these octets have not the CRC-32 that was told."""
    if told is not None and zlib.crc32(octets) != told:
        raise ValueError(f"{name}: damaged")


def _traps(path: Path, crc: int | None) -> tuple[bytes, int, Any]:
    """(hash key, id, sorted hashes) of the large file. Raises OSError, ValueError, struct.error."""
    file = path.open("rb")
    size = os.fstat(file.fileno()).st_size
    magic, key, base_id, count = TRAPS_HEAD.unpack(os.pread(file.fileno(), TRAPS_HEAD.size, 0))
    if magic != MAGIC_TRAPS or size != TRAPS_HEAD.size + 8 * count:
        raise ValueError("known.traps: damaged")
    if size > COPY_MAX:
        return key, base_id, OnDisk(file, TRAPS_HEAD.size, count)
    with file:
        octets = file.read()
    if len(octets) != size:
        raise ValueError("known.traps: damaged")
    _same(crc, octets, TRAPS_FILE)
    return key, base_id, memoryview(octets)[TRAPS_HEAD.size :].cast("Q")
