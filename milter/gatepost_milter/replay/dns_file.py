"""Recorded DNS answers, as `replay --dns FILE` reads them: a JSON object, name to answer.

An answer is a TXT text, a list of them, null, an error, or an object of record types, each with one
of these. Any other shape is refused: it would look like a DNS failure that was never recorded.
"""

import json
import re
from pathlib import Path
from typing import Any

from gatepost_policy.dns.answer import ERRORS, TYPES
from gatepost_policy.text.escape import shown

SHAPE = 'text, a list of texts, null or {"error": WORD}'
OBJECT = f'{{"error": WORD}} or an object of {", ".join(TYPES)}'
MAX_SHOWN = 80
_EXCHANGE = re.compile(r"\d{1,5} \S*")  # RFC 7505: no name, or ".", is a domain without mail


def read(file: Path) -> dict[str, Any]:
    """The answers in `file`. Raises OSError, and ValueError (one line) for any other shape."""
    try:
        answers = json.loads(file.read_bytes())
    except RecursionError:
        raise ValueError("no JSON: nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from None
    if not isinstance(answers, dict):
        raise ValueError(f"want a JSON object, name to answer, got {_got(answers)}")
    for name, answer in answers.items():
        problem = _problem(answer)
        if problem is not None:
            raise ValueError(f"{shown(name)}{problem}")
    return answers


def _problem(answer: object) -> str | None:
    if isinstance(answer, dict) and "error" not in answer:
        if not answer:
            return f": want {OBJECT}, got {{}}"
        for kind, records in answer.items():
            if kind not in TYPES:
                return f": want {OBJECT}, got {_got(kind)}"
            problem = _of_one_type(records)
            if problem is None and kind == "MX":
                problem = _exchanges(records)
            if problem is not None:
                return f".{kind}{problem}"
        return None
    return _of_one_type(answer)


def _of_one_type(answer: object) -> str | None:
    if answer is None or isinstance(answer, str):
        return None
    if isinstance(answer, list):
        for number, record in enumerate(answer):
            if not isinstance(record, str):
                return f".{number}: want text, got {_got(record)}"
        return None
    if isinstance(answer, dict) and "error" in answer:
        word = answer["error"]
        if isinstance(word, str) and word in ERRORS and len(answer) == 1:
            return None
        return f': want {{"error": WORD}}, WORD one of {", ".join(ERRORS)}, got {_got(answer)}'
    return f": want {SHAPE}, got {_got(answer)}"


def _exchanges(answer: object) -> str | None:
    for record in (
        [answer] if isinstance(answer, str) else answer if isinstance(answer, list) else []
    ):
        if not _EXCHANGE.fullmatch(record):
            return f': want "10 mx.example.org", got {_got(record)}'
    return None


def _got(value: object) -> str:
    """A value as it stands in the file, cut where it is long."""
    text = shown(json.dumps(value, ensure_ascii=False))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "..."
