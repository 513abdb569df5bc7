"""Tonight: who hit a trap, who came back and after how long, what was listed and lost."""

import json
import re

import pytest
from sqlalchemy import Engine, insert

from fix_cli import Run
from fix_store import message, signature
from gatepost_policy import config, listings, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal.record import Json
from gatepost_policy.mail.decision import Reason
from gatepost_policy.mail.facts import Identity, IdentityKind
from gatepost_policy.monitoring import privacy_result
from gatepost_policy.monitoring.privacy_result import Result
from gatepost_policy.render import tonight as render
from gatepost_policy.report import tonight
from gatepost_policy.report.tonight import Tonight
from gatepost_policy.store.tables import JournalGap, SubmissionCount

DAY = 86_400
NOW = 1_790_035_200.0  # 2026-09-22T00:00:00Z
TRAP = "trap@home.example"


def hit(at: float, sender: str, client: str, signed: bool = False) -> Json:
    signatures = (signature(sender.rpartition("@")[2]),) if signed else ()
    return message(
        int(at), at=at, client=client, sender=sender, author=sender or None, traps=(TRAP,), to=(),
        signatures=signatures, reason=Reason.ONE_WITNESS,
    )  # fmt: skip


def fill(engine: Engine, settings: Settings) -> None:
    records = [
        hit(NOW - 63 * DAY, "news@slow.example", "192.0.2.1", signed=True),
        hit(NOW - 7200, "news@slow.example", "192.0.2.2", signed=True),
        hit(NOW - 3 * DAY, "a@daily.example", "192.0.2.3"),
        hit(NOW - 3600, "a@daily.example", "192.0.2.3"),
        hit(NOW - 1800, "a@new.example", "192.0.2.4"),
        hit(NOW - 900, "", "2001:db8:1::5"),
        message(7, at=NOW - 600),
    ]
    recorder.record_batch(engine, records, settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=NOW - 99 * DAY)
        for value, since, seconds in (
            ("203.0.113.1/32", NOW - 3600, 10 * DAY),
            ("203.0.113.2/32", NOW - 9 * DAY, 9 * DAY - 60),
            ("203.0.113.3/32", NOW - 9 * DAY, 9 * DAY + 60),
            ("203.0.113.4/32", NOW - 9 * DAY, 90 * DAY),
        ):
            who = Identity(IdentityKind.PREFIX, value, True)
            listings.punish(connection, who, seconds=seconds, at=since, note="")
        connection.execute(insert(JournalGap).values(since=NOW - 99, until=NOW - 9, lost=4))
        connection.execute(insert(JournalGap).values(since=NOW - 9 * DAY, until=NOW - 8 * DAY,
                                                     lost=70))  # fmt: skip
        connection.execute(
            insert(SubmissionCount).values(
                day=int((NOW - 1) // DAY), direction="submission", family="ipv4", action="accept",
                reason="own-user-trap", messages=2,
            )
        )  # fmt: skip


def read(engine: Engine, probe: Result | None = None) -> Tonight:
    with store.reading(engine) as connection:
        return tonight.read(connection, NOW - DAY, NOW, probe)


def test_tonight(any_engine: Engine, any_settings: Settings) -> None:
    fill(any_engine, any_settings)
    found = read(any_engine)
    assert found.hits == 4
    assert {(h.who, h.known, h.came_back, h.proven) for h in found.hitters} == {
        ("slow.example", 1, True, True),
        ("daily.example", 1, False, False),
        ("new.example", 0, False, False),
        ("2001:db8:1::5", 0, False, True),
    }
    (back,) = found.back
    assert back.who == "slow.example" and tonight.away_in_words(back) == "after 2 months"
    changed = {(x.value.partition("/")[0][-1], x.change) for x in found.listings}
    # Automatic listings of this night's hits may stand beside those made by hand.
    assert {("1", "new"), ("2", "over"), ("3", "ends")} <= changed
    assert not any(x.value == "203.0.113.4/32" for x in found.listings)
    assert (found.lost, found.own_users) == (4, 2)
    text = "\n".join(render.lines(found))
    for words in (
        "OWN USERS  2 submissions to a trap (2 on 2026-09-21): an account may be stolen",
        f"back       slow.example is back after 2 months (1 hit before): 1 message to {TRAP}",
        "daily.example (claimed) (1 hit before)",
        "lost       4 records",
        "probe      not known",
    ):
        assert words in text, text


def test_a_quiet_night_says_so(any_engine: Engine) -> None:
    found = read(any_engine, Result(NOW, {"port-25": True, "submission": False}))
    text = "\n".join(render.lines(found))
    for words in ("nobody hit one", "none of them wrote to a trap", "none began",
                  "no loss is known", "NOT CLEAN: submission, on 2026-09-22 00:00"):  # fmt: skip
        assert words in text, text
    assert "OWN USERS" not in text


@pytest.mark.parametrize(
    ("clean", "age", "words"),
    [
        ({"a": True}, 0, "probe  clean, on"),
        ({"a": False}, 0, "probe  NOT CLEAN: a, on"),
        ({}, 0, "probe  not known: no way was tried"),
        # It is run every day: what was clean last month says nothing about tonight.
        ({"a": True}, 30 * DAY, "probe  not known for this time: the last privacy test says clean"),
        ({"a": True}, -30 * DAY, "probe  not known for this time"),
    ],
)
def test_the_probe_is_clean_only_where_a_way_was_tried_now(
    any_engine: Engine, clean: dict[str, bool], age: float, words: str
) -> None:
    text = "\n".join(render.lines(read(any_engine, Result(NOW - age, clean))))
    assert words in re.sub(r"probe +", "probe  ", text)


def test_command(run: Run, engine: Engine, settings: Settings) -> None:
    fill(engine, settings)
    privacy_result.write(config.state_dir(settings), Result(NOW, {"submission": True}))
    since = ("--since", "2026-09-21", "--until", "2026-09-22")
    code, out = run("report", "--tonight", *since)
    assert code == 0 and "slow.example is back after 2 months" in out
    got = json.loads(run("report", "--tonight", *since, "--format", "json")[1])
    assert got["trap_messages"] == 4 and got["privacy_probe"]["clean"] == {"submission": True}
    code, out = run("report")
    assert code == 0 and out.startswith("Since ") and "All senders" in out
    assert "tonight" in json.loads(run("report", "--format", "json")[1])
    assert "tonight" not in json.loads(run("report", "--family", "ipv4", "--format", "json")[1])
