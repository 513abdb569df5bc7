"""conf/gatepost.toml is the configuration's documentation: complete, true and commented."""

import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel

from gatepost_policy import config
from gatepost_policy.settings import Rule, Settings

SAMPLE = Path(__file__).parents[1] / "conf" / "gatepost.toml"


def keys() -> list[tuple[str, str]]:
    """Every key of the settings as (table, key), in their order."""
    found = []
    for table, field in Settings.model_fields.items():
        section = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            found += [(table, key) for key in section.model_fields]
    return found


def test_sample_is_the_defaults() -> None:
    """Copying the file to /etc changes nothing."""
    assert config.load(SAMPLE) == config.load(None)


def test_sample_names_every_key() -> None:
    document = tomllib.loads(SAMPLE.read_text())
    got = [(table, key) for table, values in document.items() for key in values]
    assert sorted(got) == sorted(keys())


@pytest.mark.parametrize(("table", "key"), keys(), ids=".".join)
def test_every_key_has_its_reason(table: str, key: str) -> None:
    lines = SAMPLE.read_text().splitlines()
    start = lines.index(f"[{table}]")
    at = next(n for n, line in enumerate(lines) if n > start and line.startswith(f"{key} ="))
    assert lines[at - 1].startswith("# "), f"{table}.{key} has no comment above it"


def test_example_rule_is_valid(tmp_path: Path) -> None:
    """The commented rule at the end works once its comment signs are gone."""
    text = SAMPLE.read_text()
    example = text[text.index("# [rules.") :].replace("# ", "")
    path = tmp_path / "gatepost.toml"
    path.write_text(example)
    (rule,) = config.load(path).rules.values()
    assert set(rule.model_fields_set) == set(Rule.model_fields)
