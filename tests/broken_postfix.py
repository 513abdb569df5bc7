"""Broken Postfix configurations: the shipped recipe with one fault, read by the real postconf.

`instance` makes one, `codes` asks the doctor, and `paste` carries a finding's advice out as a
person would: shell lines in a shell, lines of gatepost.toml into the settings.
"""

import os
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mta_unpack
from from_table import from_table
from gatepost_milter.doctor import postfix, postfix_config
from gatepost_milter.doctor.finding import Finding
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.values import write_table
from mta_modes import RECIPES
from postfix_instance import PostfixInstance, Setup
from postfix_recipes import TOKEN, adapted, main_cf, shipped

ROOT = Path(__file__).parents[1]
MODES: dict[str, dict[str, str]] = {
    "milter": {},
    "mta": {"own_received": "mta", "mta_token": TOKEN},
    "hide": {"own_received": "mta"},
    "proxy": {"own_received": "proxy"},
}


@dataclass(frozen=True, slots=True)
class Broken:
    """One fault: what is changed, and the code of the finding that must come.

    @MILTER@, @POLICY@, @ETC@, @DEAD@ and @INBOUND@ are put in: sockets, directory, a port where
    nobody listens, the inbound port.
    """

    name: str
    code: str
    mode: str = "milter"
    main: Mapping[str, str] = field(default_factory=dict)
    drop: str = ""  # a line of the recipe that is missing
    submission: Mapping[str, str] = field(default_factory=dict)
    inbound: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str | None] = field(default_factory=dict)
    services: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)  # of [submission]
    also: tuple[str, ...] = ()  # findings that the same fault brings with it
    by_hand: bool = False  # the advice is no line to paste: start something, look up a file


@dataclass(frozen=True, slots=True)
class Sockets:
    """Where gatepost seems to listen, and a port where nobody does."""

    milter: str
    policy: int
    dead: int

    @property
    def postfix(self) -> str:
        return self.milter if self.milter.startswith("unix:") else f"inet:127.0.0.1:{self.milter}"


def settings(mode: str, sockets: Sockets, more: Mapping[str, Any] | None = None) -> Settings:
    where = sockets.milter
    return from_table(Settings, {
        "milter": {"socket": where if where.startswith("unix:") else f"inet:{where}@127.0.0.1"},
        "policy": {"listen": f"inet:{sockets.policy}@127.0.0.1"},
        "submission": {**MODES[mode], **(more or {})},
    })  # fmt: skip


def instance(
    programs: mta_unpack.Programs, broken: Broken, sockets: Sockets, run: bool = False
) -> PostfixInstance:
    """The shipped recipe of the mode with the one fault put in."""
    policy = f"inet:127.0.0.1:{sockets.policy}"

    def put(text: str) -> str:
        for name, value in (("@MILTER@", sockets.postfix), ("@POLICY@", policy),
                            ("@DEAD@", str(sockets.dead))):  # fmt: skip
            text = text.replace(name, value)
        return text

    def each(values: Mapping[str, str]) -> dict[str, str]:
        return {k: put(v) for k, v in values.items()}

    recipe = adapted(shipped(RECIPES[broken.mode]), "@ETC@", sockets.postfix)
    if broken.drop:
        line = put(broken.drop)
        assert recipe.count(line) >= 1, (broken.name, recipe)
        recipe = recipe.replace(f"  {line}\n", "", 1)
    table = adapted(shipped("submission_received"), "@ETC@", sockets.postfix)
    main = main_cf(adapted(shipped("main.cf"), "@ETC@", sockets.postfix, policy))
    setup = Setup(main={**main, **each(broken.main)}, recipe=recipe,
                  submission=each(broken.submission), inbound=each(broken.inbound),
                  files={"submission_received": table,
                         **{k: v for k, v in broken.files.items() if v is not None}},
                  services=put(broken.services))  # fmt: skip
    made = PostfixInstance(programs, setup, run=False)
    for name, text in broken.files.items():
        if text is None:
            (made.etc / name).unlink()
    master = (made.etc / "master.cf").read_text()
    (made.etc / "master.cf").write_text(master.replace("@INBOUND@", str(made.inbound_port)))
    if run:
        made.start()
    return made


def findings(made: PostfixInstance, live: Settings) -> tuple[Finding, ...]:
    return postfix.check(postfix_config.read(made.etc, made.commands_for_check()), live)


def codes(made: PostfixInstance, live: Settings) -> list[str]:
    return [f.code for f in findings(made, live)]


def paste(made: PostfixInstance, finding: Finding, live: Settings) -> Settings:
    """Do what the finding's line says; the settings as they are then."""
    change = finding.change
    if change.startswith("gatepost.toml: "):
        table, _, line = change.removeprefix("gatepost.toml: ").partition("] ")
        name = table.strip("[")
        values = tomllib.loads(line.partition("; then")[0])
        old = write_table(live, changed=True)
        new = from_table(Settings, {**old, name: {**old.get(name, {}), **values}})
        if "; then milterctl setup postfix --apply" in change:
            apply_plan(made, new)
        return new
    done = subprocess.run(
        ["sh", "-c", change], cwd=ROOT, env={**os.environ, **made.environment()},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, (change, done.stderr)
    return live


def apply_plan(made: PostfixInstance, live: Settings) -> Sequence[str]:
    """The commands of `setup postfix`, pasted one by one."""
    from gatepost_milter.setup import postfix_plan

    config = postfix_config.read(made.etc, made.commands_for_check())
    commands = postfix_plan.plan(config, live).commands(config)
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command], env={**os.environ, **made.environment()},
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert done.returncode == 0, (command, done.stderr)
    return commands
