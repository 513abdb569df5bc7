"""Write what the store knows into the files that every process of this host reads.

One publisher at a time: the recorder, or a command that holds its lock. New large files are written
under new names; then the small file that names them is renamed into its place. So a full disk, a
store that fails or kill -9 at any moment leaves either the old files or the new ones, never a
mixture. Then the counter in `known.tick` is raised, and the other processes read the files.
"""

import json
import os
import secrets
import threading
import time
import zlib
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_policy.lookup.numbers import contains
from gatepost_policy.lookup.snapshot import (
    DAMAGE,
    EMPTY,
    LISTED_FILE,
    MAGIC_NOW,
    MAGIC_TRAPS,
    NOW_FILE,
    NOW_HEAD,
    TICK_FILE,
    TRAPS_FILE,
    TRAPS_HEAD,
    Snapshot,
    file_names,
    hasher,
    load,
)

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from gatepost_policy.config.settings import Settings
    from gatepost_policy.lookup import listed

# With more traps added or removed than this, the large file is written again.
MAX_DELTA = 20_000
# Seconds by which another host's clock may differ when changes are looked for by their time.
SLACK_S = 3_600.0
PIECE = 1 << 20
# State directories whose published files this process has compared with the store.
_checked: set[Path] = set()
# The files it has written there, with what shows whether somebody else has changed them since.
_written: dict[Path, dict[str, "_Look"]] = {}


def publish(
    connection: "Connection", state_dir: Path, settings: "Settings", now: float | None = None
) -> list[str]:
    """Write what the store knows, for all processes of this host. One publisher at a time.

    Listings that have ended at `now` (Unix seconds; None: the clock) are left out. Returns a line
    for each of the others that was read and is left out as well, because nobody can be listed so.

    Raises OSError where the files cannot be written, and what the database raises.
    """
    from gatepost_policy import listings
    from gatepost_policy.store import revision

    state_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
    revision_now = revision.number(connection, "traps")
    generation = revision.number(connection, "generation")
    known_good = state_dir in _checked
    published = _published(state_dir, whole=not known_good)
    old, before = (None, EMPTY) if published is None else published
    large: list[tuple[str, list[Any]]] = []
    base: _Base | None = None
    if old is not None and old.get("named") and old["generation"] == generation:
        base = _Base(old["base"], old["built"], old["generation"], bytes.fromhex(old["key"]))
    base_kept = True
    if base is not None and old is not None and known_good and old["traps"] == revision_now:
        small = {name: old[name] for name in ("added", "gone", "domains", "patterns")}
    else:
        changes = None if base is None else _changes(connection, base)
        if base is None or changes is None or not _adds_up(connection, before.base, *changes):
            base, parts = _new_base(connection, generation)
            large.append((TRAPS_FILE, parts))
            changes = [], []
            base_kept = False  # the key is new, so the other hashes must be made anew as well
        small = {"added": changes[0], "gone": changes[1], **_globs(connection)}
        _checked.add(state_dir)
    hashed = hasher(base.key)
    moment = time.time() if now is None else now
    kept = old if base_kept and known_good else None
    erased = revision.number(connection, revision.ERASED)
    if kept is not None and kept.get("erased", 0) != erased:
        kept = None
    state, wide = _listings(connection, kept, before, hashed, moment)
    if wide is not None:
        large.append((LISTED_FILE, wide))
    repeats = revision.number(connection, "repeat")
    if base_kept and old is not None and old["repeats"] == repeats and known_good:
        repeat = array("Q", before.repeat)
    else:
        repeat = array(
            "Q", sorted({hashed(f"{k}\0{v}") for k, v in listings.repeating(connection)})
        )
    crc = {} if old is None else dict(old.get("crc", {}))
    crc.update({kind: _crc(parts) for kind, parts in large})
    meta = {
        **small,
        "crc": crc,
        "named": True,
        "base": base.number,
        "built": base.built,
        "generation": base.generation,
        "key": base.key.hex(),
        "traps": revision_now,
        "repeats": repeats,
        "erased": erased,
        **state.meta(),
    }
    text = json.dumps(meta).encode()
    text += b" " * (-(NOW_HEAD.size + len(text)) % 8)
    rest = [text, state.numbers, state.ends, repeat]
    head = NOW_HEAD.pack(MAGIC_NOW, len(text), len(state.numbers), len(repeat), _crc(rest))
    named: dict[str, str] = dict(zip((TRAPS_FILE, LISTED_FILE), file_names(meta), strict=True))
    made = [(state_dir / named[kind], parts) for kind, parts in large]
    # What is as it was must look as it did then; nothing is looked at after it can be seen.
    looks = {**_look(state_dir, named.values()), **_written.get(state_dir, {})}
    try:
        for path, parts in made:
            looks[path.name] = _write(path, parts, sync=True)
        # With the rename of this file everything becomes visible at once.
        looks[NOW_FILE] = _write(state_dir / NOW_FILE, [head, *rest], sync=bool(made))
    except BaseException:
        for path, _ in made:
            # else each attempt on a full disk would leave more of them
            path.unlink(missing_ok=True)
        raise
    looks[TICK_FILE] = bump(state_dir / TICK_FILE)
    _written[state_dir] = {name: looks[name] for name in (NOW_FILE, TICK_FILE, *named.values())}
    if made or not known_good:
        _tidy(state_dir, set(named.values()))
    return state.left_out


_Look = tuple[int, int, int] | None  # inode, size and time of change; None: it is not there


def _looks(status: os.stat_result) -> _Look:
    return status.st_ino, status.st_size, status.st_mtime_ns


def _look(state_dir: Path, names: Iterable[str]) -> dict[str, _Look]:
    found: dict[str, _Look] = {}
    for name in names:
        try:
            found[name] = _looks(os.stat(state_dir / name))
        except OSError:
            found[name] = None
    return found


def touched(state_dir: Path) -> str | None:
    """The name of a published file that somebody else has changed or removed; None where none was.

    Running processes keep what they have read, but a new one would know nothing.
    """
    was = _written.get(state_dir, {})
    now = _look(state_dir, was)
    return next((name for name in was if was[name] != now[name]), None)


def take_over(state_dir: Path) -> None:
    """Forget what this process has written, so that `touched` accepts what another process has
    published since.
    """
    _written.pop(state_dir, None)


def anew(state_dir: Path) -> None:
    """Make the next `publish` write everything, because what is published came from another store.

    Raises OSError where `known.now` cannot be removed.
    """
    _checked.discard(state_dir)
    _written.pop(state_dir, None)
    (state_dir / NOW_FILE).unlink(missing_ok=True)


def _listings(
    connection: "Connection",
    old: dict[str, Any] | None,
    before: Snapshot,
    hashed: Any,
    now: float,
) -> tuple["listed.State", list[Any] | None]:
    """The listings: the published ones with the changes since, or all of them read anew.

    Returned with the parts of a new large file, or None where the old one stays.
    """
    from gatepost_policy.lookup import listed

    if old is not None:
        state = listed.State(
            base=old["listed"],
            built=old["listed_built"],
            mark=old["listed_mark"],
            numbers=array("Q", before.fresh),
            ends=array("d", before.fresh_untils),
            v4_bits=set(old["v4_bits"]),
            v6_bits=set(old["v6_bits"]),
            by_sender=old["by_sender"],
            by_author=old["by_author"],
        )
        if now >= state.built and listed.step(connection, state, hashed, now):
            if len(state.numbers) <= listed.DELTA_MAX:
                return state, None
            return state, listed.merged(state, before.listings, before.untils)
    return listed.whole(connection, hashed, now)


@dataclass(frozen=True, slots=True)
class _Base:
    number: int
    built: float
    generation: int
    key: bytes


def _crc(parts: Iterable[Any]) -> int:
    """The CRC-32 of these octets and arrays, one after the other."""
    value = 0
    for part in parts:
        value = zlib.crc32(memoryview(part).cast("B"), value)
    return value


def _is_whole(state_dir: Path, meta: dict[str, Any]) -> bool:
    """True where both large files have the checksums that the small one tells. Raises OSError."""
    for kind, name in zip((TRAPS_FILE, LISTED_FILE), file_names(meta), strict=True):
        with (state_dir / name).open("rb") as file:
            pieces = iter(lambda: file.read(PIECE), b"")  # noqa: B023 (used up before the next)
            if _crc(pieces) != meta.get("crc", {}).get(kind):
                return False
    return True


def _published(state_dir: Path, whole: bool) -> tuple[dict[str, Any], Snapshot] | None:
    """The small file's JSON and the snapshot; None where a file is missing or damaged.

    `whole`: also of the large ones every octet is looked at.
    """
    try:
        snapshot = load(state_dir)
        with (state_dir / NOW_FILE).open("rb") as file:
            octets = NOW_HEAD.unpack(file.read(NOW_HEAD.size))[1]
            meta: dict[str, Any] = json.loads(file.read(octets))
        if whole and not _is_whole(state_dir, meta):
            return None
    except DAMAGE:
        return None
    return meta, snapshot


def _new_base(connection: "Connection", generation: int) -> tuple[_Base, list[Any]]:
    """A new key, and all exact traps hashed with it: the parts of the large file."""
    from sqlalchemy import select

    from gatepost_policy import traps
    from gatepost_policy.store.tables import TrapRow

    base = _Base(secrets.randbits(53), time.time(), generation, secrets.token_bytes(16))
    keys = connection.execute(
        select(TrapRow.key).where(TrapRow.kind == "exact", traps.live()),
        execution_options={"yield_per": 10_000},
    )
    numbers = sorted_hashes(base.key, keys.scalars())
    return base, [TRAPS_HEAD.pack(MAGIC_TRAPS, base.key, base.number, len(numbers)), numbers]


def sorted_hashes(key: bytes, texts: Iterable[str]) -> "array[int]":
    """The hashes of `texts`, sorted, each once."""
    hashed = hasher(key)
    # Kept in arrays by first octet: a number takes eight octets of memory, not fifty.
    buckets = [array("Q") for _ in range(256)]
    for text in texts:
        number = hashed(text)
        buckets[number >> 56].append(number)
    out = array("Q")
    for bucket in buckets:
        out.extend(sorted(set(bucket)))
    return out


def _changes(connection: "Connection", base: _Base) -> tuple[list[int], list[int]] | None:
    """Hashes of exact traps (added, removed) since the large file; None where they are too many."""
    from sqlalchemy import and_, or_, select

    from gatepost_policy.store.tables import TrapRow

    since = base.built - SLACK_S
    rows = connection.execute(
        select(TrapRow.key, TrapRow.removed)
        .where(
            TrapRow.kind == "exact",
            # Rows of an import are in the large file: only those by hand can be newer.
            or_(and_(TrapRow.generation == 0, TrapRow.added >= since), TrapRow.removed >= since),
        )
        .limit(MAX_DELTA + 1)
    ).all()
    if len(rows) > MAX_DELTA:
        return None
    hashed = hasher(base.key)
    return (
        [hashed(r.key) for r in rows if r.removed is None],
        [hashed(r.key) for r in rows if r.removed is not None],
    )


def _adds_up(connection: "Connection", base: Any, added: list[int], gone: list[int]) -> bool:
    """True where the large file with these changes holds as many traps as the store.

    After a restore from a backup a revision number can be used again for other traps, so an equal
    number proves nothing.
    """
    from sqlalchemy import func, select

    from gatepost_policy import traps
    from gatepost_policy.store.tables import TrapRow

    expected = len(base)
    expected += sum(1 for number in set(added) if not contains(base, number))
    expected -= sum(1 for number in set(gone) - set(added) if contains(base, number))
    query = select(func.count()).select_from(TrapRow).where(TrapRow.kind == "exact", traps.live())
    return connection.scalar(query) == expected


def _globs(connection: "Connection") -> dict[str, list[str]]:
    from sqlalchemy import select

    from gatepost_policy import traps
    from gatepost_policy.store.tables import TrapRow

    rows = connection.execute(
        select(TrapRow.kind, TrapRow.key).where(TrapRow.kind != "exact", traps.live())
    ).all()
    return {
        "domains": [r.key for r in rows if r.kind == "domain"],
        "patterns": [r.key for r in rows if r.kind == "pattern"],
    }


def _write(path: Path, parts: list[Any], *, sync: bool) -> _Look:
    """Write aside, then rename: a reader sees the old file or the new one, whole. Returns its look.

    With `sync` it is on the disk before the rename: after a power failure the small file might
    otherwise name a large one that is empty.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o640)
        with open(descriptor, "wb") as file:
            file.writelines(memoryview(part).cast("B") for part in parts)
            file.flush()
            if sync:
                os.fsync(file.fileno())
            looks = _looks(os.fstat(file.fileno()))
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return looks


def _tidy(state_dir: Path, named: set[str]) -> None:
    """Remove files that are no longer named: older large ones, and unfinished ones of a killed
    process.
    """
    with os.scandir(state_dir) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        if name not in named and name.startswith((TRAPS_FILE, LISTED_FILE, ".known.")):
            (state_dir / name).unlink(missing_ok=True)


def bump(path: Path) -> _Look:
    """Raise the counter, and tell how the file looks then. It is made once and then only written
    to, because all processes keep it open. Raises OSError.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640)
    try:
        before = os.pread(descriptor, 8, 0)
        number = int.from_bytes(before, "little") if len(before) == 8 else 0
        # Nanoseconds, so that a file that was made anew does not repeat an old number.
        number = max(number + 1, time.time_ns())
        os.pwrite(descriptor, number.to_bytes(8, "little"), 0)
        return _looks(os.fstat(descriptor))
    finally:
        os.close(descriptor)
