"""Find and load the configuration, and say where its state lives.

`find` looks in the places of the manual, `load` makes `Settings` or raises `ConfigError` with one
line: `FILE: table.key: want ..., got ...`. Values are taken as TOML types them: "4" is no number.
The functions below `load` turn empty keys into the paths and figures that are really used.
"""

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_policy.shown import shown

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings

SYSTEM_FILE = Path("/etc/gatepost/gatepost.toml")
MAX_FILE_BYTES = 1_048_576
DATABASE_NAME = "gatepost.sqlite"
STORE_WANTED = 'a store such as "sqlite:////var/lib/gatepost/gatepost.sqlite" or "postgresql://..."'


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line that names file and key.

    `problems` holds a line for everything that was found, the first one included.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(problems[0])
        self.problems = problems


def find(explicit: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `explicit`, $GATEPOST_CONFIG, ./gatepost.toml, the one in /etc, or None."""
    named = explicit or environ.get("GATEPOST_CONFIG")
    if named:
        return Path(named)  # named means wanted: `load` complains where it is missing
    for path in (Path("gatepost.toml"), SYSTEM_FILE):
        if path.exists():
            return path
    return None


def load(path: Path | None, *, store: str | None = None) -> "Settings":
    """The settings of `path`, or the defaults where it is None. `store` overrides `store.url`.

    Raises ConfigError for a file that cannot be read, is no TOML, or has a wrong key or value.
    """
    from pydantic import ValidationError

    from gatepost_policy.misconfigured import problems
    from gatepost_policy.settings import Settings

    document = {} if path is None else _read(path)
    where = "built-in defaults" if path is None else shown(str(path))
    if store is not None and isinstance(document.setdefault("store", {}), dict):
        document["store"]["url"] = store
    try:
        # Through JSON, because only there does pydantic's strict mode take a list for a tuple.
        settings = Settings.model_validate_json(json.dumps(document, default=str), strict=True)
    except ValidationError as error:
        raise ConfigError(*(f"{where}: {line}" for line in problems(error, document))) from None
    try:
        store_url(settings)
    except ValueError as error:
        place = "--store" if store is not None else f"{where}: store.url"
        raise ConfigError(f"{place}: want {STORE_WANTED}, {error}") from None
    return settings


def _read(path: Path) -> dict[str, Any]:
    """The TOML document of `path`."""
    where = shown(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{where}: cannot read the configuration: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{where}: want at most {MAX_FILE_BYTES} bytes, got more")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{where}: line {line}: want UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:  # names line and column
        raise ConfigError(f"{where}: not valid TOML: {shown(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError:  # Python converts at most 4300 digits
        raise ConfigError(f"{where}: not valid TOML: a number has too many digits") from None


def default_state_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """Where state goes that nobody placed: see `find` for who runs where."""
    named = environ.get("XDG_STATE_HOME")
    # XDG base directory specification: a relative path here is invalid and must be ignored.
    if named and os.path.isabs(named):
        return Path(named) / "gatepost"
    if os.geteuid() == 0:
        return Path("/var/lib/gatepost")
    return Path.home() / ".local" / "state" / "gatepost"


def store_url(settings: "Settings") -> str:
    """The store as an SQLAlchemy URL. Raises ValueError saying what was got."""
    url = settings.store.url
    if not url:
        return f"sqlite:///{default_state_dir() / DATABASE_NAME}"
    scheme, separator, rest = url.partition("://")
    if not separator:
        if "/" not in url and "." not in url:
            raise ValueError(f"got {json.dumps(url)}")
        return f"sqlite:///{Path(url).absolute()}"  # a plain path is a SQLite file
    if scheme == "sqlite":
        # `sqlite:///` and a path: three slashes and a relative one, or four and an absolute one.
        path = rest[1:].partition("?")[0]
        if not rest.startswith("/") or path in ("", ":memory:"):
            raise ValueError(f"got {json.dumps(url)}, which names no file")
        return f"sqlite:///{Path(path).absolute()}"
    if scheme in ("postgresql", "postgres", "postgresql+psycopg"):
        return f"postgresql+psycopg://{rest}"
    # Not the whole URL: it may hold a password, and this line ends up in logs.
    raise ValueError(f"got a store of kind {json.dumps(scheme)}")


def database_path(settings: "Settings") -> Path | None:
    """The SQLite file, or None for a database server."""
    url = store_url(settings)
    return Path(url.removeprefix("sqlite:///")) if url.startswith("sqlite:///") else None


def state_dir(settings: "Settings") -> Path:
    """The directory of the SQLite file; with a database server the default state directory."""
    path = database_path(settings)
    return default_state_dir() if path is None else path.parent


def journal_dir(settings: "Settings") -> Path:
    """Where journal segments are."""
    named = settings.store.journal
    return Path(named).absolute() if named else state_dir(settings) / "journal"


def quarantine_dir(settings: "Settings") -> Path:
    """Where records go that the database refused."""
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
