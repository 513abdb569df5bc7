"""The configuration in force of a Postfix, read by its own `postconf`.

`read(...)` runs postconf three times (all parameters, services, overrides) and returns a
`PostfixConfig`; nothing is parsed that postconf can parse. Raises `Unreadable` with one line.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from gatepost_milter.doctor import postfix_lines

TIMEOUT = 30
SENDMAIL = Path("/etc/mail/sendmail.cf")
SUBMISSION_NAMES = ("submission", "submissions", "smtps")
SUBMISSION_PORTS = ("587", "465")
LISTENS = ("inet", "pass")


class Unreadable(Exception):
    """The configuration cannot be read; the text says what was tried."""


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
        """`name/type`, as postconf -P and -M name a service."""
        return f"{self.name}/{self.type}"

    @property
    def port(self) -> str:
        """The port of an inet listener, number or name, without the host."""
        return self.name.rpartition(":")[2]


@dataclass(frozen=True, slots=True)
class Item:
    """One milter or policy server of a list; `settings`: those in its own braces."""

    target: str
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Postconf:
    """One edit by postconf(1): `option` is -e (main.cf), -P (an option of a service) or -M (a
    service); `value` is what follows it, `name=value` as postconf wants it."""

    option: str
    value: str


@dataclass(frozen=True, slots=True)
class PostfixConfig:
    """main.cf with defaults, and master.cf. A parameter that this release does not know is in
    `parameters` only where another one refers to it.

    `directory` holds main.cf, `commands` holds postconf and postmap. `called` is the postconf
    command for this configuration, as one types it.
    """

    parameters: dict[str, str]
    services: tuple[Service, ...]
    directory: Path
    commands: Path
    called: tuple[str, ...] = ("postconf",)

    def get(self, name: str, service: Service | None = None) -> str:
        """The value in force for a service, `$name` expanded; '' where there is none."""
        return self._expand(self.raw(name, service), service, 0).strip()

    def raw(self, name: str, service: Service | None = None) -> str:
        """The value for a service as written, `$name` not expanded; '' where there is none."""
        if service is not None and name in service.overrides:
            return service.overrides[name]
        return self.parameters.get(name, "")

    def yes(self, name: str, service: Service | None = None) -> bool:
        """True where a boolean parameter is on; Postfix takes `Yes` as well."""
        return self.get(name, service).lower() == "yes"

    def _expand(self, value: str, service: Service | None, depth: int) -> str:
        if depth > 10:
            return value
        return postfix_lines.expanded(
            value, lambda name: self._expand(self.raw(name, service), service, depth + 1)
        )

    def smtpd(self) -> tuple[Service, ...]:
        """Every smtpd, listener or not."""
        return tuple(s for s in self.services if s.command == "smtpd")

    def is_submission(self, service: Service, daemon_names: tuple[str, ...] = ()) -> bool:
        """True for a listener where only our own users submit mail."""
        if service.type not in ("inet", "pass"):
            return False
        return (
            service.port in (*SUBMISSION_NAMES, *SUBMISSION_PORTS)
            or (
                "milter_macro_daemon_name" in service.overrides
                and self.get("milter_macro_daemon_name", service) in daemon_names
                # Port 25 with a submission name is a fault, and still gets inbound mail.
                and service.port not in ("smtp", "25")
            )
            # Port 25 where users can log in as well still gets inbound mail.
            or (
                "smtpd_sasl_auth_enable" in service.overrides
                and self.yes("smtpd_sasl_auth_enable", service)
                and service.port not in ("smtp", "25")
                and service.type == "inet"
            )
            or self._takes_logins_only(service)
        )

    def _takes_logins_only(self, service: Service) -> bool:
        """True where main.cf allows logins and only users can send here: other MTAs do not begin
        with TLS (wrappermode), and are refused by a restriction list that ends with reject."""
        if (
            service.type != "inet"
            or service.port in ("smtp", "25")
            or not self.yes("smtpd_sasl_auth_enable", service)
        ):
            return False
        if self.yes("smtpd_tls_wrappermode", service):
            return True
        for stage in ("client", "helo", "sender", "relay", "recipient"):
            value = self.get(f"smtpd_{stage}_restrictions", service).lower()
            words = value.replace(",", " ").split()
            if "permit_sasl_authenticated" in words and words[-1] in ("reject", "defer"):
                return not set(words) & {"permit_auth_destination", "permit"}
        return False

    def is_reinjection(self, service: Service, daemon_names: tuple[str, ...] = ()) -> bool:
        """True for a listener where a content filter hands back mail that it got from Postfix.

        It is known by an empty content_filter: else the mail would go to the filter again. Where an
        access table sends mail to the filter (FILTER), only loopback with XFORWARD tells.
        """
        loopback = service.name.startswith(("127.", "localhost:", "[::1]:", "::1:"))
        return (
            service.type == "inet"
            and service.port not in ("smtp", "25")
            and not self.is_submission(service, daemon_names)
            and (
                service.overrides.get("content_filter", "-") == ""
                or (loopback and bool(self.get("smtpd_authorized_xforward_hosts", service))
                    and "smtpd_authorized_xforward_hosts" in service.overrides)
            )
        )  # fmt: skip

    def submissions(self, daemon_names: tuple[str, ...] = ()) -> tuple[Service, ...]:
        """Listeners where only our own users submit mail."""
        return tuple(s for s in self.smtpd() if self.is_submission(s, daemon_names))

    def inbound(self, daemon_names: tuple[str, ...] = ()) -> tuple[Service, ...]:
        """Listeners for inbound mail."""
        return tuple(
            s for s in self.smtpd()
            if s.type in ("inet", "pass") and not self.is_submission(s, daemon_names)
            and not self.is_reinjection(s, daemon_names)
        )  # fmt: skip

    def reinjections(self, daemon_names: tuple[str, ...] = ()) -> tuple[Service, ...]:
        """Listeners where content filters hand mail back."""
        return tuple(s for s in self.smtpd() if self.is_reinjection(s, daemon_names))

    def knows(self, name: str) -> bool:
        """True where this release of Postfix has the parameter."""
        return name in self.parameters

    def set(self, name: str, value: str, service: Service | None = None) -> tuple[Postconf, ...]:
        """The edits that set a parameter in main.cf, or for one service in master.cf."""
        if service is None:
            return (Postconf("-e", f"{name} = {value}"),)
        short = postfix_lines.compact(value)
        if short is not None:
            return (Postconf("-P", f"{service.key}/{name}={short}"),)
        # `postconf -P` of Postfix 3.7 refuses white space, and here it is part of a word. So the
        # value goes to main.cf under a name of its own, and master.cf refers to that.
        own = re.sub(r"\W+", "_", f"gatepost_{service.name}_{name}")
        return (
            Postconf("-e", f"{own} = {value}"),
            Postconf("-P", f"{service.key}/{name}=${own}"),
        )

    def changed(self, edits: Iterable[Postconf]) -> "PostfixConfig":
        """This configuration as it would be after `edits`; no file is changed."""
        parameters, services = dict(self.parameters), list(self.services)
        for edit in edits:
            name, _, value = (part.strip() for part in edit.value.partition("="))
            if edit.option == "-e":
                parameters[name] = value
            elif edit.option == "-P":
                key, _, option = name.rpartition("/")
                services = [
                    replace(s, overrides={**s.overrides, option: value}) if s.key == key else s
                    for s in services
                ]
            else:
                services = [s for s in services if s.key != name] + _services(value, {})
        return replace(self, parameters=parameters, services=tuple(services))

    def service(self, name: str) -> Service | None:
        """The service of this host with this name, whichever local socket it has (unix, fifo)."""
        return next((s for s in self.services if s.name == name and s.type not in LISTENS), None)

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

    def answers(self, table: str, keys: tuple[str, ...]) -> tuple[str, ...]:
        """What `table` answers for these keys, in order, without those it does not have (postmap
        -q). Raises Unreadable where it cannot be asked."""
        text = "".join(f"{key}\n" for key in keys)
        done = _run([self.commands / "postmap", "-c", self.directory, "-q", "-", table], text)
        if done.returncode > 1 or b"fatal" in done.stderr:
            raise Unreadable(_last(done.stderr))
        lines = done.stdout.decode(errors="replace").splitlines()
        return tuple(line.partition("\t")[2] for line in lines)


def items(value: str) -> tuple[Item, ...]:
    """A list of milters or policy servers: commas or spaces between, braces around settings."""
    pairs = (postfix_lines.settings_of(word.text) for word in postfix_lines.words(value))
    return tuple(Item(target, settings) for target, settings in pairs if target)


def read(directory: Path | None = None, commands: Path | None = None) -> PostfixConfig:
    """The configuration in `directory` (None: Postfix's own), read with `commands`/postconf.

    Raises Unreadable.
    """
    folder = commands or _find_commands()
    postconf: list[str | Path] = [folder / "postconf"]
    called = ["postconf" if commands is None else str(folder / "postconf")]
    if directory is not None:
        postconf += ["-c", directory]
        called += ["-c", str(directory)]
    parameters = _pairs(_output(postconf))
    overrides: dict[str, dict[str, str]] = {}
    for key, value in _pairs(_output([*postconf, "-P"])).items():
        # "submission/inet/smtpd_milters"; a unix service's name may hold slashes itself.
        service, kind, name = key.rsplit("/", 2)
        overrides.setdefault(f"{service}/{kind}", {})[name] = value
    return PostfixConfig(
        parameters=parameters,
        services=tuple(_services(_output([*postconf, "-M"]), overrides)),
        directory=directory or Path(parameters.get("config_directory", "/etc/postfix")),
        commands=folder,
        called=tuple(called),
    )


def _services(text: str, overrides: dict[str, dict[str, str]]) -> list[Service]:
    """Lines of master.cf as `postconf -M` prints them."""
    found = []
    for line in text.splitlines():
        columns = line.split()
        if len(columns) >= 8:
            name, kind, _, _, chroot, _, _, command = columns[:8]
            found.append(Service(name, kind, chroot, command, overrides.get(f"{name}/{kind}", {})))
    return found


def _pairs(text: str) -> dict[str, str]:
    lines = (line.partition("=") for line in text.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _, value in lines}


def _find_commands() -> Path:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/opt/postfix/sbin"
    found = shutil.which("postconf", path=path)
    if found is None and SENDMAIL.exists():
        raise Unreadable(
            "no postconf here: this is Sendmail, whose submissions cannot be scrubbed and get 451 "
            "(docs/neighbours.md)"
        )
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
