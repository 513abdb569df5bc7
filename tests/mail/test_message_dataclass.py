"""Dataclasses that only type checkers know to be frozen: as the library's in all else."""

import copy
import dataclasses
import pickle
from dataclasses import field

import pytest

from gatepost_policy.mail.message_dataclass import dataclass
from plain_value import Plain


@dataclass(frozen=True, slots=True)
class Ours:
    """One of ours."""

    name: str
    number: int = 3
    hidden: int = field(default=0, compare=False, repr=False)
    items: tuple[str, ...] = ()


def test_compares_and_copies_as_the_library_does() -> None:
    ours = [Ours("a"), Ours("a", hidden=9), Ours("b"), Ours("a", 4), Ours("a", items=("x",))]
    plain = [Plain(q.name, q.number, q.hidden, q.items) for q in ours]
    for one, other in zip(ours, plain, strict=True):
        assert [one == q for q in ours] == [other == p for p in plain]
        assert [hash(one) == hash(q) for q in ours] == [hash(other) == hash(p) for p in plain]
        assert hash(one) == hash(other)
        assert repr(one) == repr(other).replace("Plain", "Ours")
        assert dataclasses.asdict(one) == dataclasses.asdict(other)
        assert copy.copy(one) == one == pickle.loads(pickle.dumps(one))
        assert dataclasses.replace(one, number=5) == Ours(one.name, 5, one.hidden, one.items)


def test_a_name_that_is_no_field_is_refused() -> None:
    with pytest.raises(AttributeError):
        Ours("a").other = 1  # type: ignore[attr-defined]


def test_only_frozen_classes_with_slots() -> None:
    for frozen, slots in ((False, True), (True, False)):
        with pytest.raises(ValueError, match="frozen"):
            dataclass(frozen=frozen, slots=slots)
