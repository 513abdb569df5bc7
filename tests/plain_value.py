"""A frozen dataclass of the standard library, with which ours are compared."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Plain:
    """The library's."""

    name: str
    number: int = 3
    hidden: int = field(default=0, compare=False, repr=False)
    items: tuple[str, ...] = ()
