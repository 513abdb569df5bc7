"""What is wrong with this installation; each finding has the line or the command that corrects it.

`examine` looks at configuration file, state directory, store, journal, quarantine, recorder and
traps. It changes nothing. Sockets and MTAs are checked by the caller.
"""

import os
import pwd
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Engine, func, select

from gatepost_policy import config, journal, store, traps
from gatepost_policy.config import own_names, server_url
from gatepost_policy.store import StoreError, journal_mark, migrate, removed
from gatepost_policy.store.tables import JournalGap, Message
from gatepost_policy.system import version
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

FREE_WANTED_BYTES = 268_435_456
GAP_DAYS = 30
NAMES_SHOWN = 20
QUIET_S = 10.0  # records that wait longer than this are not being stored


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `problem` is None where it is fine, else `change` says how
    to mend it; `unreachable` is True where store or socket did not answer."""

    what: str
    state: str
    problem: str | None = None
    change: str | None = None
    unreachable: bool = False


def examine(settings: "Settings", path: Path | None, now: float) -> Iterator[Finding]:
    """Every finding, with and without a problem, in the order to read them. `path`: the
    configuration file, None for built-in defaults; `now`: Unix seconds."""
    sources = version.from_sources()
    yield Finding(
        "modules",
        version.built(),
        f"{', '.join(sources)}: no compiled module beside the source" if sources else None,
        "reinstall the package" if sources else None,
    )
    yield from _configuration(settings, path, now)
    state = config.state_dir(settings)
    if not state.exists():
        yield Finding("state", f"{state} is made at the first start")
    else:
        yield from _directory("state", state)
        yield from _space(state)
    yield from _store(settings, now)
    yield _ours(settings, state)
    yield from _journal(settings, now)
    if settings.trap.capture:
        yield from _capture(Path(settings.trap.capture))


def _ours(settings: "Settings", state: Path) -> Finding:
    """Which domains are never listed because they are ours; or that this is not known yet."""
    if not (state / own_names.FILE).exists():
        return Finding("ours", "not known: the recorder has not asked the MTA yet")
    own = own_names.read(state)
    names = sorted({*settings.sender.own_domains, *own.domains})
    shown = ", ".join(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
    networks = plural(len(own.networks), "network")
    return Finding("ours", f"{plural(len(names), 'domain')} ({shown or 'none'}), {networks}")


def _has_secret(settings: "Settings") -> bool:
    """True where the configuration file holds a password of the database."""
    return any(
        url.partition("://")[0] in server_url.SCHEMES and server_url.parse(url).has_secret
        for url in (settings.store.url, settings.store.read_url)
    )


def _configuration(settings: "Settings", path: Path | None, now: float) -> Iterator[Finding]:
    if path is None:
        yield Finding("configuration", "built-in defaults")
    else:
        yield Finding("configuration", str(path))
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o022:
            yield Finding("configuration", str(path), f"others may change it (mode {mode:04o})",
                          f"chmod go-w {path}")  # fmt: skip
        if mode & 0o004 and _has_secret(settings):
            yield Finding("configuration", str(path),
                          f"store.url holds a password and others may read it (mode {mode:04o})",
                          f"chmod 0640 {path}")  # fmt: skip
    today = timestamp(now)[:10]
    for reason, rule in settings.rules.items():
        if rule.mode != "enforce" and rule.expires is not None and str(rule.expires) <= today:
            yield Finding(
                "rules",
                f"rules.{reason}",
                f"{rule.mode} ended on {rule.expires}: it is enforced",
                f"remove [rules.{reason}] or set another day in expires",
            )


def _directory(what: str, path: Path) -> Iterator[Finding]:
    info = path.stat()
    mode = stat.S_IMODE(info.st_mode)
    if mode & 0o022:
        yield Finding(
            what, str(path), f"others may write there (mode {mode:04o})", f"chmod go-w {path}"
        )
    elif not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        yield Finding(
            what,
            str(path),
            f"belongs to {_user(info.st_uid)}, and we are {_user(os.geteuid())}",
            f"run this as {_user(info.st_uid)}",
        )
    else:
        yield Finding(what, str(path))


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _space(path: Path) -> Iterator[Finding]:
    found = os.statvfs(path)
    free = found.f_bavail * found.f_frsize
    if free < FREE_WANTED_BYTES:
        yield Finding(
            "disk",
            str(path),
            f"only {free // 1_048_576} MB are free",
            "make room, shorten [retention], or move the state directory (store.url)",
        )


def _store(settings: "Settings", now: float) -> Iterator[Finding]:
    path = config.database_path(settings)
    if (
        path is not None
        and not path.exists()
        and not removed.was_there(path, config.journal_dir(settings))
    ):
        yield Finding("store", f"{path} is made at the first start")
        return
    try:
        engine = store.open_engine(settings, ensure=False)
    except StoreError as error:
        yield _refused(error)
        return
    try:
        yield from _inside(engine, now)
    except StoreError as error:
        yield _refused(error)
    finally:
        engine.dispose()


def _refused(error: StoreError) -> Finding:
    problem, _, change = str(error).rpartition("; ")
    words = (problem or str(error)).removeprefix("store ")
    return Finding("store", "", words, change or None, unreachable=True)


def _inside(engine: Engine, now: float) -> Iterator[Finding]:
    found = migrate.current(engine)
    name = store.name(engine).removeprefix("store ")
    if found != migrate.HEAD:
        newer = found is not None and found not in migrate.REVISIONS
        yield Finding(
            "store",
            name,
            f"has schema {found}, this gatepost wants {migrate.HEAD}",
            "install the gatepost that made it" if newer else "milterctl db upgrade",
            unreachable=True,
        )
        return
    with store.reading(engine) as connection:
        last = connection.scalar(select(func.max(Message.at)))
        seen = "no message yet" if last is None else f"last message {timestamp(last)}"
        yield Finding("store", f"{name}, schema {found}, {seen}")
        lost = connection.execute(
            select(func.sum(JournalGap.lost), func.max(JournalGap.until)).where(
                JournalGap.until > now - GAP_DAYS * 86_400
            )
        ).one()
        if lost[0]:
            yield Finding(
                "journal",
                "",
                f"lost: {plural(lost[0], 'record')}, the last at {timestamp(lost[1])}",
                "keep the disk from filling, or raise store.journal_max_bytes",
            )
        yield from _traps(traps.count(connection), traps.check(connection))


def _traps(number: int, used: list[traps.Finding]) -> Iterator[Finding]:
    if not number:
        yield Finding("traps", "none yet: milterctl trap add ADDRESS, or trap import FILE")
    else:
        yield Finding("traps", f"{number} in force")
    for one in used[:20]:
        yield Finding(
            "traps",
            one.trap,
            f"somebody uses it (seen as {one.how})",
            f"milterctl trap remove {one.trap}",
        )


def _journal(settings: "Settings", now: float) -> Iterator[Finding]:
    directory = config.journal_dir(settings)
    if not directory.exists():
        yield Finding("journal", f"{directory} is made at the first start")
        return
    try:
        waiting, oldest = _waiting(settings, directory)
    except (OSError, StoreError):
        yield from _directory("journal", directory)
        return
    why = journal.refused(directory, make=False)
    if why is not None and not isinstance(why, PermissionError):
        yield Finding("journal", str(directory), f"cannot be written: {why.strerror or why}",
                      "what comes may be lost; look at the kernel's log")  # fmt: skip
    used = journal.size_of(directory)
    most = settings.store.journal_max_bytes
    alive = store.recording(directory)
    state = f"{directory}, {waiting} bytes waiting, recorder {'runs' if alive else 'does not run'}"
    if used > most // 2:
        yield Finding("journal", state, f"{used} of at most {most} bytes are in use",
                      "look at the store: it does not take what waits")  # fmt: skip
    elif waiting and oldest is not None and now - oldest > QUIET_S:
        change = (
            "look at the service's log: the store refuses what waits"
            if alive
            else "start gatepost-milter or gatepost-policyd"
        )
        age = int(now - oldest)
        yield Finding("journal", state, f"records have been waiting for {age} s", change)
    else:
        yield Finding("journal", state)
    quarantine = config.quarantine_dir(settings)
    kept = len(list(quarantine.iterdir())) if quarantine.exists() else 0
    if kept:
        yield Finding("quarantine", str(quarantine),
                      f"{plural(kept, 'record')} that the store refused",
                      "read them (each says why), report the cause, then remove them")  # fmt: skip


def _waiting(settings: "Settings", directory: Path) -> tuple[int, float | None]:
    """(octets that are not in the store yet, Unix seconds of the oldest segment's last write or
    None). Raises OSError and StoreError."""
    engine = store.open_engine(settings, ensure=False)
    try:
        with store.reading(engine) as connection:
            marks = journal_mark.read(connection)
    finally:
        engine.dispose()
    total, oldest = 0, None
    for segment in journal.segments(directory):
        info = segment.stat()
        left = info.st_size - marks.get(segment.name, 0)
        if left > 0:
            total += left
            oldest = info.st_mtime if oldest is None else min(oldest, info.st_mtime)
    return total, oldest


def _capture(path: Path) -> Iterator[Finding]:
    if not path.is_dir():
        yield Finding("capture", str(path), "trap.capture names no directory",
                      f"install -d -m 0700 {path}")  # fmt: skip
    else:
        yield from _directory("capture", path)
