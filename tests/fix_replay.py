"""A store that knows one trap, a private milter on it, and `milterctl` beside them."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import on_engine
from fix_store import settings_in
from gatepost_milter.replay.private_milter import PrivateMilter
from gatepost_policy import lookup, store, traps
from gatepost_policy.config.settings import Settings

MILTERCTL = Path(sys.executable).with_name("milterctl")
TRAP = "trap@home.example"
HEAD = (
    b"Received: from helo.example (name.example [192.0.2.7])\n"
    b"\tby mx.home.example (Postfix) with ESMTP id 4F3D\n"
    b"\tfor <user@home.example>; Fri, 20 Nov 2026 09:00:00 +0000\n"
)
MESSAGE = HEAD + b"From: a@sender.example\nSubject: x\n\nbody\n"


@pytest.fixture(scope="module")
def replay_store(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Settings:
    """A store that knows one trap; what a running service would have published is there."""
    directory = tmp_path_factory.mktemp("state")
    shutil.copy(migrated, directory / "gatepost.sqlite")
    settings = settings_in(directory)
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=1.0)
    with store.reading(engine) as connection:
        lookup.publish(connection, directory, settings)
    engine.dispose()
    return settings


@pytest.fixture(scope="module")
def replay_milter(milter_engine: str, replay_store: Settings) -> Iterator[PrivateMilter]:
    with PrivateMilter(on_engine(replay_store, milter_engine), workers=1) as milter:
        yield milter


@pytest.fixture
def run_replay(
    tmp_path: Path, replay_store: Settings, run_milterctl: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run `milterctl replay`: (exit code, lines of stdout, stderr)."""
    state = tmp_path / "state"
    state.mkdir()
    for file in Path(replay_store.store.url).parent.glob("*.*"):
        shutil.copy(file, state)
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{state}/gatepost.sqlite"\n')
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, list[str], str]:
        code, out, err = run_milterctl("--config", config, *arguments)
        return code, out.splitlines(), err

    return run
