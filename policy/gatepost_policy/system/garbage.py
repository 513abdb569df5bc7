"""How often a process looks for garbage that reference counts do not free."""

import gc

# A message makes hundreds of objects and no cycles. With Python's own 700 a recorder spends a
# fifth of its time on looking for some.
OBJECTS = 20_000


def collect_less_often() -> None:
    """For a process that handles messages: look for cycles each OBJECTS new objects."""
    gc.set_threshold(OBJECTS, 20, 20)
