"""What the charts show: the whole of what was selected, in periods, up to now."""

from typing import Any

import pytest
from sqlalchemy import Engine

from fix_report import TRAP, Mail, fill, seconds, signature
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import parse
from gatepost_policy.mail.facts import Family
from gatepost_policy.report import history, messages, periods, selection, series
from gatepost_policy.report.periods import DAY, HOUR, Unit
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import reading

NOW = seconds("2026-03-10T12:00:00")


def mails() -> list[Mail]:
    """Two years of two senders, over both families, some signed, some to the trap."""
    found = []
    for n in range(120):
        at = f"20{24 + n // 60}-{n % 12 + 1:02}-{n % 28 + 1:02}T{n % 24:02}:{n % 60:02}:00"
        result = ("pass", "fail", "permerror", "none")[n % 4]
        signed = () if result == "none" else (signature("often.example", result),)
        found.append(
            Mail(
                at, f"u{n % 3}@{'often' if n % 5 else 'other'}.example",
                (TRAP,) if n % 7 == 0 else ("user@example.net",),
                "192.0.2.25" if n % 2 else "2001:db8:25::1", signatures=signed,
            )
        )  # fmt: skip
    return found


SELECTIONS: list[dict[str, Any]] = [
    {},
    {"sender": "often.example"},
    {"sender": "u1@often.example"},
    {"host": selection.host("192.0.2.25")},
    {"host": selection.host("2001:db8::/32")},
    {"trap": parse(TRAP)},
    {"family": Family.IPV6},
    {"sender": "often.example", "family": Family.IPV4},
    {"since": seconds("2024-06-03T05:30:00"), "until": seconds("2025-08-08T20:15:00")},
    {"sender": "often.example", "since": seconds("2024-06-03T05:30:00")},
    {"since": seconds("2025-03-03T05:30:00"), "until": seconds("2025-03-05T20:15:00")},
]


def test_charts_show_what_the_summary_counts(any_engine: Engine, any_settings: Settings) -> None:
    """Whatever is selected: no message is left out, none is shown that is not selected."""
    fill(any_engine, mails(), any_settings)
    for selectors in SELECTIONS:
        chosen = Selection(**selectors)
        with reading(any_engine) as connection:
            told = history.tell(connection, chosen, any_settings, NOW)
            found = series.of(connection, chosen, told, NOW)
        assert found is not None, selectors
        for most in (5, 26, 64):
            bars = found.bars(most)
            families: dict[str, int] = {}
            dkim: dict[str, int] = {}
            for bar in bars:
                for family, count in bar.messages.items():
                    families[family] = families.get(family, 0) + count
                for result, count in bar.dkim.items():
                    dkim[result] = dkim.get(result, 0) + count
            assert families == told.summary.families, (selectors, most)
            assert {k: v for k, v in dkim.items() if v} == told.summary.dkim, (selectors, most)
            assert sum(bar.traps for bar in bars) == told.summary.trap_hits, (selectors, most)
            assert len(bars) <= most


def test_a_chart_begins_with_the_first_message_however_many_came_after(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More messages than are read one by one for marks: a sample would begin with its oldest."""
    first = [Mail("2021-02-03T04:05:06", "u@heavy.example")]
    later = [Mail(f"2026-03-01T{n // 60:02}:{n % 60:02}:00", "u@heavy.example") for n in range(150)]
    monkeypatch.setattr(messages, "MARKS_MAX", 100)
    fill(any_engine, first + later, any_settings)
    chosen = Selection(sender="heavy.example")
    with reading(any_engine) as connection:
        told = history.tell(connection, chosen, any_settings, NOW)
        found = series.of(connection, chosen, told, NOW)
    assert found is not None
    bars = found.bars(64)
    assert bars[0].start == seconds("2021-02-01T00:00:00")
    assert (bars[0].total, bars[-1].total) == (1, 150)
    assert sum(bar.total for bar in bars) == told.summary.messages == 151


def test_the_axis_ends_now_and_the_last_period_is_not_over() -> None:
    slots = {(seconds("2026-01-05T00:00:00"), "ipv4"): series.Slot(3)}
    found = series.Series(seconds("2026-01-05T10:00:00"), NOW, slots)
    bars = found.bars(20)
    assert found.unit(20) is Unit.WEEK
    assert bars[-1].start <= NOW < bars[-1].end and not bars[-1].whole
    assert all(bar.whole for bar in bars[:-1])
    one = series.Series(NOW, NOW, {(NOW // HOUR * HOUR, "ipv4"): series.Slot(1)})
    assert [bar.total for bar in one.bars(64)] == [1]


@pytest.mark.parametrize("unit", list(Unit))
def test_periods_join_without_a_gap(unit: Unit) -> None:
    at = periods.begin(seconds("2023-12-29T13:14:15"), unit)
    for _ in range(100):
        after = periods.after(at, unit)
        assert after > at
        assert periods.begin(after, unit) == after
        assert periods.begin(after - 1, unit) == at
        at = after
    assert periods.name(seconds("2024-10-01T00:00:00"), Unit.QUARTER) == "2024 Q4"


def test_the_shortest_period_that_fits() -> None:
    assert periods.fitting(10 * HOUR, 26) is Unit.HOUR
    assert periods.fitting(20 * DAY, 26) is Unit.DAY
    assert periods.fitting(5 * 365 * DAY, 64) is Unit.MONTH
    assert periods.fitting(500 * 365 * DAY, 26) is Unit.YEAR
