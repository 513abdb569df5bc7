"""Settings and their tables as a test wants them: checked as the file's are."""

from collections.abc import Mapping
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

from gatepost_milter.replay.private_milter import to_toml
from gatepost_policy.config.settings import Settings, duration
from gatepost_policy.config.values import Problem, Value, keys_of, read_table, write_table

T = TypeVar("T")


def from_table(kind: type[T], table: Mapping[str, Any]) -> T:
    """A `kind` of `table`, whose values are those of a file, whole seconds for durations, or tables
    that were made before. Raises ValueError."""
    problems: list[Problem] = []
    found = read_table(kind, _as_in_file(kind, table), (), problems)
    if found is None:
        raise ValueError(problems)
    return found


def as_file(settings: Settings, directory: Path) -> str:
    """The path of a file in `directory` that says the same."""
    file = directory / "gatepost.toml"
    file.write_text(to_toml(write_table(settings, changed=True)))
    return str(file)


def _as_in_file(kind: type, table: Mapping[str, Any]) -> dict[str, Any]:
    known = {field.name: field.type for field in keys_of(kind)}
    return {
        name: _value(known.get(name), value) for name, value in table.items() if value is not None
    }


def _value(kind: Any, value: Any) -> Any:
    if is_dataclass(kind) and isinstance(kind, type) and isinstance(value, Mapping):
        return _as_in_file(kind, value)
    if is_dataclass(value) and not isinstance(value, type):
        return write_table(value)
    marks = [mark for mark in get_args(kind) if isinstance(mark, Value)]
    if type(value) is int and any(mark.read is duration for mark in marks):
        return f"{value}s"
    return value
