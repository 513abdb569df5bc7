"""A wall clock that is wrong costs no history, and one that is right forgets in the end."""

import threading
import time
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from fix_store import AT, count, message
from gatepost_milter.cli import main
from gatepost_policy import recorder, retention
from gatepost_policy.config.settings import Retention, Settings
from gatepost_policy.recorder import Recorder
from gatepost_policy.retention import pace

pytestmark = pytest.mark.slow

DAY = 86_400.0
HOUR = 3_600.0


class Clocks:
    """A wall clock that can be set, and a steady one that cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, wall: float) -> None:
        self.wall, self.even = wall, 1_000.0
        monkeypatch.setattr(time, "time", lambda: self.wall)
        monkeypatch.setattr(retention, "steady", lambda: self.even)
        monkeypatch.setattr(pace, "steady", lambda: self.even)

    def on(self, seconds: float) -> None:
        """Time goes by."""
        self.wall += seconds
        self.even += seconds


def working(settings: Settings, clocks: Clocks) -> tuple[Recorder, list[str]]:
    """A recorder that holds the lock, and its log."""
    told: list[str] = []
    found = Recorder(settings, lambda level, text: told.append(f"{level} {text}"))
    found._pace.settled = clocks.even
    assert found.lock()
    return found, told


def live(recorder: Recorder, clocks: Clocks, seconds: float, every: float = 1_200.0) -> None:
    """Let a recorder that has nothing else to do live for a while."""
    for _ in range(int(seconds / every)):
        clocks.on(every - 1)
        for _ in range(5):
            clocks.on(0.2)
            recorder.step()


def fill(engine: Engine, settings: Settings, at: float, first: int = 0) -> None:
    told = [message(n, at=at) for n in range(first, first + 20)]
    recorder.record_batch(engine, told, settings, at)


def test_a_start_with_a_wrong_clock_costs_nothing(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    fill(any_engine, any_settings, AT)
    clocks.wall += 400 * DAY
    daemon, told = working(any_settings, clocks)
    live(daemon, clocks, 0.9 * HOUR)
    # What NTP does, and what a daemon sees of it.
    clocks.wall -= 400 * DAY
    live(daemon, clocks, 3 * HOUR)
    daemon.close()
    assert count(any_engine, "recipient") == 20
    assert count(any_engine, "message") == 20
    assert any("the clock was set by -34560000 s" in line for line in told), told


def test_a_leap_under_a_running_service_costs_nothing(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    fill(engine, settings, AT)
    daemon, told = working(settings, clocks)
    live(daemon, clocks, 2 * HOUR)
    clocks.wall += 400 * DAY
    live(daemon, clocks, 1_200)
    clocks.wall -= 400 * DAY
    live(daemon, clocks, 2 * HOUR)
    daemon.close()
    assert count(engine, "recipient") == 20
    assert len([line for line in told if "the clock was set" in line]) == 2


def test_a_clock_that_stays_wrong_costs_a_day_an_hour(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    fill(engine, settings, AT)
    clocks.wall += 400 * DAY
    daemon, told = working(settings, clocks)
    live(daemon, clocks, 29 * HOUR)
    assert count(engine, "recipient") == 20, "29 days at most were forgotten"
    live(daemon, clocks, 4 * HOUR)
    daemon.close()
    assert count(engine, "recipient") == 0
    assert len([line for line in told if "followed by a day an hour" in line]) == 1
    assert [line for line in told if "20 messages lost their recipients" in line], told


def test_a_machine_back_from_three_weeks_off_forgets_within_a_day(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    fill(engine, settings, AT)
    clocks.on(10 * DAY)
    daemon, _ = working(settings, clocks)
    live(daemon, clocks, 40 * HOUR)  # it is behind by ten days and catches up
    daemon.close()
    clocks.wall += 21 * DAY
    daemon, _ = working(settings, clocks)
    live(daemon, clocks, 0.9 * HOUR)
    assert count(engine, "recipient") == 20
    live(daemon, clocks, 24 * HOUR)
    daemon.close()
    assert count(engine, "recipient") == 0


def test_a_clock_at_1970_does_not_age_the_mail_of_that_hour(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    fill(engine, settings, AT)
    daemon, _ = working(settings, clocks)
    live(daemon, clocks, 2 * HOUR)
    daemon.close()
    right, clocks.wall = clocks.wall, 1_000.0
    fill(engine, settings, 1_000.0, 20)
    clocks.wall = right
    daemon, _ = working(settings, clocks)
    live(daemon, clocks, 3 * HOUR)
    daemon.close()
    assert count(engine, "recipient") == 40


def test_rows_of_a_clock_ahead_do_not_stop_retention(
    any_settings: Settings, any_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gatepost_policy.retention.purger.STEP", 5)
    fill(any_engine, any_settings, AT)
    # SQLite numbers rows in the order of their arrival, whatever their time.
    ahead = AT + 400 * DAY
    recorder.record_batch(
        any_engine, [message(n, at=ahead) for n in range(20, 40)], any_settings, ahead
    )
    recorder.record_batch(
        any_engine, [message(n, at=AT) for n in range(40, 60)], any_settings, AT + DAY
    )
    done = retention.purge(any_engine, any_settings, AT + 40 * DAY)
    assert done.recipients == (60 if any_engine.dialect.name == "sqlite" else 40)


def test_a_purge_says_what_went(
    settings: Settings, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    clocks = Clocks(monkeypatch, AT)
    quick = replace(settings, retention=Retention(recipients=60, every=60))
    fill(engine, settings, AT)
    daemon, told = working(quick, clocks)
    live(daemon, clocks, 3 * HOUR)
    daemon.close()
    assert len(told) == 1
    assert told[0].startswith("info retention: 20 messages lost their recipients")


def test_the_steady_clock_is_one() -> None:
    before = pace.steady()
    threading.Event().wait(0.01)
    assert before < pace.steady() < before + 60


def test_a_purge_by_hand_asks_for_a_word_where_the_clock_may_be_wrong(
    settings: Settings, engine: Engine, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(engine, settings, time.time() - 40 * DAY)
    url = f"sqlite:///{engine.url.database}"
    with pytest.raises(SystemExit) as ended:
        main(["--store", url, "db", "purge"])
    assert ended.value.code == 1
    assert "nothing is forgotten; if the clock is right" in capsys.readouterr().err
    assert count(engine, "recipient") == 20
    with pytest.raises(SystemExit) as ended:
        main(["--store", url, "db", "purge", "--clock-is-right"])
    assert ended.value.code == 0
    assert count(engine, "recipient") == 0
