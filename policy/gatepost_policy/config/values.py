"""Read a value of the file as its key wants it, and write it back.

What a key wants is its annotation in `settings`: a plain type, a `Literal`, a tuple for a list, a
dataclass for a table, or one of these in `Annotated` with the marks below. All problems are
collected, none is raised, so that an operator sees every wrong key at once.

A library did this before; importing it and building its models took a third of the time that each
command needs to start (docs/decisions/0091-settings-without-pydantic.md).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import MISSING, Field, fields, is_dataclass
from datetime import date, datetime, time
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from gatepost_policy.system.dataclass import dataclass

Path = tuple[str | int, ...]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong key, or one wrong element of a list (`path` ends with its index, from 0).

    `wanted` says what was wanted instead; None where the name itself is unknown.
    """

    path: Path
    value: object
    wanted: str | None


@dataclass(frozen=True, slots=True)
class Value:
    """A mark: `read` makes the value of what the file has, or raises ValueError with a text that
    says what was wanted; `write` makes it text again."""

    read: Callable[[object], object]
    write: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Before:
    """A mark: changes what the file has before the type is looked at. May raise ValueError."""

    change: Callable[[object], object]


@dataclass(frozen=True, slots=True)
class Then:
    """A mark: checks or changes a value that has the right type. May raise ValueError."""

    check: Callable[[Any], object]


@dataclass(frozen=True, slots=True)
class Between:
    """A mark: the bounds of a number, both included; None: no upper one."""

    least: float
    most: float | None = None

    def check(self, value: float) -> float:
        """`value`. Raises ValueError outside the bounds, and for what is no number (nan)."""
        if not value >= self.least:
            raise ValueError(f"want {self.least} or more")
        if self.most is not None and value > self.most:
            raise ValueError(f"want {self.most} or less")
        return value


@dataclass(frozen=True, slots=True)
class Like:
    """A mark: text that `pattern` matches as a whole; `example` shows one."""

    pattern: str
    example: str

    def check(self, value: str) -> str:
        """`value`. Raises ValueError for other text."""
        if re.fullmatch(self.pattern, value, re.ASCII) is None:
            raise ValueError(f"want text like {self.example}")
        return value


class _WrongError(Exception):
    """The value cannot be used: its problems are written down already."""


def read_table(kind: type[T], table: object, path: Path, problems: list[Problem]) -> T | None:
    """A `kind` (a dataclass) of `table`; each problem goes to `problems`, and then it is None.

    Keys that are missing have their default.
    """
    if not isinstance(table, dict):
        problems.append(Problem(path, table, "a table"))
        return None
    before = len(problems)
    known = {field.name: field.type for field in keys_of(kind)}
    values: dict[str, Any] = {}
    for name, wanted in known.items():
        if name in table:
            try:
                values[name] = _read(wanted, table[name], (*path, name), problems)
            except _WrongError:
                continue
    problems += [Problem((*path, name), table[name], None) for name in table if name not in known]
    return kind(**values) if len(problems) == before else None


def keys_of(kind: type) -> tuple["Field[Any]", ...]:
    """The fields of a table that may stand in the file."""
    return tuple(field for field in fields(kind) if field.metadata.get("key", True))


def write_table(table: object, *, changed: bool = False) -> dict[str, Any]:
    """A dataclass as the file would have it: text, numbers, booleans, lists and tables.

    None is left out, since a file cannot say it. With `changed` only what differs from the
    defaults.
    """
    found: dict[str, Any] = {}
    for field in keys_of(type(table)):
        value = getattr(table, field.name)
        if value is not None and (not changed or value != default(field)):
            found[field.name] = _write(field.type, value, changed)
    return found


def default(field: "Field[Any]") -> object:
    """The value of a key that is not in the file; MISSING where it has to be."""
    return field.default if field.default_factory is MISSING else field.default_factory()


def _read(kind: Any, value: object, path: Path, problems: list[Problem]) -> Any:
    """`value` as `kind`. Raises _WrongError."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _marked(kind, value, path, problems)
    if origin is tuple:
        return _list(get_args(kind)[0], value, path, problems)
    if origin is dict:
        return _tables(get_args(kind), value, path, problems)
    if origin is UnionType:  # only with None, which no file can say
        kind = next(one for one in get_args(kind) if one is not NoneType)
    if is_dataclass(kind) and isinstance(kind, type):
        if (table := read_table(kind, value, path, problems)) is None:
            raise _WrongError
        return table
    try:
        return _plain(kind, value)
    except ValueError as error:
        raise _wrong(error, value, path, problems) from None


def _marked(kind: Any, value: object, path: Path, problems: list[Problem]) -> Any:
    """As `_read`, for a type with marks; they are obeyed from left to right."""
    inner, *marks = get_args(kind)
    got: Any = value
    try:
        for mark in marks:
            if isinstance(mark, Before):
                got = mark.change(got)
        whole = next((mark for mark in marks if isinstance(mark, Value)), None)
        got = _read(inner, got, path, problems) if whole is None else whole.read(got)
        for mark in marks:
            if isinstance(mark, Then | Between | Like):
                got = mark.check(got)
    except ValueError as error:
        raise _wrong(error, value, path, problems) from None
    return got


def _list(kind: Any, value: object, path: Path, problems: list[Problem]) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(ValueError("want a list"), value, path, problems)
    found, before = [], len(problems)
    for index, element in enumerate(value):
        try:
            found.append(_read(kind, element, (*path, index), problems))
        except _WrongError:
            continue  # the other elements may be wrong as well
    if len(problems) > before:
        raise _WrongError
    return tuple(found)


def _tables(
    kinds: tuple[Any, ...], value: object, path: Path, problems: list[Problem]
) -> dict[Any, Any]:
    """Tables by name; `kinds` are the names that there may be (an Enum) and the tables' type."""
    names, kind = kinds
    if not isinstance(value, dict):
        raise _wrong(ValueError("want a table"), value, path, problems)
    found: dict[Any, Any] = {}
    before = len(problems)
    known = {str(name.value): name for name in names}
    for name, table in value.items():
        if name not in known:
            problems.append(Problem((*path, name), table, None))
        else:
            found[known[name]] = read_table(kind, table, (*path, name), problems)
    if len(problems) > before:
        raise _WrongError
    return found


def _plain(kind: Any, value: object) -> object:
    """`value` where it has the TOML type of `kind`: `"4"` is no number. Raises ValueError."""
    if get_origin(kind) is Literal:
        allowed = get_args(kind)
        if value not in allowed or not isinstance(value, str):
            raise ValueError(f"want one of {_either(allowed)}")
        return value
    if kind is date:
        return _date(value)
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"want {_WORDS[kind]}")
    return value


_WORDS: dict[type, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text in quotes",
}


def _date(value: object) -> date:
    if isinstance(value, datetime):
        if value.timetz() == time(0):  # midnight of no zone is that day
            return value.date()
    elif isinstance(value, date):
        return value
    elif isinstance(value, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", value, re.ASCII):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass  # the 30th of February
    raise ValueError("want a date such as 2027-01-31")


def _either(words: Iterable[str]) -> str:
    """`"a", "b" or "c"`"""
    *first, last = [f'"{word}"' for word in words]
    return f"{', '.join(first)} or {last}" if first else last


def _wrong(error: ValueError, value: object, path: Path, problems: list[Problem]) -> _WrongError:
    """Write the problem down; what is returned is to be raised."""
    problems.append(Problem(path, value, str(error).removeprefix("want ")))
    return _WrongError()


def _write(kind: Any, value: Any, changed: bool) -> Any:
    if get_origin(kind) is Annotated:
        inner, *marks = get_args(kind)
        whole = next((mark for mark in marks if isinstance(mark, Value)), None)
        return _write(inner, value, changed) if whole is None else whole.write(value)
    if isinstance(value, tuple):
        return [_write(get_args(kind)[0], element, changed) for element in value]
    if isinstance(value, dict):
        return {str(name): write_table(table, changed=changed) for name, table in value.items()}
    if is_dataclass(value):
        return write_table(value, changed=changed)
    return value.isoformat() if isinstance(value, date) else value
