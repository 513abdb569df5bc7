"""Who tries logins: which hosts, how many names, in which order, and do they mail traps?"""

import csv
import io
import json
from pathlib import Path

from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal.record import Json
from gatepost_policy.report import gropers

NAMES = "aaron abby adam agnes alan albert alice amanda amy andrea".split()
DAY = 86_400.0


def walk() -> list[Json]:
    """Ten hosts with a name each, and one that tried three in no order and mailed a trap."""
    told: list[Json] = []
    for number, name in enumerate(NAMES):
        told += tried(f"203.0.113.{number + 1}/32", AT + number * DAY, name)
    return [*told, *tried("192.0.2.7/32", AT - DAY, "zoe", "root", "admin", attempts=9)]


def tried(prefix: str, at: float, *names: str, attempts: int = 1) -> list[Json]:
    told: list[Json] = [
        {
            "v": 1, "kind": "guess", "what": "login", "at": at + n, "first": at + n,
            "address": name, "hits": 1, "hosts": [[prefix, at + n, at + n]],
        }
        for n, name in enumerate(names)
    ]  # fmt: skip
    last = at + len(names) - 1
    return [
        *told,
        {
            "v": 1, "kind": "groper", "at": last, "first": at, "prefix": prefix,
            "attempts": attempts, "names": len(names),
        },
    ]  # fmt: skip


def test_what_is_told(any_settings: Settings, any_engine: Engine) -> None:
    with store.reading(any_engine) as connection:
        assert gropers.read(connection) == gropers.Gropers((), 0, ())
    hit = message(1, client="192.0.2.7", traps=("trap@home.example",), to=())
    recorder.record_batch(any_engine, [*walk(), hit], any_settings, AT)
    with store.reading(any_engine) as connection:
        found = gropers.read(connection)
        late = gropers.read(connection, since=AT + 8 * DAY)
    assert (found.attempts, len(found.hosts), found.names) == (19, 11, 13)
    assert (found.first, found.last) == (AT - DAY, AT + 9 * DAY)
    most = found.hosts[0]
    assert (most.prefix, most.attempts, most.names) == ("192.0.2.7/32", 9, 3)
    assert most.trap_messages == 1 and not most.alphabetical
    assert all(one.alphabetical for one in found.hosts[1:]) and found.trapped == 1
    (one,) = found.walks
    assert (one.hosts, one.names, one.first, one.last) == (10, 10, "aaron", "andrea")
    assert [host.prefix for host in late.hosts] == ["203.0.113.9/32", "203.0.113.10/32"]


def test_every_way_to_show_it(run: Run, engine: Engine, settings: Settings, tmp_path: Path) -> None:
    assert "no host is known" in run("report", "--gropers")[1]
    assert "Login gropers" not in run("report")[1]
    recorder.record_batch(engine, walk(), settings, AT)
    out = run("report", "--gropers")[1]
    assert "11 hosts tried 13 names that nobody has, in 19 attempts" in out
    assert "10 hosts worked through 10 names in alphabetical order, aaron to andrea" in out
    assert "most: 192.0.2.7 with 9; fewest: 203.0.113.10 with 1" in out
    told = json.loads(run("report", "--gropers", "--format", "json")[1])
    assert told["summary"]["hosts"] == len(told["hosts"]) == 11
    assert told["summary"]["most"]["attempts"] == 9
    rows = list(csv.DictReader(io.StringIO(run("report", "--gropers", "--format", "csv")[1])))
    assert [row["prefix"] for row in rows[:2]] == ["192.0.2.7/32", "203.0.113.1/32"]
    assert {row["alphabetical"] for row in rows[1:]} == {"yes"}
    page = tmp_path / "page.html"
    assert run("report", "--gropers", "--format", "html", "-o", str(page))[0] == 0
    assert page.read_text().count("<tr>") == 12 and "203.0.113.10" in page.read_text()
    assert "Login gropers" in run("report")[1]
    assert json.loads(run("report", "--format", "json")[1])["login_gropers"]["names"] == 13
    assert "Login gropers" not in run("report", "--sender", "x.example")[1]
    code, out = run("report", "--gropers", "--sender", "x.example")
    assert code == 2 and "--gropers goes with" in out


def test_for_the_firewall(run: Run, engine: Engine, settings: Settings) -> None:
    """Only who was there lately, and none of our own."""
    import time

    now = time.time()
    told = [*tried("203.0.113.1/32", now - 60, "aaron", "abby"), *walk()]
    told += tried("127.0.0.1/32", now - 60, "aaron", "abby")
    recorder.record_batch(engine, told, settings, now)
    out = run("export", "plain", "--gropers")[1]
    assert "203.0.113.1" in out and "192.0.2.7" not in out
    assert [line for line in out.splitlines() if line.startswith("127.")] == []
    assert "tries-logins" in run("export", "nft", "--gropers")[1]
    assert "203.0.113.1" not in run("export", "plain")[1]
