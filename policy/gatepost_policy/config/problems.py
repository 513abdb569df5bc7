"""Make pydantic's errors into one line for each key: `table.key: want ..., got ...`.

pydantic says what is wrong; an operator wants to know what to write instead.
"""

import json
import math
import re
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gatepost_policy.config.settings import Rule, Settings
from gatepost_policy.mail.decision import Reason
from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import UNITS

# What pydantic's error types mean in words; {} is filled from the error's own context.
_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text in quotes",
    "string_or_list": "text in quotes, or a list of them",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "date_type": "a date such as 2027-01-31",
    "date_parsing": "a date such as 2027-01-31",
    "date_from_datetime_parsing": "a date such as 2027-01-31",
    "date_from_datetime_inexact": "a date such as 2027-01-31",
    "greater_than_equal": "{ge} or more",
    "less_than_equal": "{le} or less",
    "literal_error": "one of {expected}",
    "string_pattern_mismatch": "text like {pattern}",
}
_PATTERNS = {
    "^0[0-7]{3}$": '"0660"',
    "^[A-Za-z0-9]*$": '"Abc123" (letters and digits)',
    "^[A-Za-z0-9-]+$": '"X-Gatepost" (letters, digits and dashes)',
}


def problems(error: ValidationError, document: dict[str, Any]) -> list[str]:
    """One line for each wrong key, in the order of the file; a union's branches are one problem."""
    found: dict[str, list[ErrorDetails]] = {}
    places: dict[str, tuple[list[Any], Any]] = {}
    for detail in error.errors(include_url=False, include_context=True):
        path, value = _resolve(detail["loc"], document)
        name = ".".join(str(part) for part in path)
        found.setdefault(name, []).append(detail)
        places[name] = path, value
    # A wrong element of a list makes the list itself wrong as well: the element says more.
    return [
        shown(_line(name, *places[name], _most_telling(details, places[name][1])))
        for name, details in found.items()
        if not any(other.startswith(name + ".") for other in found if other != name)
    ]


def _most_telling(details: list[ErrorDetails], value: object) -> ErrorDetails:
    """The error to show, of several for one key: a union (one socket, or a list of them) has one
    for each of its types."""
    if len(details) > 1 and isinstance(value, str):
        return next((d for d in details if d["type"] == "value_error"), details[0])
    if {"string_type", "tuple_type"} <= {d["type"] for d in details}:
        both = details[0].copy()
        both["type"] = "string_or_list"
        return both
    return details[0]


def _resolve(location: tuple[int | str, ...], document: dict[str, Any]) -> tuple[list[Any], Any]:
    """The part of pydantic's location that exists in the document, and the value found there."""
    path: list[Any] = []
    value: Any = document
    for part in location:
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            continue  # the name of a union's branch, or `[key]`
        path.append(part)
    return path, value


def _line(name: str, path: list[Any], value: Any, detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"{name}: unknown key{_did_you_mean(path)}"
    if kind == "enum":
        return f"{name}: unknown reason{_did_you_mean(path)}"
    if kind == "value_error":
        wanted = str(context.get("error", detail["msg"]))
        wanted = wanted if wanted.startswith("want ") else f"want {wanted}"
        if wanted.startswith("want a duration such"):
            wanted = _with_unit(path, value) or wanted
        return f"{name}: {wanted}" + (f", got {got(value)}" if ", got " not in wanted else "")
    if kind == "string_pattern_mismatch":
        context = {"pattern": _PATTERNS.get(str(context["pattern"]), str(context["pattern"]))}
    if kind == "literal_error":
        context = {"expected": str(context["expected"]).replace("'", '"')}
    wanted = _WANTED[kind].format(**context) if kind in _WANTED else detail["msg"]
    return f"{name}: want {wanted}, got {got(value)}"


def _with_unit(path: list[Any], value: object) -> str | None:
    """What to write for a duration without a unit: with the unit that makes it nearest to the
    default. None where it is no whole number, or 0."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}(\.0+)?", text) or float(text) == 0:
        return None
    number = int(float(text))
    field = getattr(Settings.model_fields[path[0]].annotation, "model_fields", {})[path[-1]]

    def far(unit: str) -> float:
        return abs(math.log(number * UNITS[unit] / field.default))

    near = min(UNITS, key=far)
    seconds = "" if near == "s" else f' ("{number}s" if these are seconds)'
    return f'want a duration with its unit: "{number}{near}"{seconds}'


def got(value: object) -> str:
    """A value as it stands in the file, cut where it is long."""
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def _did_you_mean(path: list[Any]) -> str:
    """A hint for the last part of `path`: a close name in this table, or a table that has it."""
    name = str(path[-1])
    tables = {
        key: list(getattr(field.annotation, "model_fields", {}))
        for key, field in Settings.model_fields.items()
    }
    if len(path) == 1:
        near = list(tables)
    elif path[0] == "rules":
        near = [str(r) for r in Reason] if len(path) == 2 else list(Rule.model_fields)
    else:
        near = tables.get(str(path[0]), [])
    close = get_close_matches(name, near, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    homes = [table for table, keys in tables.items() if name in keys]
    if homes:
        return f"; did you mean {name} in [{homes[0]}]?"
    # Five or fewer names are worth listing in one line, and so are the tables.
    return f"; known here: {', '.join(near)}" if len(path) == 1 or len(near) <= 5 else ""
