"""Which rings of tests must run: `$GATEPOST_REQUIRE` names them, comma-separated.

With CI=true every ring must run but `corpus`, whose messages no clone brings along, and
`neighbours`, whose programs take long to bring.
"""

import os
from collections.abc import Mapping
from typing import NoReturn

import pytest

RINGS = frozenset(
    ("milter", "postfix", "exim", "postgresql", "crash", "browser", "tools", "corpus",
     "neighbours")
)  # fmt: skip
ASKED_FOR = frozenset(("corpus", "neighbours"))


def required(environ: Mapping[str, str] = os.environ) -> frozenset[str]:
    """The rings that may not be skipped on this run. Raises ValueError for a name that is none."""
    named = frozenset(filter(None, environ.get("GATEPOST_REQUIRE", "").split(",")))
    if named - RINGS:
        # A misspelt ring would be required of nobody.
        raise ValueError(f"GATEPOST_REQUIRE: no such ring: {', '.join(sorted(named - RINGS))}")
    return named | (RINGS - ASKED_FOR) if environ.get("CI") == "true" else named


def missing(ring: str, reason: str) -> NoReturn:
    """Leave a test whose ring cannot run here: visibly skipped, or failed where it is required."""
    if ring in required():
        pytest.fail(f"ring {ring} is required and cannot run: {reason}", pytrace=False)
    pytest.skip(f"ring {ring}: {reason}")
