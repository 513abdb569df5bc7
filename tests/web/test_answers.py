"""What the pages answer beside a report: the box, a message, tonight, programs, older mail."""

import re
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event, Semaphore

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

import story
from fix_report import Mail, fill, signature
from gatepost_policy.config.settings import Settings, Store
from gatepost_policy.store import open_engine
from gatepost_policy.web.addresses import place
from gatepost_policy.web.app import create
from gatepost_policy.web.sharing import Shared

pytestmark = pytest.mark.slow

NOW = story.START + 200 * story.DAY


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path: Path = tmp_path_factory.mktemp("answers") / "gatepost.sqlite"
    return Settings(store=Store(url=f"sqlite:///{path}"))


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_engine(settings)
    story.fill(engine, settings)
    yield engine
    engine.dispose()


def client(engine: Engine, settings: Settings) -> FlaskClient:
    hosts = frozenset({"localhost"})
    return create(settings, lambda: engine, hosts=hosts, clock=lambda: NOW).test_client()


def test_the_box_knows_what_was_pasted(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    for text, want in (
        (story.TRAP, f"/trap/{story.TRAP}"),
        ("slow.example.com", "/sender/slow.example.com"),
        ("offers@slow.example.com", "/sender/offers@slow.example.com"),
        ("2001:db8:25::/64", "/host/2001:db8:25::/64"),
        ("4Q767225600", "/message/"),
        (f"<{story.START}@slow.example.com>", "/message/"),
    ):
        answer = web.get("/search", query_string={"q": text, "family": "ipv4"})
        assert answer.status_code == 302, text
        assert answer.location is not None and answer.location.startswith(want), text
        assert answer.location.endswith("?family=ipv4")
    assert web.get("/search?q=4QZZZZZZ").status_code == 302  # a label of a domain as well
    assert web.get("/search?q=%20,").status_code in (302, 400)


def test_a_message_has_a_page(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    listed = web.get("/sender/slow.example.com").text
    number = re.search(r'href="/message/(\d+)"', listed)
    assert number is not None
    text = web.get(f"/message/{number.group(1)}").text.replace("<wbr>", "")
    for words in ("offers@slow.example.com", story.TRAP, "What was known of the sender then",
                  "What would be said now", "decides", "d=slow.example.com"):  # fmt: skip
        assert words in text, words
    found = web.get(f"/message/{number.group(1)}.json").json
    assert found is not None and found["api"] == 1
    assert found["message"]["sender"] == "offers@slow.example.com"
    assert web.get("/message/99999999").status_code == 404


def test_programs_get_what_the_page_shows(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    found = web.get("/sender/slow.example.com.json?family=ipv6").json
    assert found is not None
    assert (found["api"], found["summary"]["messages"], len(found["messages"])) == (1, 2, 2)
    overview = web.get("/overview.json").json
    assert overview is not None and overview["tonight"]["trap_messages"] == 0
    table = web.get("/sender/slow.example.com.csv")
    assert table.content_type == "text/csv; charset=utf-8"
    assert len(table.text.splitlines()) == 7
    assert web.get("/sender/slow.example.com.json?family=ipx").status_code == 400


def test_every_filter_is_obeyed_and_said(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    for name, word, said, count in (
        ("dkim", "fail", "with a DKIM fail", 31),
        ("dkim", "none", "unsigned", 30),
        ("decision", "reject", "decided reject", 6),
        ("reason", "trap", "for the reason trap", 6),
        ("trap", story.TRAP, f"to {story.TRAP}", 6),
        ("source", "milter", "seen by milter", 153),
    ):
        found = web.get("/overview.json", query_string={name: word}).json
        text = web.get("/", query_string={name: word}).text
        assert found is not None and found["summary"]["messages"] == count, (name, word)
        if name != "trap":
            assert f"only messages {said}. {count} messages" in text, (name, word)
    assert web.get("/?reason=whim").status_code == 400


def test_older_and_newer(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    seen: list[str] = []
    path: str | None = "/sender/example.org?limit=60"
    text = ""
    for _ in range(5):
        assert path is not None
        text = web.get(path).text
        seen += re.findall(r'href="/message/(\d+)', text)
        older = re.search(r'<a href="([^"]*)">older</a>', text)
        path = None if older is None else older.group(1).replace("&amp;", "&")
        if path is None:
            break
    assert path is None and len(seen) == len(set(seen)) == 147
    assert ">newer</a>" in text and "limit=60" in text


def test_tonight_is_on_top(any_engine: Engine, any_settings: Settings) -> None:
    """Somebody who was away for a year and is back is named before any figure."""
    mails = [Mail("2025-07-01T00:00:00", signatures=(signature("slow.example"),)),
             Mail("2026-07-19T12:00:00", signatures=(signature("slow.example"),))]  # fmt: skip
    fill(any_engine, mails, any_settings)
    text = client(any_engine, any_settings).get("/").text
    top = " ".join(re.sub("<[^>]*>", " ", text[: text.index("All that is known")]).split())
    assert "Back after" in top and "slow.example (claimed), 1 hit before, 1 message to" in top
    assert "no privacy test is recorded" in top


def test_every_sender_has_an_address_of_its_own(any_engine: Engine, any_settings: Settings) -> None:
    """Slashes at the front, in twos and threes, a way up, and a line end from a decoded field."""
    names = ["/a@odd.example", "a//b@odd.example", "a/../b@odd.example", "../b@odd.example",
             "a?b#c@odd.example", "per%2Fcent@odd.example", "l\nf@odd.example"]  # fmt: skip
    fill(any_engine, [Mail(f"2026-01-{n:02}T00:00:00", name, ("u@x.example",))
                      for n, name in enumerate(names, 1)], any_settings)  # fmt: skip
    web = client(any_engine, any_settings)
    for name in names:
        answer = web.get(place("sender", name))
        assert (name, answer.status_code) == (name, 200)
        told = web.get(place("sender", name) + ".json").json
        assert told is not None and told["summary"]["messages"] == 1, name


class Asked(str):
    """An address that tells how often it was looked up."""

    looked_up = Semaphore(0)

    def __hash__(self) -> int:
        self.looked_up.release()
        return str.__hash__(self)


def test_what_many_ask_at_once_is_worked_out_once() -> None:
    """And nobody gets what was begun before something was done."""
    shared: Shared[int] = Shared()
    go_on = Event()
    worked: list[int] = []
    asked = Asked("/")

    def work_out() -> int:
        worked.append(1)
        assert go_on.wait(20)
        return len(worked)

    with ThreadPoolExecutor(4) as pool:
        given = [pool.submit(shared.of, asked, work_out) for _ in range(3)]
        # The first looks, and writes down that it works; the others look. A tuple keeps
        # its hash from Python 3.14 on.
        looks = 3 if sys.version_info >= (3, 14) else 4
        assert all(asked.looked_up.acquire(timeout=20) for _ in range(looks))
        assert shared.of("/else", lambda: 7) == 7
        shared.changed()
        assert shared.of("/", lambda: 8) == 8
        go_on.set()
        assert [one.result(20) for one in given] == [1, 1, 1]
    with pytest.raises(ValueError, match="no"):
        shared.of("/", lambda: int("no"))
    assert shared.of("/", lambda: 9) == 9
