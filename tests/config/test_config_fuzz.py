"""Whatever stands in the file: it loads, or one printable line says what is wrong where."""

import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gatepost_policy import config
from gatepost_policy.config import ConfigError
from gatepost_policy.config.settings import Rule, Settings
from gatepost_policy.config.values import keys_of
from gatepost_policy.mail.decision import Reason

pytestmark = pytest.mark.slow

QUIET = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXT = st.text(max_size=20) | st.sampled_from(
    ["24h", "0s", "inet:1@127.0.0.1", "unix:/x", "192.0.2.0/24", "accept", "off", "0660", "sqlite:"]
)
SCALAR = TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans()
VALUE = SCALAR | st.lists(SCALAR, max_size=3)


def table(name: str) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    """One table with some of its own keys, and now and then one that is not its own."""
    fields = [key.name for key in keys_of(TABLES[name])]
    keys = st.sampled_from(fields) | st.text(string.ascii_lowercase + "_", min_size=1, max_size=9)
    return st.tuples(st.just(name), st.dictionaries(keys, VALUE, max_size=4))


TABLES: dict[str, Any] = {key.name: key.type for key in keys_of(Settings) if key.name != "rules"}
RULES = st.dictionaries(
    st.sampled_from([str(r) for r in Reason]) | st.text(string.ascii_lowercase, min_size=1),
    st.dictionaries(st.sampled_from([key.name for key in keys_of(Rule)]), SCALAR, max_size=3),
    max_size=2,
)


def toml(value: Any) -> str:
    """JSON's strings, numbers, booleans and lists are TOML, but for a few characters."""
    return json.dumps(value).replace("\\u007f", "\\u007f").replace("\\ud", "\\u0")


def loads(path: Path, data: bytes, check: Callable[[Settings], None] | None = None) -> None:
    path.write_bytes(data)
    try:
        got = config.load(path)
    except ConfigError as error:
        for line in error.problems:
            assert line.startswith(f"{path}: ") and line.isprintable(), line
            assert len(line) < 1_000 + len(str(path))
        return
    if check is not None:
        check(got)


@QUIET
@given(st.lists(st.sampled_from(list(TABLES)).flatmap(table), unique_by=lambda t: t[0]), RULES)
def test_any_document(
    tmp_path: Path, tables: list[tuple[str, dict[str, Any]]], rules: dict[str, dict[str, Any]]
) -> None:
    lines = []
    for name, keys in [*tables, *((f"rules.{reason}", keys) for reason, keys in rules.items())]:
        lines.append(f"[{name}]")
        lines += [f"{key} = {toml(value)}" for key, value in keys.items()]

    def stays(got: Settings) -> None:
        assert config.store_url(got) and config.worker_count(got) and config.journal_dir(got)

    loads(tmp_path / "gatepost.toml", "\n".join(lines).encode(), stays)


@QUIET
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_any_bytes(tmp_path: Path, data: bytes) -> None:
    loads(tmp_path / "gatepost.toml", data)


@pytest.mark.parametrize("name", ["a\x1b[31m.toml", "\u202e.toml", "\udcff.toml"])
def test_file_name_is_shown(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(tmp_path / name)
    assert str(caught.value).isprintable()
