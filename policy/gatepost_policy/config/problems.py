"""Say what is wrong with a key in one line: `table.key: want ..., got ...`.

An operator wants to know what to write instead: a name that was meant, a duration with its unit.
"""

import json
import math
import re
from dataclasses import is_dataclass
from datetime import date, time

from gatepost_policy.config.settings import Rule, Settings
from gatepost_policy.config.values import Path, Problem, default, keys_of
from gatepost_policy.mail.decision import Reason
from gatepost_policy.text.escape import shown
from gatepost_policy.text.times import UNITS


def line(problem: Problem) -> str:
    """The problem of one key, printable."""
    path, value, wanted = problem.path, problem.value, problem.wanted
    name = ".".join(map(str, path))
    if wanted is None:
        kind = "reason" if path[0] == "rules" and len(path) == 2 else "key"
        return shown(f"{name}: unknown {kind}{_did_you_mean(path)}")
    if wanted.startswith("a duration such"):
        wanted = _with_unit(path, value) or wanted
    return shown(
        f"{name}: want {wanted}" + (f", got {got(value)}" if ", got " not in wanted else "")
    )


def _with_unit(path: Path, value: object) -> str | None:
    """What to write for a duration without a unit: with the unit that makes it nearest to the
    default. None where it is no whole number, or 0."""
    text = str(value).strip()
    if isinstance(value, bool) or not re.fullmatch(r"[0-9]{1,9}(\.0+)?", text) or float(text) == 0:
        return None
    number = int(float(text))
    usual = float(str(tables()[str(path[0])][str(path[-1])]))

    def far(unit: str) -> float:
        return abs(math.log(number * UNITS[unit] / usual))

    near = min(UNITS, key=far)
    seconds = "" if near == "s" else f' ("{number}s" if these are seconds)'
    return f'a duration with its unit: "{number}{near}"{seconds}'


def got(value: object) -> str:
    """A value as it stands in the file, cut where it is long."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, date | time):  # TOML has them without quotes
        return str(value)
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else text[:77] + "..."


def tables() -> dict[str, dict[str, object]]:
    """The keys of each table with their defaults."""
    return {
        table.name: {key.name: default(key) for key in keys_of(table.type)}
        if isinstance(table.type, type) and is_dataclass(table.type)
        else {}
        for table in keys_of(Settings)
    }


def _did_you_mean(path: Path) -> str:
    """A hint for the last part of `path`: a close name in this table, or a table that has it."""
    name, known = str(path[-1]), tables()
    if len(path) == 1:
        near = list(known)
    elif path[0] == "rules":
        near = [str(r) for r in Reason] if len(path) == 2 else [key.name for key in keys_of(Rule)]
    else:
        near = list(known.get(str(path[0]), ()))
    from difflib import get_close_matches

    close = get_close_matches(name, near, n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    homes = [table for table, names in known.items() if name in names]
    if homes:
        return f"; did you mean {name} in [{homes[0]}]?"
    # Five or fewer names are worth listing in one line, and so are the tables.
    return f"; known here: {', '.join(near)}" if len(path) == 1 or len(near) <= 5 else ""
