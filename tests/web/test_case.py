"""The page of an abuse report: what could still name a trap is said before there is a file."""

import base64
import json
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from email import message_from_bytes
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine

from fix_store import AT, message, signature
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Sender, Settings, Store, Trap
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.store import open_engine
from gatepost_policy.web.app import create

pytestmark = pytest.mark.slow

TRAP, USER = "forgotten.one@home.example", "kari@home.example"
HOSTS = frozenset({"localhost"})
MAIL = (
    b"Received: from a.spam.example ([192.0.2.7])\r\n\tby mx.home.example id Q2\r\n"
    b"\tfor <forgotten.one@home.example>; Tue, 22 Sep 2026 00:00:00 +0000\r\n"
    b"From: news@spam.example\r\nTo: forgotten.one@home.example\r\nCc: kari@home.example\r\n"
    b"List-Unsubscribe: <https://spam.example/u?e=forgotten.one%40home.example>\r\n\r\n"
    b"Dear kari@home.example\r\n"
)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    path = tmp_path_factory.mktemp("case")
    stem = path / "kept" / f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(AT + 99))}-0123456789ab"
    stem.parent.mkdir()
    stem.with_suffix(".eml").write_bytes(MAIL)
    recipients = [
        {"address": name, "trap": name == TRAP, "accepted": True} for name in (TRAP, USER)
    ]
    told = {
        "at": AT + 99, "queue_id": "Q1", "client": {"address": "192.0.2.7", "port": 40125},
        "envelope": {"sender": "news@spam.example", "recipients": recipients},
    }  # fmt: skip
    stem.with_suffix(".json").write_text(json.dumps(told))
    return Settings(
        store=Store(url=f"sqlite:///{path / 'gatepost.sqlite'}"),
        trap=Trap(capture=str(stem.parent)),
    )


@pytest.fixture(scope="module")
def engine(settings: Settings) -> Iterator[Engine]:
    engine = open_engine(settings)
    records = [
        message(n, at=AT + 99 * n, traps=(TRAP,), to=(USER,), sender="news@spam.example",
                author="news@spam.example", signatures=(signature("spam.example"),),
                reason=Reason.TRAP)
        for n in (0, 1)
    ] + [message(2, sender="clean@good.example", author=None)]  # fmt: skip
    # One old hit, and much mail since: no list of the newest has it.
    records += [
        message(n, sender="news@busy.example", author="news@busy.example", client="192.0.2.9",
                traps=() if n > 1000 else (TRAP,), to=(USER,), action=Action.ACCEPT)
        for n in range(1000, 1150)
    ]  # fmt: skip
    recorder.record_batch(engine, records, settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=AT)
    yield engine
    engine.dispose()


def client(engine: Engine, settings: Settings) -> FlaskClient:
    return create(settings, lambda: engine, hosts=HOSTS, clock=lambda: AT + 1e6).test_client()


def test_said_first_and_then_saved(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    link = re.search(r'href="(/evidence/[^"]+)"', web.get("/sender/spam.example?dkim=pass").text)
    assert link is not None and link[1].endswith("?dkim=pass")
    page = web.get(link[1]).text
    for words in ("what could still name a trap", "the time", "2 messages from",
                  "Say who reports", 'name="dkim" value="pass"'):  # fmt: skip
        assert words in page, words
    assert TRAP not in page and "kari" not in page
    asked = {"contact": "abuse@us.example", "org": "We", "dkim": "pass"}
    for form, kind in (("xarf", "application/json"), ("arf", "message/rfc822")):
        got = web.get("/evidence/sender/spam.example", query_string={**asked, "form": form})
        assert (got.status_code, got.content_type) == (200, kind), got.text
        assert got.headers["Content-Disposition"].startswith("attachment")
        assert b"forgotten" not in got.data and b"kari" not in got.data
    told = web.get("/evidence/sender/spam.example", query_string={**asked, "form": "xarf"}).json
    assert told is not None and told["source_port"] == 40125  # the message that was kept is there
    inside = base64.b64decode(told["evidence"][1]["payload"])
    text = b"".join(
        part.get_payload(decode=True) or b""  # type: ignore[misc]
        for part in message_from_bytes(inside).walk() if not part.is_multipart()
    )  # fmt: skip
    assert b"192.0.2.7" in inside and b"Dear masked" in text
    assert not any(word in inside + text for word in (b"forgotten", b"kari"))


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("/evidence/sender/good.example", 404),  # it hit no trap
        ("/evidence/host/192.0.2.7", 200),
        ("/evidence/trap/forgotten.one@home.example", 404),  # about a sender or a client only
        ("/evidence/sender/spam.example?form=xarf", 400),  # nobody reports
        ("/evidence/sender/spam.example?form=zip&contact=a@b.example", 400),
        ("/evidence/sender/spam.example?form=arf&contact=a%0db@b.example", 400),
    ],
)
def test_what_is_no_report(engine: Engine, settings: Settings, address: str, code: int) -> None:
    web = client(engine, settings)
    got = web.get(address)
    assert got.status_code == code, got.text
    assert "Content-Disposition" not in got.headers
    assert "/evidence/" not in web.get("/sender/good.example").text


def test_an_old_hit_is_evidence_after_much_clean_mail(engine: Engine, settings: Settings) -> None:
    web = client(engine, settings)
    for kind, value in (("sender", "busy.example"), ("host", "192.0.2.9")):
        page = web.get(f"/{kind}/{value}").text
        assert "Abuse report" in page and re.search(r'newest\s+<a href="/message/\d+">', page)
        got = web.get(f"/evidence/{kind}/{value}?form=xarf&contact=abuse@us.example")
        assert got.json is not None and got.json["timestamp"] == "2026-09-21T14:30:00Z", got.text
        assert "1 delivery to spamtraps" in got.json["description"]


def test_own_domain_reports(engine: Engine, settings: Settings) -> None:
    own = replace(settings, sender=Sender(own_domains=("us.example",)))
    got = client(engine, own).get("/evidence/sender/spam.example?form=xarf")
    assert got.json is not None and got.json["reporter"]["contact"] == "abuse@us.example"


def test_a_message_that_cannot_be_read_is_told(
    engine: Engine, settings: Settings, tmp_path: Path
) -> None:
    stem = time.strftime("%Y%m%dT%H%M%S", time.gmtime(AT + 99))
    (tmp_path / f"{stem}-0.json").write_text("{")
    broken = replace(settings, trap=Trap(capture=str(tmp_path)))
    page = client(engine, broken).get("/evidence/sender/spam.example").text
    assert "reported without it" in page and "was not kept" in page
