"""What a sidecar (`X.json` beside `X.eml`) may hold. Pure.

A value of the wrong kind is refused: replaced by a guess, it would change what is replayed.
Unknown keys are left alone: captures write more of them than a replay reads.
"""

import math
from collections.abc import Callable
from typing import Any, TypeGuard

from gatepost_policy.text.times import LAST


def is_time(value: object) -> TypeGuard[float]:
    """True for Unix seconds of the years 1970 to 9999."""
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
        return False
    return 0 <= value <= LAST


def _is_recipients(value: object) -> bool:
    return isinstance(value, list) and all(
        isinstance(one.get("address") if isinstance(one, dict) else one, str) for one in value
    )


def _is_port(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 65536


Test = tuple[Callable[[object], bool], str]
_TEXT: Test = (lambda value: isinstance(value, str), "a text")
_OBJECT: Test = (lambda value: isinstance(value, dict), "an object")
_ENVELOPE: dict[str, Test] = {
    "at": (is_time, "Unix seconds of the years 1970 to 9999"),
    "sender": _TEXT,
    "helo": _TEXT,
    "recipients": (_is_recipients, "a list of addresses, or of objects with an `address`"),
    "dns": _OBJECT,
    "client": (lambda value: isinstance(value, str | dict), "an address or an object"),
}
_CLIENT: dict[str, Test] = {
    "address": _TEXT,
    "name": _TEXT,
    "helo": _TEXT,
    "port": (_is_port, "a number from 0 to 65535"),
}


def problem(content: dict[str, Any]) -> str | None:
    """What is wrong in a sidecar: key, what is wanted, value; None where all can be used.

    `null` stands for a key that is not there.
    """
    found = _first(content, _ENVELOPE | {"envelope": _OBJECT}, "")
    inner = content.get("envelope")
    if found is None and inner is not None:
        found = _first(inner, _ENVELOPE, "envelope.")
        content = content | inner
    client = content.get("client")
    if found is None and isinstance(client, dict):
        found = _first(client, _CLIENT, "client.")
    return found


def _first(values: dict[str, Any], tests: dict[str, Test], prefix: str) -> str | None:
    for key, (test, wanted) in tests.items():
        value = values.get(key)
        if value is not None and not test(value):
            return f"{prefix}{key}: want {wanted}, got {value!r:.60}"
    return None
