"""One is one: figures in words, in what the commands print."""

import time

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message
from gatepost_policy import ingest, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.recorder.backup import Contents
from gatepost_policy.report.rhythm import DAY, of
from gatepost_policy.report.standing import standing
from gatepost_policy.text.plural import plural


@pytest.mark.parametrize(
    ("count", "want"),
    [(0, "0 days"), (1, "1 day"), (2, "2 days"), ("1", "1 day"), ("1.5", "1.5 days"),
     ("under 0.1", "under 0.1 days")],
)  # fmt: skip
def test_plural(count: int | str, want: str) -> None:
    assert plural(count, "day") == want


def test_one_day() -> None:
    rhythm = of([0.0, float(DAY)])
    assert rhythm is not None
    assert rhythm.sentence == "daily, median gap 1 day"
    judged = standing(rhythm, 0, None, messages=3, span=30 * DAY)
    assert judged.sentence == "2 messages on 2 days over 1 day, none to a trap"


def test_what_a_backup_holds() -> None:
    one = "1 message, 1 trap, 1 journal segment, 1 record in quarantine"
    assert str(Contents(1, 1, 1, 1)) == one
    two = "2 messages, 0 traps, 2 journal segments, 2 records in quarantine"
    assert str(Contents(2, 0, 2, 2)) == two


def test_one_hit(run: Run, engine: Engine, settings: Settings) -> None:
    at = time.time() - 60
    record = message(1, at=at, client="192.0.2.9", sender="a@once.example", author=None, to=(),
                     traps=("trap@home.example",))  # fmt: skip
    with store.writing(engine) as connection:
        ingest.ingest(connection, [record], settings, AT)
    code, output = run("sender", "show", "192.0.2.9")
    assert code == 0
    assert "prefix (proven): 1 message on 1 day, 1 to traps, " in output
    assert " 1 hit, " in output
    assert " to " not in output.splitlines()[1].replace("1 to traps", "")  # one time, not a span
    code, output = run("export", "plain")
    assert "# gatepost: 1 listing, " in output
    assert ", 1 hit, " in run("export", "pf")[1]
    assert run("trap", "add", "trap@home.example")[0] == 0
    assert run("trap", "check")[1] == "1 trap, none of them in use\n"
