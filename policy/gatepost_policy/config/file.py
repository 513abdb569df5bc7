"""Find and load the configuration.

`find` looks in the places that the manual names, `load` makes `Settings` or raises `ConfigError`
with one line: `FILE: table.key: want ..., got ...`. Values must have the right TOML type: "4" is
not a number.
"""

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gatepost_policy.config.paths import read_url, store_url
from gatepost_policy.text.escape import shown

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

SYSTEM_FILE = Path("/etc/gatepost/gatepost.toml")
MAX_FILE_BYTES = 1_048_576
STORE_WANTED = 'a store such as "sqlite:////var/lib/gatepost/gatepost.sqlite" or "postgresql://..."'


class ConfigError(Exception):
    """The configuration cannot be used. The text is one line that names file and key.

    `problems` holds one line for each problem found; the text is the first of them.
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(problems[0])
        self.problems = problems


class DeniedError(ConfigError):
    """This user has no permission to read /etc/gatepost/gatepost.toml."""


def find(explicit: str | Path | None, environ: Mapping[str, str]) -> Path | None:
    """The file to read: `explicit`, $GATEPOST_CONFIG, ./gatepost.toml, the one in /etc, or None.

    Raises ConfigError for a ./gatepost.toml that another user may write: a command that is run in
    another user's directory must not take its configuration from that user.
    """
    named = explicit or environ.get("GATEPOST_CONFIG")
    if named:
        return Path(named)  # `load` raises where it is missing
    here = Path("gatepost.toml")
    if os.path.lexists(here):
        if (problem := _not_ours(here)) is not None:
            raise ConfigError(
                f"./{here}: not obeyed: {problem}; name the configuration with --config FILE"
            )
        return here
    # Without permission for its directory the file may exist: `load` then raises DeniedError.
    try:
        os.stat(SYSTEM_FILE)
    except PermissionError:
        return SYSTEM_FILE
    except OSError:
        return None
    return SYSTEM_FILE


def _not_ours(path: Path) -> str | None:
    """Why another user could change `path`; None where only this user and root can."""
    for place, what in ((path, "it"), (path.absolute().parent, "its directory")):
        for look in (os.lstat, os.stat):
            try:
                status = look(place)
            except OSError as error:
                return f"{what} cannot be looked at: {error.strerror}"
            if status.st_uid not in (0, os.geteuid()):
                return f"{what} belongs to another user"
            if not stat.S_ISLNK(status.st_mode) and status.st_mode & 0o022:
                return f"{what} may be written by others (mode {status.st_mode & 0o7777:04o})"
    if not stat.S_ISREG(os.stat(path).st_mode):
        return "it is no plain file"  # a pipe would be waited for, for ever
    target = path.resolve()
    if target != path.absolute():
        return _not_ours(target)
    return None


def load(path: Path | None, *, store: str | None = None) -> "Settings":
    """The settings of `path`, or the defaults where it is None. `store` overrides `store.url`.

    Raises ConfigError for a file that cannot be read, is no TOML, or has a wrong key or value.
    """
    from gatepost_policy.config.settings import Settings
    from gatepost_policy.config.values import Problem, read_table

    document = {} if path is None else _read(path)
    where = "built-in defaults" if path is None else shown(str(path))
    if store is not None and isinstance(document.setdefault("store", {}), dict):
        document["store"]["url"] = store
    problems: list[Problem] = []
    settings = read_table(Settings, document, (), problems)
    if settings is None:
        from gatepost_policy.config.problems import line

        raise ConfigError(*(f"{where}: {line(problem)}" for problem in problems))
    # With --store the state is not the services' own, so the machine's defaults must not apply.
    settings = replace(settings, of_machine=path == SYSTEM_FILE and store is None)
    try:
        store_url(settings)
    except ValueError as error:
        place = "--store" if store is not None else f"{where}: store.url"
        raise ConfigError(f"{place}: want {STORE_WANTED}, {error}") from None
    try:
        read_url(settings)
    except ValueError as error:
        raise ConfigError(f'{where}: store.read_url: want "postgresql://...", {error}') from None
    return settings


def _read(path: Path) -> dict[str, Any]:
    """The TOML document of `path`. Raises ConfigError."""
    where = shown(str(path))
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except PermissionError as error:
        kind = DeniedError if path == SYSTEM_FILE else ConfigError
        raise kind(f"{where}: cannot read the configuration: {error.strerror}") from None
    except OSError as error:
        raise ConfigError(f"{where}: cannot read the configuration: {error.strerror}") from None
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError(f"{where}: want at most {MAX_FILE_BYTES} bytes, got more")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{where}: line {line}: want UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:  # names line and column
        raise ConfigError(f"{where}: not valid TOML: {shown(str(error))}") from None
    except RecursionError:
        raise ConfigError(f"{where}: not valid TOML: nested too deeply") from None
    except ValueError:  # Python converts at most 4300 digits
        raise ConfigError(f"{where}: not valid TOML: a number has too many digits") from None
    if (key := _with_nul(document)) is not None:
        raise ConfigError(f"{where}: {shown(key)}: want text without the character \\u0000")
    return document


def _with_nul(value: object, key: str = "") -> str | None:
    """The first key whose value has the character NUL, which no file, name or command can have."""
    if isinstance(value, dict):
        items = [(f"{key}.{name}".removeprefix("."), item) for name, item in value.items()]
    elif isinstance(value, list):
        items = [(key, item) for item in value]
    else:
        return key if isinstance(value, str) and "\0" in value else None
    found = (name if "\0" in name else _with_nul(item, name) for name, item in items)
    return next((name for name in found if name is not None), None)
