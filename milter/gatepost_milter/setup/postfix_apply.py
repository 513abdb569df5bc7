"""Carry a plan out on a live Postfix, or undo the last one. Where a step fails, all are undone."""

import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gatepost_milter.doctor import postfix, postfix_config, postfix_lines, postfix_policy, sockets
from gatepost_milter.doctor.finding import Finding, Live
from gatepost_milter.doctor.postfix_config import PostfixConfig
from gatepost_milter.setup import copies
from gatepost_milter.setup.postfix_plan import Plan, links, plan
from gatepost_policy.config.settings import Settings
from gatepost_policy.system.socket_address import SocketAddress

FILES = ("main.cf", "master.cf")
TIMEOUT = 120


class Failed(Exception):
    """The change was not made, or was undone. `unreachable`: gatepost does not answer."""

    def __init__(self, text: str, unreachable: bool = False) -> None:
        super().__init__(text)
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Done:
    """The result. `running`: False where Postfix does not run and so was not reloaded; `left`: the
    findings that remain."""

    running: bool
    left: tuple[Finding, ...]


def apply(
    config: PostfixConfig, settings: Settings, made: Plan, say: Callable[[str], None]
) -> Done:
    """Make the edits, check, reload, check again. Raises Failed; then nothing has changed."""
    _before(config, settings)
    with _alone(config.directory):
        copy = newest_or_none(config)
        if copy is not None and copies.unfinished(copy, FILES):
            raise Failed("an earlier --apply was cut off: milterctl setup postfix --undo first")
        foreseen = {(f.code, f.where) for f in made.left}
        try:
            copy = copies.take(config.directory, FILES)
        except OSError as error:
            raise Failed(f"{error.filename}: {error.strerror}; are you root?") from None
        try:
            for edit in made.edits:
                _run([*_program(config, "postconf"), edit.option, edit.value])
            _run([*_program(config, "postfix"), "check"])
            after = _again(config)
            found = postfix.check(after, settings)
            fresh = [f for f in found if (f.code, f.where) not in foreseen]
            if still := plan(after, settings).edits:
                raise Failed(f"postconf did not keep {still[0].value}")
            if fresh:
                raise Failed(f"{fresh[0].where}: {fresh[0].problem} [{fresh[0].code}]")
            running = _reload(config)
            copies.finish(copy, FILES)
        except BaseException as error:
            copies.put_back(copy, FILES, check=False)
            _reload(config)
            if isinstance(error, Failed | postfix_config.Unreadable | OSError):
                raise Failed(f"{error}; everything is as it was") from None
            raise
    say(f"the files as they were are in {copy}; milterctl setup postfix --undo puts them back")
    return Done(running, found)


def newest_or_none(config: PostfixConfig) -> Path | None:
    """The copy that --undo would use."""
    return copies.newest(config.directory)


def undo(config: PostfixConfig) -> bool:
    """Put the files back as they were before the last --apply; True where Postfix was reloaded.

    Raises copies.Edited with the difference, copies.NoCopy, Failed.
    """
    with _alone(config.directory):
        copy = newest_or_none(config)
        if copy is None:
            raise copies.NoCopy(f"nothing to undo: no copy in {config.directory}/{copies.FOLDER}")
        try:
            copies.put_back(copy, FILES)
        except OSError as error:
            raise Failed(f"{error.filename}: {error.strerror}; are you root?") from None
        return _reload(config)


def _before(config: PostfixConfig, settings: Settings) -> None:
    """Checks before any change. Raises Failed."""
    if found := links(config):
        raise Failed(f"{found[0]} is a symbolic link, and postconf would put a file in its place: "
                     f"run the commands on {os.path.realpath(found[0])} yourself")  # fmt: skip
    milter = SocketAddress.parse(settings.milter.socket)
    for name, address in (
        ("gatepost-milter", milter),
        *(("gatepost-policyd", a) for a in postfix_lines.policy_sockets(settings)[:1]),
    ):
        if problem := sockets.reachable(address):
            raise Failed(f"{problem}: start {name} first, or your users' mail waits", True)
    assert postfix_policy.server(Live(config, settings))


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Lock, so that only one setup runs at a time. Raises Failed."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failed(f"another milterctl setup is at work in {directory}") from None
        yield
    finally:
        os.close(handle)


def _program(config: PostfixConfig, name: str) -> list[str]:
    return [str(config.commands / name), "-c", str(config.directory)]


def _again(config: PostfixConfig) -> PostfixConfig:
    return postfix_config.read(config.directory, config.commands)


def _reload(config: PostfixConfig) -> bool:
    """Make a running Postfix read its files again; False where it does not run."""
    program = _program(config, "postfix")
    if _call([*program, "status"]).returncode:
        return False
    _run([*program, "reload"])
    return True


def _run(command: list[str]) -> None:
    done = _call(command)
    if done.returncode:
        lines = (done.stderr + done.stdout).strip().splitlines()
        raise Failed(f"{' '.join(command[:1] + command[3:])}: {lines[-1] if lines else 'failed'}")


def _call(command: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failed(f"{command[0]}: {error}") from None
