"""`milterctl` in this process, on a store of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from gatepost_milter.cli.common import Failure
from gatepost_milter.cli.milterctl import cli
from gatepost_policy.config.settings import Settings

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(engine: Engine, settings: Settings, tmp_path: Path) -> Run:
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'store.url = "{settings.store.url}"\nstore.journal = "{settings.store.journal}"\n'
    )

    def invoke(*words: str, stdin: bytes | None = None) -> tuple[int, str]:
        result = CliRunner().invoke(cli, ["--config", str(config), *words], input=stdin)
        error = result.exception
        if isinstance(error, Failure):  # `cli.main` prints it and leaves with its code
            return error.code, f"{result.output}{error}\n"
        assert error is None or isinstance(error, SystemExit), result.exc_info
        return result.exit_code, result.output

    return invoke
