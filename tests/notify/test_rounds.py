"""Events are found once, told once each way, over restarts, failures and several hosts."""

import json
import sys
from dataclasses import replace
from pathlib import Path

from sqlalchemy import Engine

from fix_notify import DAY, NOW, Teller, Told, begun, lose, submission, told, with_notify
from fix_store import count, message
from gatepost_policy import config, recorder, retention, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.lookup import publish
from gatepost_policy.monitoring import privacy_result
from gatepost_policy.notify import notices
from gatepost_policy.retention import person
from gatepost_policy.text.times import timestamp


def test_each_event_is_told_once(
    any_engine: Engine, any_settings: Settings, listener: Told
) -> None:
    settings = any_settings
    state = config.state_dir(settings)
    state.mkdir(parents=True, exist_ok=True)
    ancient = Teller(any_engine, settings)
    ancient.hit("news@slow.example", 63 * DAY)
    ancient.hit("a@known.example", 3 * DAY, signed=False)
    lose(any_engine, NOW - 5 * DAY, 9)
    privacy_result.write(state, privacy_result.Result(NOW - DAY, {"smtp": False}))
    one = begun(any_engine, settings, listener)
    assert listener.requests == [], "what was before the first round is history"

    one.hit("news@slow.example", 3)
    one.hit("b@fresh.example", 4)
    one.hit("a@known.example", 5, signed=False)  # here three days ago, and nothing proves it
    one.hit("x@unknown.example", 6, signed=False)
    recorder.record_batch(any_engine, [message(7, at=one.now)], settings)  # no trap
    submission(any_engine, int(one.now // DAY), 2)
    lose(any_engine, one.now - 20, 4)
    privacy_result.write(state, privacy_result.Result(one.now - 1, {"smtp": False, "lmtp": True}))
    one.once()
    assert len(listener.requests) == 1, "one piece"
    found = {event["event"]: event for event in told(listener)}
    assert sorted(found) == ["loss", "own-user", "probe-failed", "sender-back", "trap-hit"]
    assert len(told(listener)) == 5
    back = found["sender-back"]
    assert back["who"] == "slow.example" and back["data"]["proven"]
    assert back["data"]["away_days"] == 63.0 and back["data"]["hits_before"] == 1
    assert found["trap-hit"]["who"] == "fresh.example"
    assert found["own-user"]["number"] == 2 and found["own-user"]["who"] is None
    assert found["own-user"]["data"] == {"days": {timestamp(one.now)[:10]: 2}}
    assert found["loss"]["number"] == 4
    assert found["probe-failed"]["data"]["ways"] == ["smtp"]

    one.once(61)
    one.begin()  # a restart
    one.once(61)
    assert len(listener.requests) == 1 and one.log == []


def test_hits_of_one_sender_are_one_event_for_a_while(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    for turn in range(3):
        one.hit("b@fresh.example", 0)
        one.once(61)
        assert len(told(listener)) == 1, turn
    with store.reading(engine) as connection:
        (kept,) = notices.newest(connection, 9)
    assert kept.event.number == 3
    one.now += 3_700
    one.hit("b@fresh.example", 1)
    one.once()
    assert [event["number"] for event in told(listener)] == [1, 1]


def test_what_goes_on_is_told_once_an_hour(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    """Hits, losses and own users every twenty minutes for three hours are no news of three hours
    ago: each is told again when an hour has passed since it was told."""
    one = begun(engine, settings, listener)
    today = int(one.now // DAY)  # the three hours may go over midnight
    for turn in range(9):
        one.hit("b@fresh.example", turn)
        submission(engine, today - turn, 1)
        lose(engine, one.now - 20, 1)
        one.once(1_200)
    for kind in ("trap-hit", "own-user", "loss"):
        numbers = [event["number"] for event in told(listener) if event["event"] == kind]
        assert len(numbers) == 3, (kind, numbers)
    assert all("noticed" not in event["data"] for event in told(listener))


def test_a_way_is_quiet_for_a_while_and_then_tells_all(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    for number in range(4):
        one.hit(f"a@s{number}.example", 1)
        one.once(5)
    assert [len(json.loads(body)["events"]) for *_, body in listener.requests] == [1]
    one.once(60)
    assert [len(json.loads(body)["events"]) for *_, body in listener.requests] == [1, 3]


def test_of_very_many_the_newest_and_how_many_more(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    with store.writing(engine) as connection:
        event = notices.Event("loss", "", one.now, one.now, 1, {"since": "a", "until": "b"})
        notices.keep(connection, [event] * 70)
    one.once()
    ((_, _, body),) = listener.requests
    batch = json.loads(body)
    assert len(batch["events"]) == 50 and batch["more"] == 20
    assert batch["events"][-1]["id"] == 70
    one.once(61)
    assert len(listener.requests) == 1


def test_each_way_has_events_of_its_own(
    engine: Engine, settings: Settings, listener: Told, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    script = f"import sys; open({str(out)!r}, 'ab').write(sys.stdin.buffer.read() + b'\\n')"
    words = [sys.executable, "-c", script]
    one = begun(
        engine, settings, listener, command=tuple(words), webhook_events=("sender-back",)
    )  # fmt: skip
    one.hit("b@fresh.example")
    lose(engine, one.now - 20, 4)
    one.once()
    assert listener.requests == []
    assert [e["event"] for e in json.loads(out.read_bytes())["events"]] == ["loss"]


def test_a_recipient_waits_for_its_message(
    any_engine: Engine, any_settings: Settings, listener: Told
) -> None:
    """What the policy service saw at RCPT TO proves nothing; the message behind it may."""
    one = begun(any_engine, any_settings, listener)
    one.hit("b@fresh.example", 1, signed=False, kind="rcpt", number=5)
    one.once(1)
    assert told(listener) == []
    one.hit("b@fresh.example", 1, number=5)
    one.once(1)
    assert [(e["event"], e["number"]) for e in told(listener)] == [("trap-hit", 1)]


def test_a_message_that_becomes_visible_late_is_told(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    """Another host's ids may be smaller than what was looked at already."""
    one = begun(engine, settings, listener)
    one.hit("b@first.example", number=1)
    with store.writing(engine) as connection:
        connection.exec_driver_sql("UPDATE message SET id = id + 100")
        for table in ("message_domain", "recipient", "signature"):
            connection.exec_driver_sql(f"UPDATE {table} SET message_id = message_id + 100")
    one.once()
    one.hit("c@late.example", number=2)
    one.once(61)
    assert [event["who"] for event in told(listener)] == ["first.example", "late.example"]


def test_imported_history_is_told_to_nobody(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener)
    one.hit("b@fresh.example", 2 * DAY)
    one.once()
    assert told(listener) == [] and count(engine, "message", "traps > 0") == 1


def test_digest_once_a_day_over_all_since_the_last(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    noon = NOW // DAY * DAY + DAY / 2
    given = with_notify(
        settings, webhook=listener.url, webhook_events=["digest"], digest="06:00"
    )  # fmt: skip
    one = Teller(engine, given, noon)
    one.once()
    one.hit("b@fresh.example", -5)
    one.once(18 * 3600 - 1)
    assert listener.requests == []
    one.once(2)
    one.once(3600)
    one.begin()
    one.once(3600)
    assert len(listener.requests) == 1
    (digest,) = told(listener)
    assert (digest["event"], digest["number"]) == ("digest", 1)
    assert "lines" not in digest["data"]
    one.once(3 * DAY)  # nobody ran it meanwhile
    assert len(listener.requests) == 2, "one for all of them"
    since = told(listener)[-1]["data"]["tonight"]["since"]
    assert since == timestamp(noon + 18 * 3600 + 1)


def test_nothing_of_a_submission_but_its_day_is_told(
    engine: Engine, settings: Settings, listener: Told, tmp_path: Path
) -> None:
    one = begun(engine, settings, listener, feed=str(tmp_path / "feed.atom"))
    from gatepost_policy.mail.decision import Reason
    from gatepost_policy.mail.facts import Direction

    full = replace(one.settings, store=replace(one.settings.store, submission="full"))
    record = message(
        3, at=one.now - 1, client=None, sender="kari@home.example", author="kari@home.example",
        to=(), traps=("trap@far.example",), direction=Direction.SUBMISSION,
        reason=Reason.OWN_USER_TRAP,
    )  # fmt: skip
    recorder.record_batch(engine, [record], full)
    assert count(engine, "message", "direction = 'submission' AND traps > 0") == 1
    submission(engine, int(one.now // DAY) - 1, 3)
    one.once()
    (event,) = told(listener)
    assert event["event"] == "own-user"
    everything = listener.requests[0][2] + (tmp_path / "feed.atom").read_bytes()
    assert b"kari" not in everything and b"far.example" not in everything


def test_a_person_is_found_in_events_and_taken_out(
    engine: Engine, settings: Settings, listener: Told
) -> None:
    one = begun(engine, settings, listener, digest="06:00")
    one.hit("b@fresh.example", -1)
    one.hit("b@other.example", -1, to="trap2@home.example")
    one.once(2)
    one.once(DAY)
    assert count(engine, "notice") == 3, "two hits and a digest"
    assert len(person.export(engine, settings, "Trap@home.example")["notices"]) == 2
    person.erase(engine, settings, "Trap@home.example", one.now)
    assert count(engine, "notice") == 1
    with store.reading(engine) as connection:
        (left,) = notices.newest(connection, 9)
    assert left.event.who == "other.example"
    one.hit("b@third.example", 1)
    one.once(61)
    assert [event["who"] for event in told(listener)][-1] == "third.example", "no id comes again"


def test_events_go_after_a_month(engine: Engine, settings: Settings, listener: Told) -> None:
    one = begun(engine, settings, listener)
    one.hit("b@fresh.example")
    one.once()
    retention.purge(engine, settings, one.now + 29 * DAY)
    assert count(engine, "notice") == 1
    retention.purge(engine, settings, one.now + 31 * DAY)
    assert count(engine, "notice") == 0
    one.hit("b@other.example", 1)
    one.once(61)
    assert [event["who"] for event in told(listener)] == ["fresh.example", "other.example"]


def test_no_mail_to_a_trap(engine: Engine, settings: Settings) -> None:
    """It would be an event of its own, and that one a mail again."""
    one = Teller(
        engine, with_notify(settings, mail_to=("Trap@home.example",), smtp="inet:1@127.0.0.1")
    )

    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=one.now)
        state = config.state_dir(settings)
        state.mkdir(parents=True, exist_ok=True)
        publish(connection, state, settings)
    one.begin()
    one.once()
    lose(engine, one.now, 1)
    one.once()
    assert "is a trap: not mailed" in one.log[0]
