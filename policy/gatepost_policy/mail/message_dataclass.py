"""Frozen dataclasses of which each message makes some twenty.

Type checkers see `dataclasses.dataclass`, and so refuse an assignment to a field. At run time
nothing does: the `__init__` of a class that is frozen there too calls `object.__setattr__` for each
field, which is four times as slow. Comparison, hash and repr are those of a frozen dataclass, and
not the shared functions of `system.dataclass`: those save time at the import and cost it later.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:
    import dataclasses
    from collections.abc import Callable

    def dataclass(*, frozen: bool, slots: bool) -> Callable[[type], type]:
        """As `dataclasses.dataclass`, for frozen classes with slots. Raises ValueError for others:
        a hash that changes is a trap, and a dictionary for each value slow."""
        if not (frozen and slots):
            raise ValueError("want frozen=True, slots=True")
        return dataclasses.dataclass(slots=True, unsafe_hash=True)
