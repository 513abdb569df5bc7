"""Beside the reports: two senders compared, networks, and what a page tells below its figures."""

import csv
import html
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

import story
from fix_report import Mail, fill, signature
from gatepost_policy.config.settings import Settings, Store
from gatepost_policy.store import open_engine
from gatepost_policy.web.app import create

pytestmark = pytest.mark.slow

NOW = story.START + 200 * story.DAY


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FlaskClient]:
    path: Path = tmp_path_factory.mktemp("more") / "gatepost.sqlite"
    settings = Settings(store=Store(url=f"sqlite:///{path}"))
    engine: Engine = open_engine(settings)
    story.fill(engine, settings)
    hosts = frozenset({"localhost"})
    yield create(settings, lambda: engine, hosts=hosts, clock=lambda: NOW).test_client()
    engine.dispose()


def test_compare(web: FlaskClient) -> None:
    assert 'value="slow.example.com"' in web.get("/compare?a=slow.example.com").text
    page = web.get("/compare?a=slow.example.com&b=%3Cb%3Ex.example")
    assert page.status_code == 200 and "<b>x" not in page.text
    assert "No shared client is known." in page.text and f"/trap/{story.TRAP}" in page.text
    told = web.get("/compare.json?a=slow.example.com&b=slow.example.com").json
    assert told is not None and told["api"] == 1 and told["shared"]["traps"] == [story.TRAP]
    assert told["a"]["summary"]["messages"] == told["b"]["summary"]["messages"] > 0
    for bad in ("/compare.json", "/compare.json?a=x.example", "/compare?a=@&b=x.example"):
        assert web.get(bad).status_code == 400, bad


def test_every_page_is_a_table_too(web: FlaskClient) -> None:
    """What the page links as CSV has the same figures, and no formula for a spreadsheet."""
    sides = "a=slow.example.com&b=%3Db.example"
    for page, name in (
        (f"/compare?{sides}", "what"),
        ("/prefix", "network"),
        ("/message/1", "part"),
    ):
        link = re.search(r'href="([^"]+\.csv[^"]*)"', web.get(page).text)
        assert link is not None, page
        got = web.get(html.unescape(link[1]))
        assert (
            got.content_type == "text/csv; charset=utf-8"
            and got.text.count("\r\n") >= (name != "network") + 1
        )
        rows = list(csv.reader(io.StringIO(got.text, newline="")))
        assert len(rows) > 1 or name == "network"  # no neighbours in this story
        assert rows[0][0] == name and {len(row) for row in rows} == {len(rows[0])}
        if name == "what":
            told = web.get(f"/compare.json?{sides}").json
            assert told is not None and rows[1] == ["sender", "slow.example.com", "'=b.example"]
            assert dict((row[0], row[1]) for row in rows)["messages"] == str(
                told["a"]["summary"]["messages"]
            )
    assert web.get("/compare.csv").status_code == web.get("/compare.csv?a=x.example").status_code
    assert web.get("/compare.csv").status_code == 400
    assert web.get("/message/999999.csv").status_code == 404


def test_networks(web: FlaskClient) -> None:
    assert web.get("/prefix").status_code == 200
    told = web.get("/prefix.json").json
    assert told is not None and told["clients"] >= 2 and not told["cut"]


def test_what_stands_beside_a_report(web: FlaskClient) -> None:
    trap = web.get(f"/trap/{story.TRAP}").text
    assert "Who found it, and what else they hit" in trap
    assert trap.index("First: ") < trap.index("slow.example.com")
    told = web.get(f"/trap/{story.TRAP}.json").json
    assert told is not None and told["finders"]["found_by"][0]["who"] == "slow.example.com"
    sender = web.get("/sender/slow.example.com").text
    # A picture, the same in words, and as a table.
    assert "Messages by day of the week and hour, UTC: most on" in sender
    assert "The week as a table" in sender and "<title>" in sender
    assert "Day and hour" not in web.get("/").text
    assert "finders" not in (web.get("/sender/slow.example.com.json").json or {})


def test_no_page_is_too_long_to_load(tmp_path: Path) -> None:
    """Lists of 120 recipients, two signatures each: what a page holds is bounded all the same."""
    settings = Settings(store=Store(url=f"sqlite:///{tmp_path}/gatepost.sqlite"))
    engine = open_engine(settings)
    everybody = tuple(f"somebody.with.a.name{i}@home.example" for i in range(120))
    mail = [
        Mail(f"2026-01-{1 + n % 28:02}T00:{n % 60:02}:00", "list@many.example", everybody,
             name=f"host-with-a-long-name-{n}.pool.many.example",
             signatures=(signature("many.example"), signature("esp.example")))
        for n in range(120)
    ]  # fmt: skip
    fill(engine, mail, settings)
    web = create(settings, lambda: engine, hosts=frozenset({"localhost"})).test_client()
    for path in ("/", "/sender/many.example", "/sender/list@many.example", f"/trap/{everybody[0]}"):
        got = web.get(path)
        assert got.status_code == 200 and len(got.data) < 300_000, (path, len(got.data))
    text = web.get("/sender/many.example").text
    assert "50 of 120 shown" in text and "and 95 more; the JSON has all" in text
    told = web.get("/sender/many.example.json?limit=1").json
    assert told is not None and len(told["messages"][0]["recipients"]) == 120
    engine.dispose()
