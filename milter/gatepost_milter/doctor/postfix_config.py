"""The live configuration of a Postfix, as its own `postconf` tells it.

`read(...)` runs postconf three times (all parameters, services, overrides) and answers with a
`PostfixConfig`; nothing is parsed that postconf can parse. Raises `Unreadable` with one line.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT = 30
SUBMISSION_NAMES = ("submission", "submissions", "smtps")
SUBMISSION_PORTS = ("587", "465")


class Unreadable(Exception):
    """The configuration cannot be had; the text says what was tried."""


@dataclass(frozen=True, slots=True)
class Service:
    """One line of master.cf. `name` is as it stands there; `key` is how postconf -P calls it."""

    name: str
    type: str
    chroot: str
    command: str
    overrides: dict[str, str]

    @property
    def key(self) -> str:
        return f"{self.name}/{self.type}"

    @property
    def port(self) -> str:
        return self.name.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Item:
    """One milter or policy server of a list, with its own settings in braces."""

    target: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PostfixConfig:
    """main.cf with defaults, and master.cf."""

    parameters: dict[str, str]
    services: tuple[Service, ...]
    directory: Path
    commands: Path

    def get(self, name: str, service: Service | None = None) -> str:
        """The value in force for a service, `$name` expanded; '' where there is none."""
        return self._expand(self.raw(name, service), service, 0).strip()

    def raw(self, name: str, service: Service | None = None) -> str:
        if service is not None and name in service.overrides:
            return service.overrides[name]
        return self.parameters.get(name, "")

    def _expand(self, value: str, service: Service | None, depth: int) -> str:
        if depth > 10:
            return value

        def put(match: re.Match[str]) -> str:
            name = match.group(1) or match.group(2)
            return self._expand(self.raw(name, service), service, depth + 1)

        return re.sub(r"\$(?:[{(]([A-Za-z0-9_]+)[})]|([A-Za-z0-9_]+))", put, value)

    def smtpd(self) -> tuple[Service, ...]:
        """Every smtpd, listener or not."""
        return tuple(s for s in self.services if s.command == "smtpd")

    def is_submission(self, service: Service, daemon_names: tuple[str, ...] = ()) -> bool:
        """True for a listener where our own users hand in mail."""
        if service.type not in ("inet", "pass"):
            return False
        return (
            service.name in SUBMISSION_NAMES
            or service.port in (*SUBMISSION_NAMES, *SUBMISSION_PORTS)
            or service.overrides.get("smtpd_sasl_auth_enable") == "yes"
            or service.overrides.get("milter_macro_daemon_name", "") in daemon_names
        )

    def submissions(self, daemon_names: tuple[str, ...] = ()) -> tuple[Service, ...]:
        return tuple(s for s in self.smtpd() if self.is_submission(s, daemon_names))

    def inbound(self, daemon_names: tuple[str, ...] = ()) -> tuple[Service, ...]:
        """Listeners for strangers."""
        return tuple(
            s for s in self.smtpd()
            if s.type in ("inet", "pass") and not self.is_submission(s, daemon_names)
        )  # fmt: skip

    def service(self, name: str) -> Service | None:
        """The unix service of this name."""
        return next((s for s in self.services if s.name == name and s.type == "unix"), None)

    def chrooted(self, service: Service) -> bool:
        """True where the service runs in the queue directory."""
        if service.chroot in ("y", "n"):
            return service.chroot == "y"
        # Postfix 3.0: "-" means yes only in the compatibility mode of the releases before it.
        level = self.get("compatibility_level") or "0"
        return level.partition(".")[0] == "0"

    def lookup(self, table: str, text: str) -> str:
        """What `table` does with header text (postmap -h). Raises Unreadable where it cannot."""
        done = _run([self.commands / "postmap", "-c", self.directory, "-hq", "-", table], text)
        if done.returncode > 1 or b"fatal" in done.stderr or b"error" in done.stderr:
            raise Unreadable(_last(done.stderr))
        return done.stdout.decode(errors="replace")


def items(value: str) -> tuple[Item, ...]:
    """A list of milters or policy servers: commas or spaces between, braces around settings."""
    found: list[Item] = []
    for token in re.findall(r"\{[^{}]*\}|[^\s,{}]+", value):
        if not token.startswith("{"):
            found.append(Item(token))
            continue
        # Inside braces as well, commas or spaces stand between; a name and = may stand apart.
        parts = re.sub(r"\s*=\s*", "=", token[1:-1]).replace(",", " ").split()
        if parts:
            pairs = (p.partition("=") for p in parts[1:])
            found.append(Item(parts[0], {k: v for k, _, v in pairs}))
    return tuple(found)


def read(directory: Path | None = None, commands: Path | None = None) -> PostfixConfig:
    """The configuration in `directory` (None: Postfix's own), read with `commands`/postconf.

    Raises Unreadable.
    """
    folder = commands or _find_commands()
    postconf: list[str | Path] = [folder / "postconf"]
    if directory is not None:
        postconf += ["-c", directory]
    parameters = _pairs(_output(postconf))
    overrides: dict[str, dict[str, str]] = {}
    for key, value in _pairs(_output([*postconf, "-P"])).items():
        # "submission/inet/smtpd_milters"; a unix service's name may hold slashes itself.
        service, kind, name = key.rsplit("/", 2)
        overrides.setdefault(f"{service}/{kind}", {})[name] = value
    services = []
    for line in _output([*postconf, "-M"]).splitlines():
        columns = line.split()
        if len(columns) >= 8:
            name, kind, _, _, chroot, _, _, command = columns[:8]
            services.append(
                Service(name, kind, chroot, command, overrides.get(f"{name}/{kind}", {}))
            )
    return PostfixConfig(
        parameters=parameters,
        services=tuple(services),
        directory=directory or Path(parameters.get("config_directory", "/etc/postfix")),
        commands=folder,
    )


def _pairs(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def _find_commands() -> Path:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/postfix/sbin"
    found = shutil.which("postconf", path=path)
    if found is None:
        raise Unreadable("no postconf in /usr/sbin: say --command-directory DIR")
    return Path(found).parent


def _output(command: list[str | Path]) -> str:
    done = _run(command, "")
    if done.returncode:
        raise Unreadable(f"{command[0]}: {_last(done.stderr)}")
    return done.stdout.decode(errors="replace")


def _run(command: list[str | Path], text: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{command[0]}: {error}") from error


def _last(stderr: bytes) -> str:
    lines = stderr.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"
