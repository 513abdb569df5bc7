"""Listings as they are published in steps: the large file, what changed since, and both merged."""

import random
import time
from array import array
from typing import Any

import pytest
from sqlalchemy import Engine, delete, insert

from gatepost_policy import listings, store
from gatepost_policy.lookup import listed, snapshot
from gatepost_policy.store.tables import ListingChange

NOW = float(int(time.time()))
HASHED = snapshot.hasher(b"k" * 16)


def number(value: str, kind: str = "prefix") -> int:
    return HASHED(f"{kind}\0{value}")


def punish(engine: Engine, *names: str, seconds: int = 600, at: float = NOW) -> None:
    with store.writing(engine) as connection:
        for name in names:
            listings.punish(connection, listings.identify(name), seconds=seconds, at=at)


def taken(engine: Engine, state: listed.State, now: float = NOW) -> bool:
    with store.reading(engine) as connection:
        return listed.step(connection, state, HASHED, now)


def whole(engine: Engine, now: float = NOW) -> tuple[listed.State, dict[int, float]]:
    with store.reading(engine) as connection:
        state, (_, numbers, ends) = listed.whole(connection, HASHED, now)
    return state, dict(zip(numbers, ends, strict=True))


def changes(state: listed.State) -> dict[int, float]:
    assert list(state.numbers) == sorted(state.numbers)
    return dict(zip(state.numbers, state.ends, strict=True))


def test_a_step_looks_at_no_change_twice(engine: Engine) -> None:
    """On SQLite: each hit of a storm would cost what the thousand before it have cost."""
    state, _ = whole(engine)
    punish(engine, *(f"192.0.2.{n}" for n in range(50)))
    assert taken(engine, state)
    punish(engine, "198.51.100.1")
    looked: list[str] = []

    def counted(text: str) -> int:
        looked.append(text)
        return HASHED(text)

    with store.reading(engine) as connection:
        assert listed.step(connection, state, counted, NOW)
    assert set(looked) <= {"prefix\x00198.51.100.1/32", "prefix\x00192.0.2.49/32"}
    assert len(changes(state)) == 51


def test_a_step_takes_what_changed_and_nothing_else(any_engine: Engine) -> None:
    engine = any_engine
    punish(engine, "192.0.2.1")
    state, before = whole(engine)
    assert before == {number("192.0.2.1/32"): NOW + 600}
    punish(engine, "192.0.2.2", "2001:db8:1::/48", "spam.example")
    mark = state.mark
    assert taken(engine, state)
    want = {
        number("192.0.2.2/32"): NOW + 600,
        number("2001:db8:1::/48"): NOW + 600,
        number("spam.example", "dkim"): NOW + 600,
    }
    got = changes(state)
    assert want.items() <= got.items()
    assert state.mark > mark and 48 in state.v6_bits and 32 in state.v4_bits
    assert taken(engine, state) and changes(state) == got  # a second look changes nothing


def test_who_is_forgiven_or_has_served_is_taken_out(any_engine: Engine) -> None:
    engine = any_engine
    punish(engine, "192.0.2.1", "192.0.2.2")
    state, _ = whole(engine)
    with store.writing(engine) as connection:
        listings.forgive(connection, listings.identify("192.0.2.1"), at=NOW)
    punish(engine, "192.0.2.3", seconds=60)
    assert taken(engine, state)
    assert changes(state)[number("192.0.2.1/32")] == 0.0
    assert changes(state)[number("192.0.2.3/32")] == NOW + 60
    assert taken(engine, state, NOW + 61)
    assert changes(state)[number("192.0.2.3/32")] == 0.0


def test_an_older_copy_of_the_store_is_read_whole(any_engine: Engine) -> None:
    """Numbers that go back are another store's: a step would leave out what it forgot."""
    engine = any_engine
    punish(engine, "192.0.2.1")
    state, _ = whole(engine)
    with store.writing(engine) as connection:
        connection.execute(delete(ListingChange))
    assert not taken(engine, state)


def test_after_a_day_all_is_read_again(any_engine: Engine) -> None:
    punish(any_engine, "192.0.2.1")
    state, _ = whole(any_engine)
    assert taken(any_engine, state, NOW + listed.REBUILD_S)
    assert not taken(any_engine, state, NOW + listed.REBUILD_S + 1)


def test_too_many_changes_are_read_whole(
    any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listed, "DELTA_MAX", 2)
    state, _ = whole(any_engine)
    with store.writing(any_engine) as connection:
        rows = [{"kind": "prefix", "value": f"192.0.2.{n}/32"} for n in range(20)]
        connection.execute(insert(ListingChange), rows)
    assert taken(any_engine, state)
    with store.writing(any_engine) as connection:
        connection.execute(insert(ListingChange), [*rows, rows[0]])
    assert not taken(any_engine, state)


def test_a_change_that_commits_late_is_seen(any_engine: Engine) -> None:
    """Another host's change got its number before ours and commits after: it is not passed over."""
    engine = any_engine
    punish(engine, "192.0.2.1")
    state, _ = whole(engine)
    punish(engine, "192.0.2.9")
    # As if our own step had seen a larger number first.
    state.mark += 1
    with store.writing(engine) as connection:
        connection.execute(insert(ListingChange), [{"kind": "prefix", "value": "192.0.2.1/32"}])
    assert taken(engine, state)
    assert number("192.0.2.9/32") in changes(state)


def random_state(rng: random.Random, size: int) -> tuple[dict[int, float], listed.State]:
    base = {rng.randrange(1 << 64): rng.uniform(1, 1e9) for _ in range(size)}
    both = rng.sample(sorted(base), size // 3)
    fresh = {n: rng.choice([0.0, rng.uniform(1, 1e9)]) for n in both}
    fresh |= {rng.randrange(1 << 64): rng.choice([0.0, 7.0]) for _ in range(rng.randrange(9))}
    for edge in (0, (1 << 64) - 1):
        if rng.random() < 0.3:
            fresh[edge] = rng.choice([0.0, 5.0])
    numbers = array("Q", sorted(fresh))
    state = listed.State(
        base=1, built=NOW, mark=5, numbers=numbers, ends=array("d", [fresh[n] for n in numbers]),
        v4_bits=set(), v6_bits=set(), by_sender=False, by_author=False,
    )  # fmt: skip
    return base, state


def test_merged_is_the_old_file_with_its_changes() -> None:
    """Against the plain dictionary; a change that ends a listing (0) leaves none in the file."""
    rng = random.Random(20)
    for size in (0, 1, 2, 30, 500):
        for _ in range(20):
            base, state = random_state(rng, size)
            want = {n: e for n, e in (base | changes(state)).items() if e}
            numbers = array("Q", sorted(base))
            ends = array("d", [base[n] for n in numbers])
            before = state.base
            head, new, untils = _mapped(listed.merged(state, numbers, ends))
            assert dict(zip(new, untils, strict=True)) == want
            assert list(new) == sorted(want)
            assert snapshot.LISTED_HEAD.unpack(head) == (
                snapshot.MAGIC_LISTED, state.base, len(want),
            )  # fmt: skip
            assert state.base != before and not len(state.numbers) and not len(state.ends)


def _mapped(parts: list[Any]) -> tuple[bytes, "array[int]", "array[float]"]:
    head, numbers, ends = parts
    return head, numbers, ends
