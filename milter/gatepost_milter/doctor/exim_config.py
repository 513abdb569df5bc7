"""The configuration in force of an Exim, by `exim -bP config`: macros and includes are resolved.

`read(...)` raises `Unreadable` with one line. `parse` never fails: it skips lines that it does not
know.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from gatepost_milter.doctor.postfix_config import Unreadable

TIMEOUT = 30
VERBS = ("accept", "defer", "deny", "discard", "drop", "require", "warn")
# Of the Exim specification, "ACL modifiers": the others are conditions.
MODIFIERS = frozenset((
    "add_header", "continue", "control", "delay", "endpass", "log_message", "log_reject_target",
    "logwrite", "message", "queue", "remove_header", "set", "udpsend",
))  # fmt: skip


_ACL_CALL = re.compile(r"\bacl\s*\{\s*\{?\s*([A-Za-z0-9_]+)")  # ${acl{name}}, {acl {{name}}}


@dataclass(frozen=True, slots=True)
class Statement:
    """One ACL statement: its verb, and its conditions and modifiers in order, as (name, value).
    `variables`: what its `set` modifiers set, in order."""

    verb: str
    parts: tuple[tuple[str, str], ...]
    variables: tuple[str, ...] = ()

    def values(self, name: str) -> tuple[str, ...]:
        """The values of all its conditions or modifiers of this name, in order."""
        return tuple(value for key, value in self.parts if key == name)

    @property
    def strangers_only(self) -> bool:
        """True where a condition excludes clients that have logged in."""
        return any(
            key == "!authenticated" or (key == "condition" and "authenticated_id" in value)
            for key, value in self.parts
        )

    @property
    def conditions(self) -> tuple[str, ...]:
        """The names of its conditions; negated ones with `!` in front."""
        return tuple(key for key, _ in self.parts if key not in MODIFIERS)


@dataclass(frozen=True, slots=True)
class EximConfig:
    """`options`: main options by name; `acls`: statements by ACL name; `text`: the whole output.
    `called`: the program with the options that name its configuration; empty: it cannot be run."""

    options: dict[str, str]
    acls: dict[str, tuple[Statement, ...]]
    text: str
    called: tuple[str | Path, ...] = ()

    def roots(self, option: str) -> tuple[str, ...]:
        """The ACLs that an option names: one, or all that its expansion may give."""
        value = self.options.get(option, "")
        return (value,) if value in self.acls else self._named(value)

    def _named(self, text: str) -> tuple[str, ...]:
        return tuple(w for w in re.findall(r"[A-Za-z0-9_]+", text) if w in self.acls)

    def calls(self, statement: Statement) -> tuple[str, ...]:
        """The ACLs that a statement calls, in a condition (`acl`, `!acl`) or in an expansion."""
        found: list[str] = []
        for key, value in statement.parts:
            if key in ("acl", "!acl"):
                first = value.split()[:1]
                found += first if first and first[0] in self.acls else self._named(value)
            elif "acl" in value:
                found += (n for n in _ACL_CALL.findall(value) if n in self.acls)
        return tuple(found)

    def reached(self, option: str) -> tuple[Statement, ...]:
        """Every statement of the ACLs that an option names, and of those they call."""
        return self.within(*self.roots(option))

    def within(self, *names: str) -> tuple[Statement, ...]:
        """Every statement of the ACLs of these names, and of those they call."""
        found: list[Statement] = []
        seen: set[str] = set()
        todo = list(names)
        while todo:
            name = todo.pop()
            if name in seen or name not in self.acls:
                continue
            seen.add(name)
            for statement in self.acls[name]:
                found.append(statement)
                todo += self.calls(statement)
        return tuple(found)


def read(file: Path | None = None, program: Path | None = None) -> EximConfig:
    """The configuration as `program` (None: the installed Exim) reads `file` (None: its own).
    Raises Unreadable."""
    command: list[str | Path] = [program or _find()]
    if file is not None:
        command += ["-C", file]
    try:
        done = subprocess.run(
            [*command, "-bP", "config"], capture_output=True, timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unreadable(f"{command[0]}: {error}") from error
    text = done.stdout.decode(errors="replace")
    if done.returncode or "begin acl" not in text:
        lines = (done.stderr.decode(errors="replace") or text).strip().splitlines()
        raise Unreadable(
            f"{command[0]} -bP config: {lines[-1] if lines else 'no output'} (are you root?)"
        )
    return replace(parse(text), called=tuple(command))


def _find() -> Path:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/usr/exim/bin"
    found = shutil.which("exim4", path=path) or shutil.which("exim", path=path)
    if found is None:
        raise Unreadable("no exim4 or exim in /usr/sbin: say --exim FILE")
    return Path(found)


def parse(text: str) -> EximConfig:
    """Read the output of `exim -bP config`."""
    options: dict[str, str] = {}
    acls: dict[str, list[Statement]] = {}
    section, name = "main", ""
    for raw in text.splitlines():
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("begin "):
            section = line.split()[1]
            continue
        if section == "main":
            key, equals, value = line.partition("=")
            options[key.strip()] = value.strip() if equals else "true"
        elif section == "acl":
            if re.fullmatch(r"[A-Za-z0-9_$.]+:", line):
                name = line[:-1]
                acls[name] = []
            elif name:
                _add(acls[name], line)
    return EximConfig(options, {k: tuple(v) for k, v in acls.items()}, text)


def _add(statements: list[Statement], line: str) -> None:
    """Add one line: a verb opens a statement, every other line belongs to the last one."""
    word = line.split()[0]
    if word in VERBS:
        statements.append(Statement(word, ()))
        line = line[len(word) :].strip()
    if not line or not statements:
        return
    key, _, value = line.partition("=")
    last = statements[-1]
    # "set acl_m_x = ..." is one modifier; its value may hold "=" again.
    name, variable = key.replace(" ", "").strip(), ""
    if key.strip().startswith("set "):
        name, variable = "set", key.split()[1]
    variables = (*last.variables, variable) if variable else last.variables
    statements[-1] = Statement(last.verb, (*last.parts, (name, value.strip())), variables)
