"""Dataclasses whose comparison, hash and repr are shared: the same results as the library's."""

import dataclasses
from dataclasses import field

import pytest

from gatepost_policy.system.dataclass import dataclass
from plain_value import Plain


@dataclass(frozen=True, slots=True)
class Quick:
    """One of ours."""

    name: str
    number: int = 3
    hidden: int = field(default=0, compare=False, repr=False)
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Own:
    """One with an order of its own."""

    name: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Own) and other.name.lower() == self.name.lower()

    def __hash__(self) -> int:
        return hash(self.name.lower())

    def __repr__(self) -> str:
        return self.name


def test_compares_as_the_library_does() -> None:
    quick = [Quick("a"), Quick("a", hidden=9), Quick("b"), Quick("a", 4), Quick("a", items=("x",))]
    plain = [Plain(q.name, q.number, q.hidden, q.items) for q in quick]
    for one, other in zip(quick, plain, strict=True):
        assert [one == q for q in quick] == [other == p for p in plain]
        assert [hash(one) == hash(q) for q in quick] == [hash(other) == hash(p) for p in plain]
        assert repr(one) == repr(other).replace("Plain", "Quick")
        assert one.__eq__(other) is NotImplemented
    assert len({*quick}) == len({*plain}) == 4


def test_what_a_class_defines_itself_stays() -> None:
    assert Own("A") == Own("a")
    assert repr(Own("A")) == "A"
    assert len({Own("A"), Own("a")}) == 1


def test_is_frozen_and_a_dataclass() -> None:
    one = Quick("a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.name = "b"  # type: ignore[misc]
    assert dataclasses.replace(one, number=4) == Quick("a", 4)
    assert dataclasses.asdict(one)["number"] == 3


def test_a_changing_one_is_refused() -> None:
    with pytest.raises(ValueError, match="frozen"):
        dataclass(frozen=False)
