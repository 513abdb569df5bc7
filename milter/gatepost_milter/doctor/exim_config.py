"""The live configuration of an Exim, as `exim -bP config` tells it: macros and includes resolved.

`read(...)` raises `Unreadable` with one line; parsing never fails, what it does not know it skips.
"""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gatepost_milter.doctor.postfix_config import Unreadable

TIMEOUT = 30
VERBS = ("accept", "defer", "deny", "discard", "drop", "require", "warn")


@dataclass(frozen=True, slots=True)
class Statement:
    """One ACL statement: its verb, and its conditions and modifiers in order, as (name, value)."""

    verb: str
    parts: tuple[tuple[str, str], ...]

    def values(self, name: str) -> tuple[str, ...]:
        return tuple(value for key, value in self.parts if key == name)


@dataclass(frozen=True, slots=True)
class EximConfig:
    """Main options by name, ACLs by name."""

    options: dict[str, str]
    acls: dict[str, tuple[Statement, ...]]
    text: str

    def reached(self, option: str) -> tuple[Statement, ...]:
        """Every statement of the ACL that an option names, and of those it calls."""
        found: list[Statement] = []
        seen: set[str] = set()
        todo = [self.options.get(option, "")]
        while todo:
            name = todo.pop()
            if name in seen or name not in self.acls:
                continue
            seen.add(name)
            for statement in self.acls[name]:
                found.append(statement)
                todo += [v.split()[0] for v in statement.values("acl") if v.split()]
        return tuple(found)


def read(file: Path | None = None, program: Path | None = None) -> EximConfig:
    """What `program` makes of `file` (None: its own). Raises Unreadable."""
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
    return parse(text)


def _find() -> Path:
    path = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin:/usr/exim/bin"
    found = shutil.which("exim4", path=path) or shutil.which("exim", path=path)
    if found is None:
        raise Unreadable("no exim4 or exim in /usr/sbin: say --exim FILE")
    return Path(found)


def parse(text: str) -> EximConfig:
    """The output of `exim -bP config`."""
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
    name = "set" if key.strip().startswith("set ") else key.strip()
    statements[-1] = Statement(last.verb, (*last.parts, (name, value.strip())))
