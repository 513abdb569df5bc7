"""The directories of the state, and other values that follow from keys that are not set."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gatepost_policy.config import server_url

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

DATABASE_NAME = "gatepost.sqlite"
RECORDER_LOCK = "recorder.lock"
KNOWN = "known.now"  # what the recorder publishes, see `lookup`
# The state of services that run with /etc/gatepost/gatepost.toml.
SERVICE_STATE = Path("/var/lib/gatepost")


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """The state directory where no key names one: root's is the services' own, other users have
    one below $XDG_STATE_HOME or ~/.local/state."""
    named = environ.get("XDG_STATE_HOME")
    # XDG base directory specification: a relative path here is invalid and must be ignored.
    if named and os.path.isabs(named):
        return Path(named) / "gatepost"
    if os.geteuid() == 0:
        return SERVICE_STATE
    return Path.home() / ".local" / "state" / "gatepost"


def unplaced_state_dir(settings: "Settings") -> Path:
    """The state directory where no key names one; with the machine's configuration the services'.

    So an admin who is not root reads the services' store, not an empty one of their own.
    """
    return SERVICE_STATE if settings.of_machine else default_state_dir()


def store_url(settings: "Settings") -> str:
    """The store as an SQLAlchemy URL. Raises ValueError; the text says what the key holds instead,
    without any password."""
    url = settings.store.url
    if not url:
        return f"sqlite:///{unplaced_state_dir(settings) / DATABASE_NAME}"
    scheme, separator, rest = url.partition("://")
    if not separator:
        # A URL with a missing slash. Do not repeat it: it may hold a password, and this is logged.
        if re.match(r"[A-Za-z+]+:/", url) or "@" in url:
            raise ValueError("got a URL without ://")
        if re.match(r"\s*[A-Za-z_]+\s*=", url):
            # libpq's connection string (PostgreSQL manual 34.1.1.1) would become a file's name.
            raise ValueError(
                "got name=value, as libpq writes it; want a URL (a file of such a name: ./NAME)"
            )
        if "/" not in url and "." not in url:
            raise ValueError(f"got {json.dumps(url)}")
        _has_no_home(url)
        return f"sqlite:///{Path(url).absolute()}"  # a plain path is a SQLite file
    if scheme == "sqlite":
        # `sqlite:///` and a path: three slashes and a relative one, or four and an absolute one.
        path, mark, _ = rest[1:].partition("?")
        if mark:
            # They would be ignored: with `?mode=ro` the file would still be written to, or made.
            raise ValueError("got a sqlite URL with options behind the ?, of which there are none")
        if "@" in rest.partition("/")[0]:
            raise ValueError("got a sqlite URL with a user or a host")
        if not rest.startswith("/") or path in ("", ":memory:"):
            raise ValueError(f"got {json.dumps(url)}, which names no file")
        _has_no_home(path)
        return f"sqlite:///{Path(path).absolute()}"
    if scheme in server_url.SCHEMES:
        return server_url.parse(url).sqlalchemy()
    if not re.fullmatch(r"[A-Za-z0-9+.-]{1,20}", scheme):
        raise ValueError("got no URL")
    # Not the whole URL: it may hold a password, and this line ends up in logs.
    raise ValueError(f"got a store of kind {json.dumps(scheme)}")


def _has_no_home(path: str) -> None:
    """Raises ValueError for `~/...`: no shell reads the configuration, and it would become a
    directory of that name."""
    if path.startswith("~"):
        raise ValueError(f"got {json.dumps(path)}: ~ is no home here; write the whole path")


def read_url(settings: "Settings") -> str:
    """The URL that reports read from: a replica, else the store itself. Raises ValueError."""
    url = settings.store.read_url
    if not url:
        return store_url(settings)
    if url.partition("://")[0] not in server_url.SCHEMES:
        raise ValueError("got no URL of a PostgreSQL server")
    return server_url.parse(url).sqlalchemy()


def database_path(settings: "Settings") -> Path | None:
    """The SQLite file, or None for a database server."""
    url = store_url(settings)
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def state_dir(settings: "Settings") -> Path:
    """The directory of the SQLite file; with a database server the default state directory."""
    path = database_path(settings)
    return unplaced_state_dir(settings) if path is None else path.parent


def journal_dir(settings: "Settings") -> Path:
    """The directory of the journal segments."""
    named = settings.store.journal
    return Path(named).absolute() if named else state_dir(settings) / "journal"


def quarantine_dir(settings: "Settings") -> Path:
    """The directory of records that the database refused."""
    return state_dir(settings) / "quarantine"


def worker_count(settings: "Settings") -> int:
    """How many milter workers run: as configured, else one per core, 2 to 16."""
    if settings.milter.workers:
        return settings.milter.workers
    return min(16, max(2, len(cores()) or os.cpu_count() or 1))


def cores() -> tuple[int, ...]:
    """The cores this process may run on, by number; empty where the system does not say."""
    try:
        return tuple(sorted(os.sched_getaffinity(0)))
    except (AttributeError, OSError):  # not on Linux
        return ()
