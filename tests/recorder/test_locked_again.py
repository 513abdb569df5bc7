"""A recorder whose journal was taken away goes on watching what it has published."""

import shutil

from sqlalchemy import Engine

from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup.snapshot import NOW_FILE
from gatepost_policy.recorder import Recorder


def test_published_files_are_watched_after_a_second_lock(
    engine: Engine, settings: Settings
) -> None:
    working = Recorder(settings, lambda level, text: None)
    assert working.lock()
    working.step()
    shutil.rmtree(config.journal_dir(settings))
    assert working.lock()
    working.step()
    published = config.state_dir(settings) / NOW_FILE
    published.unlink()
    working.step()
    assert published.is_file()
    working.close()
