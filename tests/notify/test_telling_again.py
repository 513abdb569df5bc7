"""A way that fails, a process that ends, a second host: told again, and nothing twice."""

import json

import pytest
from sqlalchemy import Engine

from fix_notify import EVERY, Teller, Told, begun, told
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.notify import notices, rounds
from gatepost_policy.notify import ways as telling
from gatepost_policy.notify.rounds import LEASE_S, TRIES


def test_what_fails_is_tried_again_later_each_time_with_the_same_name(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    listener.status = 503
    one.hit("b@fresh.example")
    one.once()
    one.once(29)
    assert len(listener.requests) == 1, "not before half a minute"
    one.hit("c@other.example", 1)
    one.begin()
    one.once(2)
    assert len(listener.requests) == 2
    one.once(59)
    assert len(listener.requests) == 2, "twice as long"
    listener.status = 200
    one.once(2)
    bodies = [json.loads(body) for *_, body in listener.requests]
    assert len({body["batch"] for body in bodies}) == 1
    assert [e["who"] for body in bodies for e in body["events"]] == ["fresh.example"] * 3
    one.once(61)
    assert [e["who"] for e in told(listener)][3:] == ["other.example"]
    assert "answered 503; tried again in 30 s" in one.log[0]


def test_what_never_works_is_given_up_and_said(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    listener.status = 404
    one.hit("b@fresh.example")
    for _ in range(TRIES + 3):
        one.once(3_601)
    assert len(listener.requests) == TRIES
    assert one.log[-1].startswith("error: ") and "given up after 12 times" in one.log[-1]
    listener.status = 200
    one.hit("c@other.example", 1)
    one.once()
    last = json.loads(listener.requests[-1][2])
    assert last["missed"] == 1 and [e["who"] for e in last["events"]] == ["other.example"]
    one.hit("d@third.example", 1)
    one.once(61)
    assert json.loads(listener.requests[-1][2])["missed"] == 0


def test_two_hosts_tell_it_once(any_engine: Engine, any_settings: Settings, listener: Told) -> None:
    one = begun(any_engine, any_settings, listener)
    other = Teller(any_engine, one.settings)
    other.begin("mx2.example")
    other.once()
    one.hit("b@fresh.example")
    claimed: list[int] = []

    def meanwhile(*_: object) -> None:
        other.once()  # while the first one is telling
        claimed.append(len(listener.requests))

    ways = one.settings.notify
    real = rounds.configured

    def slowly(_: object) -> rounds.Ways:
        def send(*given: object) -> None:
            meanwhile()
            telling.webhook(ways, given[1], 0.0)  # type: ignore[arg-type]

        return {"webhook": (EVERY, send)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "configured", lambda n: slowly(n) if not claimed else real(n))
        one.once()
    assert claimed == [0] and len(listener.requests) == 1
    other.once(61)
    assert len(listener.requests) == 1


def test_killed_while_telling_it_is_told_after_the_lease(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    """The event was taken up by a process that is gone: the next one waits, and tells it."""
    one = begun(engine, settings, listener)
    one.hit("b@fresh.example")

    class Killed(BaseException):
        pass

    def dies(*_: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rounds, "configured", lambda _: {"webhook": (EVERY, dies)})
        with pytest.raises(Killed):
            one.once()
    one.begin()
    one.once(LEASE_S - 1)
    assert listener.requests == []
    one.once(2)
    assert [event["who"] for event in told(listener)] == ["fresh.example"]


def test_a_store_that_goes_while_telling_makes_nobody_hear_it_twice(
    engine: Engine, settings: Settings, listener: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = begun(engine, settings, listener)
    one.hit("b@fresh.example")
    real, calls = notices.move, []

    def fails_after_telling(connection: object, place: str, *rest: object) -> str:
        if place == "way:webhook":
            calls.append(place)
            if len(calls) in (2, 3):
                raise store.StoreError("store: is locked", temporary=True)
        return real(connection, place, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(notices, "move", fails_after_telling)
    for _ in range(2):
        with pytest.raises(store.StoreError):
            one.once()
    one.once(LEASE_S + 1)
    assert len(listener.requests) == 1
    one.hit("c@other.example", 1)
    one.once(61)
    assert [event["who"] for event in told(listener)] == ["fresh.example", "other.example"]
