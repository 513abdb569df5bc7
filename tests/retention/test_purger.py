"""Retention: each class goes when it is due, sums stay right, and the store levels off."""

import time
from typing import Any

import pytest
from sqlalchemy import Engine

import sums
from fix_store import AT, count, message, settings_in, signature
from gatepost_policy import recorder, retention, store
from gatepost_policy.config.settings import Retention, Settings
from gatepost_policy.retention.pace import SETTLE_S

pytestmark = pytest.mark.slow

DAY = 86_400.0


def fill(engine: Engine, settings: Settings, learned: float, first: int = 0) -> None:
    """Forty messages of eight senders; every fifth hits a trap."""
    told = [
        message(
            n,
            at=learned + n,
            client=f"2001:db8:{n % 4:x}::{n:x}" if n % 2 else f"192.0.2.{n % 8}",
            port=1000 + n,
            sender=f"a{n}@s{n % 8}.example",
            author=f"a{n}@s{n % 8}.example",
            traps=("trap@home.example",) if n % 5 == 0 else (),
            signatures=(
                # The signed To names the trap: a second witness, so the domain is listed.
                signature(f"s{n % 8}.example", addressed="" if n % 5 else "trap"),
                signature("mailer.example"),
            ),
        )
        for n in range(first, first + 40)
    ]
    recorder.record_batch(engine, told, settings, learned)


def values(engine: Engine, sql: str) -> list[Any]:
    with store.reading(engine) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def test_classes_go_one_after_the_other(any_settings: Settings, any_engine: Engine) -> None:
    fill(any_engine, any_settings, AT)
    purge = retention.purge
    assert purge(any_engine, any_settings, AT + 29 * DAY).recipients == 0
    assert count(any_engine, "recipient") == 48

    done = purge(any_engine, any_settings, AT + 31 * DAY)
    assert (done.recipients, done.addresses, done.rows) == (32, 0, 0)
    assert count(any_engine, "recipient") == 16, "trap mail keeps its recipients"
    sums.check(any_engine)

    done = purge(any_engine, any_settings, AT + 91 * DAY)
    assert (done.recipients, done.addresses, done.rows) == (0, 32, 0)
    left = values(any_engine, "SELECT DISTINCT prefix FROM message WHERE traps = 0 ORDER BY 1")
    assert left == [("192.0.2.0/24",), ("2001:db8:1::/48",), ("2001:db8:3::/48",)]
    bare = "address IS NULL AND client_name IS NULL AND helo IS NULL AND session IS NULL"
    assert count(any_engine, "message", bare) == 32
    assert count(any_engine, "identity", "kind = 'prefix' AND trap_messages = 0") == 0
    assert count(any_engine, "identity", "kind = 'prefix'") > 0
    assert count(any_engine, "domain_host", "name IS NOT NULL AND messages > 2") == 0
    sums.check(any_engine)

    done = purge(any_engine, any_settings, AT + 366 * DAY)
    assert done.rows == 32
    assert count(any_engine, "message") == 8
    assert values(any_engine, "SELECT sum(messages) FROM message_count") == [(32,)]
    assert count(any_engine, "signature") == 16
    assert count(any_engine, "identity", "trap_messages = 0") == 0
    assert count(any_engine, "dkim_key") == 9
    assert count(any_engine, "listing") > 0
    sums.check(any_engine)

    done = purge(any_engine, any_settings, AT + 21 * 365 * DAY)
    for table in ("message", "recipient", "signature", "message_domain", "domain_day",
                  "domain_host", "identity", "dkim_key", "listing", "evidence"):  # fmt: skip
        assert count(any_engine, table) == 0, table
    assert values(any_engine, "SELECT sum(messages) FROM message_count") == [(40,)]
    if any_engine.dialect.name == "postgresql":
        assert done.partitions > 0


def test_age_counts_from_when_it_was_learned(any_settings: Settings, any_engine: Engine) -> None:
    old = [message(1, at=1e9, key="log:1"), message(2, at=AT, key="log:2")]
    recorder.record_batch(any_engine, old, any_settings, AT)
    retention.purge(any_engine, any_settings, AT + 29 * DAY)
    assert count(any_engine, "recipient") == 2
    assert count(any_engine, "identity", "days = 2") == 4


@pytest.mark.parametrize("years", [3, 12, 74])
def test_mail_learned_by_a_clock_far_ahead(
    any_settings: Settings, any_engine: Engine, years: int
) -> None:
    """The clock was wrong for a moment: that mail is forgotten when other mail of that day is."""
    ages = any_settings.retention
    fill(any_engine, any_settings, AT + years * 366 * DAY)
    fill(any_engine, any_settings, AT + DAY, 400)  # the clock is right again
    retention.purge(any_engine, any_settings, AT + DAY)
    assert count(any_engine, "message") == 80, "nothing goes early"
    his = f"at > {AT + 1_000 * DAY} AND traps = 0"
    for age, held, left in (
        (ages.recipients, "id IN (SELECT message_id FROM recipient)", 32),
        (ages.addresses, "address IS NOT NULL", 32),
        (ages.rows, "true", 32),
    ):
        fill(any_engine, any_settings, AT + age, int(age / DAY))  # mail goes on
        retention.purge(any_engine, any_settings, AT + age)
        assert count(any_engine, "message", f"{his} AND {held}") == left
        retention.purge(any_engine, any_settings, AT + age + DAY + 60)
        assert count(any_engine, "message", f"{his} AND {held}") == 0
    sums.check(any_engine)
    retention.purge(any_engine, any_settings, AT + years * 366 * DAY + ages.traps + DAY)
    assert count(any_engine, "message") == 0


def test_a_step_is_bounded(any_settings: Settings, any_engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr("gatepost_policy.retention.purger.STEP", 10)
    fill(any_engine, any_settings, AT)
    purger = retention.Purger(any_engine, any_settings)
    before, steps = 0, 0
    while purger.step(AT + 366 * DAY):
        done = purger.done
        total = done.recipients + done.addresses + done.rows + done.identities
        assert total - before <= 10
        before, steps = total, steps + 1
    assert steps > 12
    sums.check(any_engine)


def test_what_was_purged_is_not_looked_at_again(any_settings: Settings, any_engine: Engine) -> None:
    fill(any_engine, any_settings, AT)
    now = AT + 31 * DAY
    assert retention.purge(any_engine, any_settings, now).recipients == 32
    fill(any_engine, any_settings, now, first=100)
    assert retention.purge(any_engine, any_settings, now).recipients == 0
    assert retention.purge(any_engine, any_settings, now + 31 * DAY).recipients == 32


def test_the_store_levels_off(tmp_path: Any) -> None:
    """Ten times as long: not ten times as large."""
    kept = Retention(recipients=86_400, addresses=172_800, rows=259_200, traps=345_600)
    settings = settings_in(tmp_path, retention=kept)
    engine = store.open_engine(settings)
    sizes = []
    for day in range(30):
        now = AT + day * DAY
        fill(engine, settings, now, first=day * 40)
        retention.purge(engine, settings, now)
        pages = values(engine, "PRAGMA page_count")[0][0] - values(
            engine, "PRAGMA freelist_count")[0][0]  # fmt: skip
        sizes.append(pages)
    engine.dispose()
    assert max(sizes[10:]) <= max(sizes[5:10]) * 1.2, sizes


def test_the_recorder_purges_by_itself(settings: Settings, engine: Engine) -> None:
    fill(engine, settings, time.time() - 60 * DAY)
    fill(engine, settings, time.time(), 40)
    r = recorder.Recorder(settings)
    assert r.lock()
    r._pace.settled -= 2 * SETTLE_S
    for _ in range(30):
        r._purge_at = 0
        r.step()
    r.close()
    assert count(engine, "recipient") < 96
