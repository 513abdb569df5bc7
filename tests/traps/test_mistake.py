"""Traps that are in use, and traps that were a mistake."""

import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine, func, select

from fix_store import message, signature
from gatepost_milter.cli import common
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import ingest, listings, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import dossier
from gatepost_policy.store.tables import Message, TrapHit

LIVE, OTHER = "alive@home.example", "trap@home.example"
DAY = 86_400


@pytest.fixture
def config_file(settings: Settings, tmp_path: Path) -> Path:
    file = tmp_path / "gatepost.toml"
    file.write_text(f'store.url = "{settings.store.url}"\nstore.journal = "{tmp_path}/journal"\n')
    return file


def run(file: Path, *words: str) -> tuple[int, str]:
    result = CliRunner().invoke(cli, ["--config", str(file), *words])
    if isinstance(result.exception, common.Failure):
        return result.exception.code, str(result.exception)
    return result.exit_code, result.output


def record(engine: Engine, settings: Settings, *mail: dict[str, object]) -> None:
    with store.writing(engine) as connection:
        for one in mail:
            ingest.ingest(connection, [one], settings, time.time())


def test_an_address_in_use_wants_force(
    engine: Engine, settings: Settings, config_file: Path
) -> None:
    now = time.time()
    record(engine, settings, *(message(n, at=now - n * DAY, to=(LIVE,)) for n in range(1, 4)),
           message(9, at=now - 90 * DAY, to=("old@home.example",)),
           message(10, at=now - DAY, sender="writes@home.example", author=None))  # fmt: skip
    for name in (LIVE, "ALIVE+tag@home.example", "@home.example", "ali*@home.example"):
        code, said = run(config_file, "trap", "add", name)
        assert code == 2 and "would have been trap hits" in said and "--force" in said, name
    code, said = run(config_file, "trap", "add", "writes@home.example")
    assert code == 2 and "named it as the sender" in said
    for name in ("old@home.example", "never@home.example", "@other.example"):
        assert run(config_file, "trap", "add", name)[0] == 0, name
    assert run(config_file, "trap", "add", "--force", LIVE)[0] == 0
    assert run(config_file, "trap", "add", LIVE)[0] == 0, "it is one already"


def test_a_mistake_is_taken_back(engine: Engine, settings: Settings, config_file: Path) -> None:
    """Hits, listings, repeat marks: as if it had never been a trap. Others' hits stay."""
    now = time.time()
    signed: dict[str, Any] = {"signatures": (signature(),)}
    other: dict[str, Any] = {"sender": "b@other.example", "author": "b@other.example"}
    with store.writing(engine) as connection:
        for name in (LIVE, OTHER):
            traps.add(connection, name, at=now - 60 * DAY)
    hits = [
        message(n, at=now - (50 - n * 20) * DAY, to=(), traps=(LIVE,), **signed) for n in range(3)
    ]
    record(engine, settings, *hits)
    record(
        engine,
        settings,
        message(7, at=now - DAY, client="192.0.2.9", to=(), traps=(LIVE, OTHER), **other),
    )
    record(engine, settings, message(8, at=now - DAY, client="192.0.2.8", to=(), traps=(LIVE,)))
    with store.reading(engine) as connection:
        before = {e.value for e in dossier.listings(connection, now, past=True, limit=99)}
        assert ("dkim", "sender.example") in listings.repeating(connection)
    assert before == {"sender.example", "192.0.2.9/32", "192.0.2.8/32"}
    code, said = run(config_file, "trap", "remove", "--mistake", LIVE)
    assert code == 0 and "5 hits taken back" in said
    with store.reading(engine) as connection:
        left = dossier.listings(connection, now, past=True, limit=99)
        assert [(e.value, e.hits) for e in left] == [("192.0.2.9/32", 1)]
        assert listings.repeating(connection) == []
        assert connection.scalar(select(func.count()).select_from(TrapHit)) == 1
        assert connection.scalar(select(func.sum(Message.traps))) == 1
    assert run(config_file, "trap", "remove", "--mistake", LIVE)[1].endswith("0 hits taken back\n")


def test_a_plain_removal_keeps_the_history(
    engine: Engine, settings: Settings, config_file: Path
) -> None:
    now = time.time()
    with store.writing(engine) as connection:
        traps.add(connection, LIVE, at=now - 60 * DAY)
    record(engine, settings, message(1, at=now - DAY, to=(), traps=(LIVE,)))
    assert run(config_file, "trap", "remove", LIVE)[0] == 0
    with store.reading(engine) as connection:
        assert len(dossier.listings(connection, now, past=True, limit=99)) == 1
