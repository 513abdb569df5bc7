"""What is ours reaches every process: by traps made by hand, never by an imported list."""

import time
from pathlib import Path

import pytest
from sqlalchemy import Engine

from gatepost_policy import config, store, traps
from gatepost_policy.config import own_names
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import KnownState
from gatepost_policy.mail.own import NOTHING_OWN
from gatepost_policy.recorder import Recorder


def test_who_records_tells(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_names, "LOOK_S", 0.0)
    state = KnownState(settings)
    assert state.own() == NOTHING_OWN
    recorder = Recorder(settings)
    assert recorder.lock()
    recorder.step()
    end = time.monotonic() + 30
    while "127.0.0.1/32" not in map(str, state.own().networks):
        assert time.monotonic() < end
        time.sleep(0.01)
    with engine.connect() as connection:
        traps.import_lines(connection, [b"x@published.example\n"], at=1.0)
    with store.writing(engine) as connection:
        for name in ("trap@home.example", "@old.example", "*@*.pattern.example"):
            traps.add(connection, name, at=1.0)
    recorder.step()
    names = state.own().domains
    assert {"home.example", "old.example"} <= set(names)
    assert "published.example" not in names and not any("*" in name for name in names)
    with store.writing(engine) as connection:
        traps.remove(connection, "@old.example", at=2.0)
    recorder.step()
    assert "old.example" not in state.own().domains
    recorder.close()


def test_a_broken_file_is_nothing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_names, "LOOK_S", 0.0)
    directory: Path = config.state_dir(settings)
    own_names.write(directory, own_names.made(["a.example"], ["192.0.2.0/24"]))
    assert own_names.read(directory).domains == ("a.example",)
    (directory / own_names.FILE).write_text("{")
    assert own_names.read(directory) == NOTHING_OWN
