"""Acting on a page: asked about first, kept with who and why, and taken back whole."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, select
from werkzeug.test import TestResponse

from fix_report import LEARNED, REAL, Mail, fill, signature
from fix_store import settings_in
from gatepost_policy import listings, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.store import reading
from gatepost_policy.store.tables import Listing, Message
from gatepost_policy.web.app import create

pytestmark = pytest.mark.slow

NOW = LEARNED + 100.0


@pytest.fixture
def settings(tmp_path: Any) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A real user's mail of many months, the last of it last week."""
    engine = store.open_engine(settings)
    mails = [
        Mail(
            f"20{20 + n // 12}-{n % 12 + 1:02}-03T08:00:00",
            f"friend{n % 4}@paper.example",
            (REAL,),
            signatures=(signature("paper.example"),),
        )
        for n in range(46)
    ]
    fill(engine, [*mails, Mail("2023-11-08T08:00:00", "friend9@paper.example", (REAL,))], settings)
    yield engine
    engine.dispose()


class Web:
    """The page with actions, as a browser uses it."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.clock = NOW
        app = create(
            settings, lambda: engine, hosts=None, actions=True, clock=lambda: self.clock,
            user_header="X-Remote-User",
        )  # fmt: skip
        self.client: FlaskClient = app.test_client()
        self.user = {"X-Remote-User": "kari"}
        text = self.client.get("/sender/paper.example").text
        found = re.search(r'name="csrf_token" value="([^"]+)"', text)
        assert found is not None
        self.token = found.group(1)

    def post(self, path: str, **data: str) -> TestResponse:
        return self.client.post(path, data={**data, "csrf_token": self.token}, headers=self.user)

    def see(self, path: str) -> str:
        return self.client.get(path).text


@pytest.fixture
def web(engine: Engine, settings: Settings) -> Web:
    return Web(engine, settings)


def is_trap(engine: Engine, name: str) -> bool:
    with reading(engine) as connection:
        return traps.is_live(connection, name)


def hits(engine: Engine) -> int:
    with reading(engine) as connection:
        return sum(connection.scalars(select(Message.traps)))


def test_a_real_user_becomes_no_trap_by_one_click(web: Web, engine: Engine) -> None:
    answer = web.post("/act", action="trap", value=REAL)
    assert answer.status_code == 200 and not is_trap(engine, REAL)
    for words in (
        f"Make {REAL} a trap?",
        "47 messages of 5 senders to it are known, in 47 months",
        "1 message of 1 sender accepted in the last 30 days",
        "friend0@paper.example: 12 messages",
        "Make this a trap, all the same",
    ):
        assert words in answer.text, words


def test_a_trap_made_by_mistake_is_taken_back_with_its_hits(web: Web, engine: Engine) -> None:
    done = web.post("/act", action="trap", value=REAL, sure="yes", note="thought it was dead")
    assert done.status_code == 303 and is_trap(engine, REAL)
    text = web.see(f"/trap/{REAL}")  # the page settles old mail's marks
    assert "made a trap by kari" in " ".join(re.sub("<[^>]*>", " ", text).split())
    assert "thought it was dead" in text and "No trap any more" in text
    assert hits(engine) == 47
    number = re.search(r'name="act" value="(\d+)"', text)
    assert number is not None
    web.clock += 60
    back = web.post("/undo", act=number.group(1), kind="trap", value=REAL)
    assert back.status_code == 303 and not is_trap(engine, REAL)
    text = web.see(f"/trap/{REAL}")
    assert hits(engine) == 0
    assert "undone" in text and "Make this a trap" in text
    assert web.post("/undo", act=number.group(1), kind="trap", value=REAL).status_code == 400


def test_what_is_called_done_was_done_here(web: Web) -> None:
    """The word stands in the address: another's link must not make the page say it."""
    answer = web.post("/act", action="note", value="paper.example", note="a friend")
    assert answer.location is not None
    assert "Done: note on paper.example kept." in web.see(answer.location)
    for forged in (
        "paper.example is a trap",
        "",
        '"paper.example is a trap"',
        answer.location[-30:],
    ):
        assert (
            "Done:"
            not in web.client.get("/sender/paper.example", query_string={"done": forged}).text
        )


def rows(engine: Engine) -> list[tuple[Any, ...]]:
    with reading(engine) as connection:
        found = connection.execute(
            select(Listing.value, Listing.since, Listing.until, Listing.forgiven).order_by(
                Listing.id
            )
        )
        return [tuple(row) for row in found]


def act_of(text: str) -> str:
    """The newest act on a page."""
    found = re.search(r'name="act" value="(\d+)"', text)
    assert found is not None
    return found.group(1)


def test_list_and_forgive_are_kept_and_undone(web: Web, engine: Engine) -> None:
    asked = web.post("/act", action="list", value="192.0.2.25")
    assert "It would have met 1 message of the last 30 days" in asked.text
    assert rows(engine) == []
    web.post("/act", action="list", value="192.0.2.25", sure="yes", note="call 4711")
    listed = rows(engine)
    with reading(engine) as connection:
        assert "192.0.2.25/32" in str(listings.holding(connection, NOW))
    web.clock += 60
    web.post("/act", action="forgive", value="192.0.2.25", note="they called")
    assert rows(engine) != listed
    text = web.see("/host/192.0.2.25")
    assert "call 4711" in text and "they called" in text
    web.clock += 60
    web.post("/undo", act=act_of(text), kind="host", value="192.0.2.25")
    assert rows(engine) == listed  # as if nobody had forgiven
    web.clock += 60
    web.post("/undo", act=act_of(web.see("/host/192.0.2.25")), kind="host", value="192.0.2.25")
    with reading(engine) as connection:
        assert "192.0.2.25/32" not in str(listings.holding(connection, web.clock))


def test_an_undone_listing_leaves_what_held_before(web: Web, engine: Engine) -> None:
    web.post("/act", action="list", value="192.0.2.25", sure="yes", note="first")
    first = rows(engine)
    web.clock += 60
    web.post("/act", action="list", value="192.0.2.25", sure="yes", note="by mistake")
    assert rows(engine)[0] != first[0]
    web.clock += 60
    web.post("/undo", act=act_of(web.see("/host/192.0.2.25")), kind="host", value="192.0.2.25")
    assert rows(engine)[: len(first)] == first
    with reading(engine) as connection:
        assert "192.0.2.25/32" in str(listings.holding(connection, web.clock))


def test_notes_stand_at_the_top_and_the_last_one_is_taken_back(web: Web) -> None:
    for note in ("first thought", "second thought"):
        web.clock += 60
        web.post("/act", action="note", value="paper.example", note=note)
    text = web.see("/sender/paper.example")
    assert text.index("second thought") < text.index("first thought") < text.index("<h2>")
    web.clock += 60
    web.post("/undo", act=act_of(text), kind="sender", value="paper.example")
    text = web.see("/sender/paper.example")
    assert "Note: first thought" in text and "Note: second thought" not in text


def test_our_own_and_too_wide_are_warned_about(engine: Engine, settings: Settings) -> None:
    web = Web(engine, settings)
    asked = web.post("/act", action="list", value="10.0.0.0/7")
    assert "Too wide." in asked.text and "List, all the same" in asked.text


def test_acting_is_a_few_tab_stops_away(web: Web) -> None:
    """Before the note's field: the overview, the search, its button."""
    text = web.see("/sender/paper.example")
    before = text[: text.index('name="note"')]
    stops = re.findall(r"<a |<button|<summary|<select|<input (?!type=\"hidden\")", before)
    assert len(stops) <= 5
