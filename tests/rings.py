"""Which rings of tests must run: `$GATEPOST_REQUIRE` names them, comma-separated."""

import os
from typing import NoReturn

import pytest


def required() -> frozenset[str]:
    """The rings that may not be skipped on this run."""
    return frozenset(filter(None, os.environ.get("GATEPOST_REQUIRE", "").split(",")))


def missing(ring: str, reason: str) -> NoReturn:
    """Leave a test whose ring cannot run here: visibly skipped, or failed where it is required."""
    if ring in required():
        pytest.fail(f"ring {ring} is required and cannot run: {reason}", pytrace=False)
    pytest.skip(f"ring {ring}: {reason}")
