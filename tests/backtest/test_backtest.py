"""Backtest: the history judged again comes to the same; a changed rule set shows what changes."""

import json
import random
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner
from sqlalchemy import Engine

from fix_store import AT, message, signature
from from_table import from_table
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import backtest, config, ingest, listings, lookup, rules, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.values import write_table
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Json, Seen
from gatepost_policy.lookup import KnownState
from gatepost_policy.lookup import history as history_of_hits
from gatepost_policy.mail.decision import Action, Reason

pytestmark = pytest.mark.slow

TRAP, USER = "trap@home.example", "user@home.example"
HOUR, DAY = 3_600, 86_400
NOW = float(int(time.time()))


@pytest.fixture
def settings(any_settings: Settings) -> Settings:
    """On SQLite, and on PostgreSQL where that ring runs."""
    return any_settings


@pytest.fixture
def engine(any_engine: Engine) -> Engine:
    """The store of `settings`."""
    return any_engine


def with_sender(settings: Settings, **values: Any) -> Settings:
    tree = {**write_table(settings), "sender": {**write_table(settings.sender), **values}}
    return from_table(Settings, tree)


def live(engine: Engine, settings: Settings, records: list[Json]) -> list[Seen]:
    """Judge and record one message after the other, as milter and recorder do together.

    However busy the machine is: an answer of the store that came too late is another history.
    """
    with patch.multiple(history_of_hits, WAIT_S=60.0, FRESH_S=0.0):
        return _live(engine, settings, records)


def _live(engine: Engine, settings: Settings, records: list[Json]) -> list[Seen]:
    state = KnownState(settings)
    out = []
    for data in records:
        with store.reading(engine) as connection:
            directory = config.state_dir(settings)
            lookup.publish(connection, directory, settings, now=float(data["at"]))
        state._look_at = 0.0
        seen = record.read_seen(data)
        what = state.lookup(seen.facts)
        judged = replace(
            seen, decision=rules.judge(seen.facts, what, settings), traps=tuple(what.traps)
        )
        with store.writing(engine) as connection:
            written = json.loads(json.dumps(record.message(judged)))
            ingest.ingest(connection, [written], settings, AT)
        out.append(judged)
    return out


def scenario(seed: int, count: int) -> list[Json]:
    """Mail of some days in a fixed disorder: signed and not, to traps, to users, to both."""
    rng = random.Random(seed)
    at = NOW - count * 2 * HOUR
    out = []
    for number in range(count):
        at += rng.randrange(60, 4 * HOUR)
        who = rng.randrange(6)
        domain = ("a.example", "b.example", "gmail.com")[who % 3]
        to = rng.choices([(USER,), (TRAP,), (USER, TRAP), ("abuse@home.example",)], (6, 3, 1, 1))[0]
        sender = "" if rng.random() < 0.05 else f"x{who}@{domain}"
        out.append(
            message(
                number,
                at=at,
                client=("192.0.2.1", "192.0.2.2", "2001:db8:1::5")[rng.randrange(3)],
                sender=sender,
                author=f"x{who}@{domain}",
                to=to,
                signatures=(signature(domain),) if rng.random() < 0.5 else (),
            )
        )
    return out


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_same_rules_decide_the_same(engine: Engine, settings: Settings, seed: int) -> None:
    """What the backtest lives through is what really happened: listings, repeats, good mail."""
    strict = with_sender(settings, action="tempfail", listing_first="6h", repeat_span="5d")
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=NOW)
    seen = live(engine, strict, scenario(seed, 90))
    reasons = {s.decision.reason for s in seen}
    # It was a history worth living through again.
    assert {
        Reason.TRAP, Reason.TRAP_MIXED, Reason.LISTED, Reason.REPEAT_SENDER,
        Reason.SHARED_CLIENT, Reason.NEVER_LIST, Reason.NO_BAD_SIGNAL,
    } <= reasons  # fmt: skip
    with store.reading(engine) as connection:
        result = backtest.run(connection, strict)
    assert result.messages == 90
    assert [d.json() for d in result.examples] == []


def history(engine: Engine, settings: Settings) -> None:
    """A trap hit, a message within its listing, one after it; recorded in shadow."""
    records = [
        message(1, at=NOW - 5 * DAY, to=(), traps=(TRAP,), action=Action.REJECT,
                reason=Reason.TRAP),
        message(2, at=NOW - 5 * DAY + HOUR),
        message(3, at=NOW - 5 * DAY + HOUR, client="192.0.2.8", sender="y@other.example"),
        message(4, at=NOW - 3 * DAY),
    ]  # fmt: skip
    with store.writing(engine) as connection:
        ingest.ingest(connection, records, settings, AT)


def test_what_changes(engine: Engine, settings: Settings) -> None:
    history(engine, settings)
    told: list[int] = []
    with store.reading(engine) as connection:
        assert backtest.total(connection) == 4
        same = backtest.run(connection, settings, progress=told.append)
        strict = backtest.run(connection, with_sender(settings, action="tempfail"))
        longer = backtest.run(
            connection, with_sender(settings, action="tempfail", listing_first="3d")
        )
        late = backtest.run(
            connection, with_sender(settings, action="tempfail"), since=NOW - 4 * DAY
        )
    assert (same.messages, same.changed, sum(told)) == (4, 0, 4)
    (one,) = strict.examples
    assert (one.queue_id, one.old, one.new) == (
        "Q2", ("accept", "no-bad-signal"), ("tempfail", "listed"),
    )  # fmt: skip
    assert [d.queue_id for d in longer.examples] == ["Q2", "Q4"]
    assert (late.messages, late.changed) == (1, 0)
    assert strict.senders.most_common(1)[0] == (
        ("sender.example", ("accept", "no-bad-signal"), ("tempfail", "listed")), 1,
    )  # fmt: skip


def test_a_rule_that_is_off(engine: Engine, settings: Settings) -> None:
    history(engine, settings)
    off = from_table(Settings, {**write_table(settings), "rules": {"trap": {"mode": "off"}}})
    with store.reading(engine) as connection:
        (one,) = backtest.run(connection, off).examples
    assert (one.old, one.new) == (("reject", "trap"), ("accept", "no-bad-signal"))


def test_by_hand_counts(engine: Engine, settings: Settings) -> None:
    history(engine, settings)
    with store.writing(engine) as connection:
        for name in ("192.0.2.8/30", "other.example"):
            listings.punish(connection, listings.identify(name), seconds=DAY, at=NOW - 5 * DAY + 60)
    with store.reading(engine) as connection:
        result = backtest.run(connection, with_sender(settings, action="reject"))
    assert sorted(str(d.queue_id) for d in result.examples) == ["Q2", "Q3"]


def test_command(engine: Engine, settings: Settings, tmp_path: Path) -> None:
    history(engine, settings)
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(f'store.url = "{settings.store.url}"\nstore.journal = "{tmp_path}/journal"\n')
    new.write_text('sender.action = "tempfail"\n')
    base = ["--config", str(old), "backtest"]
    plain = CliRunner().invoke(cli, base)
    assert plain.exit_code == 0
    assert plain.output == "4 messages, 0 would have been decided differently\n"
    told = CliRunner().invoke(cli, [*base, "--config", str(new), "--format", "json"])
    data = json.loads(told.output)
    assert (told.exit_code, data["messages"], data["changed"]) == (1, 4, 1)
    assert data["by_reason"][0]["new"] == {"action": "tempfail", "reason": "listed"}
    assert data["examples"][0]["queue_id"] == "Q2"
    table = CliRunner().invoke(cli, [*base, "--config", str(new)])
    assert "accept no-bad-signal" in table.output and "sender.example" in table.output
