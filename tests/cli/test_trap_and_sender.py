"""`milterctl trap` and `milterctl sender`: what they print, refuse, and leave with."""

import json
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message
from gatepost_policy import ingest, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.facts import Source

DAY = 86_400


@pytest.fixture
def history(engine: Engine, settings: Settings) -> None:
    """A trap hit now, and a sender that came back over months."""
    now = time.time()
    records = [
        message(n, at=now - (3 - n) * 20 * DAY, client="192.0.2.9", sender="again@slow.example",
                author=None, to=(), traps=("trap@home.example",))
        for n in range(4)
    ]  # fmt: skip
    with store.writing(engine) as connection:
        ingest.ingest(connection, records, settings, AT)


def test_add_list_remove(run: Run) -> None:
    assert run("trap", "add", "Trap+x@home.example", "@old.example", "--note", "n", "--published",
               "web", "--published-at", "2026-01-02")[0] == 0  # fmt: skip
    assert run("trap", "add", "trap@home.example") == (0, "trap@home.example was a trap already\n")
    code, output = run("trap", "list")
    assert code == 0
    (line,) = [x for x in output.splitlines() if "trap@home.example" in x]
    assert "exact" in line and "web 2026-01-02" in line
    found = json.loads(run("trap", "list", "--format", "json", "--match", "HOME")[1])
    assert [(t["key"], t["raw"], t["published_at"]) for t in found] == [
        ("trap@home.example", "Trap+x@home.example", "2026-01-02T00:00:00Z"),
    ]
    assert run("trap", "remove", "trap@home.example", "never@home.example") == (
        0, "trap@home.example is no trap any more\nnever@home.example was no trap\n",
    )  # fmt: skip
    assert len(json.loads(run("trap", "list", "--format", "json")[1])) == 1


BAD = [
    (("trap", "add", "nonsense"), "want an address"),
    (("trap", "add", "good@home.example", "postmaster@home.example"), "always open"),
    (("trap", "hits", "nonsense"), "want an address"),
    (("sender", "punish", "nobody"), "want an IP address"),
    (("sender", "punish", "192.0.2.1", "--for", "soon"), "want a duration"),
    (("sender", "show", "192.0.2.0/99"), "want an IP address"),
]


@pytest.mark.parametrize(("words", "want"), BAD)
def test_bad_usage_is_one_line_and_2(run: Run, words: tuple[str, ...], want: str) -> None:
    code, output = run(*words)
    assert (code, want in output) == (2, True), output
    # Nothing of a command that failed is kept.
    assert json.loads(run("trap", "list", "--format", "json")[1]) == []


@pytest.mark.parametrize(
    ("file", "want"), [("/nowhere/list", "cannot be read"), ("/", "Is a directory")]
)
def test_an_unreadable_list_is_one_line_and_1(run: Run, file: str, want: str) -> None:
    code, output = run("trap", "import", file)
    assert (code, want in output, len(output.splitlines())) == (1, True, 1), output


def test_import(run: Run, tmp_path: Path) -> None:
    listed = tmp_path / "list"
    listed.write_bytes(b"# comment\r\na@home.example\r\nB@home.example\r\n\r\na@home.example\r\n")
    assert run("trap", "import", str(listed)) == (
        0, "2 new traps, 1 known already, 0 lines refused\n",
    )  # fmt: skip
    code, output = run("trap", "import", "-", stdin=b"c@home.example\nbad line \x1b[31m\n")
    assert code == 1
    assert output.startswith("1 new trap, 0 known already, 1 line refused\n")
    assert "-: line 2: bad line \\x1b[31m: want an address" in output
    listed_now = json.loads(run("trap", "list", "--format", "json")[1])
    assert {t["key"]: t["source"] for t in listed_now} == {
        "a@home.example": "list", "b@home.example": "list", "c@home.example": None,
    }  # fmt: skip


def test_check(run: Run, history: None) -> None:
    assert run("trap", "check") == (0, "0 traps, none of them in use\n")
    assert run("trap", "add", "--force", "again@slow.example")[0] == 0
    code, output = run("trap", "check")
    assert code == 1
    assert "milterctl trap remove again@slow.example" in output
    (finding,) = json.loads(run("trap", "check", "--format", "json")[1])
    assert (finding["how"], finding["messages"]) == ("sender", 4)


def test_hits(run: Run, history: None) -> None:
    for words in ((), ("trap@home.example",), ("@home.example",), ("tr*@home.example",)):
        found = json.loads(run("trap", "hits", *words, "--format", "json")[1])
        assert [h["client"] for h in found] == ["192.0.2.9"] * 4, words
    assert json.loads(run("trap", "hits", "other@home.example", "--format", "json")[1]) == []
    assert "<again@slow.example>" in run("trap", "hits", "--limit", "1")[1]


def test_of_a_log_no_list_says_that_a_rule_decided(
    run: Run, engine: Engine, settings: Settings
) -> None:
    """`accept (no-bad-signal)` of mail to a trap would be a verdict that nobody gave."""
    heard = message(1, to=(), traps=("trap@home.example",), source=Source.EXIM_LOG)
    with store.writing(engine) as connection:
        ingest.ingest(connection, [heard], settings, AT)
    for words in (("trap", "hits"), ("report", "sender.example")):
        code, text = run(*words)
        assert code == 0 and "accepted by the MTA" in text, (words, text)
        assert "no-bad-signal" not in text, words


def test_sender(run: Run, history: None) -> None:
    told: dict[str, Any] = json.loads(run("sender", "list", "--format", "json")[1])
    (listing,) = told["listings"]
    assert (listing["value"], listing["state"]) == ("192.0.2.9/32", "active")
    assert {r["value"] for r in told["repeat"]} == {
        "192.0.2.9/32", "again@slow.example", "slow.example",
    }  # fmt: skip
    assert "Repeat senders" in run("sender", "list")[1]
    shown = json.loads(run("sender", "show", "192.0.2.9", "--format", "json")[1])
    assert shown["identities"][0]["messages"] == 4
    assert [e["trap"] for x in shown["listings"] for e in x["evidence"]] == [
        "trap@home.example"
    ] * 4
    assert "4 messages on 4 days, 4 to traps" in run("sender", "show", "192.0.2.9")[1]
    code, output = run("sender", "forgive", "192.0.2.9", "--note", "sorry")
    assert (code, "lifted" in output) == (0, True)
    assert json.loads(run("sender", "list", "--format", "json")[1])["listings"] == []
    assert run("sender", "forgive", "192.0.2.9") == (0, "192.0.2.9/32 was not listed\n")


def test_punish(run: Run) -> None:
    code, output = run("sender", "punish", "2001:db8::5", "--for", "3d", "--note", "by hand")
    assert code == 0 and output.startswith("2001:db8::/64 is listed until ")
    assert 'sender.action is "shadow"' in output
    (listing,) = json.loads(run("sender", "list", "--format", "json")[1])["listings"]
    assert (listing["by_hand"], listing["note"], listing["reason"]) == (True, "by hand", "by-hand")
    assert "can be forged" in run("sender", "punish", "joe@x.example")[1]


def test_nothing_known(run: Run) -> None:
    """Nothing is said in words, not by a table without rows."""
    assert run("trap", "list") == (0, "no traps\n")
    assert run("trap", "hits") == (0, "no message to a trap\n")
    assert run("trap", "hits", "a@x.example") == (0, "no message to this trap\n")
    assert run("trap", "list", "--format", "json") == (0, "[]\n")
    assert run("trap", "list", "--match", "x") == (0, "no such trap\n")
    assert run("sender", "list") == (0, "nobody is listed\n")
    code, output = run("sender", "show", "quiet.example")
    assert (code, output) == (0, "quiet.example\nnever seen, never listed\n")
