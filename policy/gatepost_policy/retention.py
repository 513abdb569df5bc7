"""Forget in time: what is kept, how long, by class (DESIGN 8; `[retention]`)."""

from typing import TYPE_CHECKING

from sqlalchemy import Engine

if TYPE_CHECKING:
    from gatepost_policy.settings import Settings


def step(engine: Engine, settings: "Settings", now: float) -> bool:
    """One bounded piece of work; True where more is waiting. Raises StoreError."""
    return False
