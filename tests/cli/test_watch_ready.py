"""`milterctl watch` says "ready" once the place where it began is written down, not before.

Killed in between, and started again after a rotation, it would begin anew behind the rotated lines.
"""

import json
import os
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from daemons import BIN
from gatepost_policy import store
from gatepost_policy.config.settings import Settings

PATIENCE_S = 60.0


def full_pipe() -> tuple[int, int]:
    """A pipe that takes nothing more: who writes a word to it waits."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(writing, b"x" * size)
    os.set_blocking(writing, True)
    return reading, writing


def positions(settings: Settings) -> int:
    engine = store.open_engine(settings)
    try:
        with store.reading(engine) as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM watch_position").scalar()
    finally:
        engine.dispose()
    return int(found or 0)


def test_the_position_comes_first(settings: Settings, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.touch()
    config = tmp_path / "watch.toml"
    config.write_text(
        f"store.url = {json.dumps(settings.store.url)}\n"
        f"store.journal = {json.dumps(settings.store.journal)}\n"
    )
    reading, writing = full_pipe()
    words: list[str | Path] = [BIN / "milterctl", "--config", config, "watch", log]
    process = subprocess.Popen(words, stdout=writing)
    os.close(writing)
    try:
        deadline = time.monotonic() + PATIENCE_S
        while not positions(settings) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.1)
        assert positions(settings) == 1
    finally:
        process.kill()
        process.wait()
        os.close(reading)
