"""Frozen dataclasses that are quickly made, for the values that a command loads and uses once.

The standard library writes source text for each method of each dataclass and compiles it when the
module is imported. A report loads some sixty of them: comparison, hash and repr alone were a
twentieth of its start-up. Here these three are shared functions, with the same results; all else is
the standard library's. They take longer when called: classes of the message path do not use this.
"""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


def _compared(value: Any) -> tuple[object, ...]:
    return tuple(getattr(value, f.name) for f in dataclasses.fields(value) if f.compare)


def _eq(self: object, other: object) -> Any:
    if other.__class__ is not self.__class__:
        return NotImplemented
    return _compared(self) == _compared(other)


def _hash(self: Any) -> int:
    return hash(_compared(self))


def _repr(self: Any) -> str:
    shown = (f"{f.name}={getattr(self, f.name)!r}" for f in dataclasses.fields(self) if f.repr)
    return f"{type(self).__qualname__}({', '.join(shown)})"


if TYPE_CHECKING:
    from dataclasses import dataclass as dataclass
else:

    def dataclass(*, frozen: bool, **options: bool) -> Callable[[type], type]:
        """As `dataclasses.dataclass`, for frozen classes that are not ordered.

        Raises ValueError for one that is not frozen: it would have a hash that changes.
        """
        if not frozen:
            raise ValueError("want frozen=True")
        own = {"__eq__": _eq, "__hash__": _hash, "__repr__": _repr}

        def decorate(cls: type) -> type:
            made = dataclasses.dataclass(frozen=True, eq=False, repr=False, **options)(cls)
            for name, function in own.items():
                if name not in cls.__dict__:
                    setattr(made, name, function)
            return made

        return decorate
