"""pymilter's Python layer, as far as this project uses it: pymilter brings no types."""

from typing import Any

from milter import *  # noqa: F403

Base: Any
factory: Any

def __getattr__(name: str) -> Any: ...
