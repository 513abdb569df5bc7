"""Each way of telling with a real receiver, and what strangers write on the way through it."""

import email
import email.policy
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiosmtpd.controller import Controller

from fix_notify import NOW, Told, with_notify
from gatepost_policy.config.settings import Notify, Settings
from gatepost_policy.notify import feed, ways, words
from gatepost_policy.notify.notices import Event, Notice
from gatepost_policy.notify.words import Batch
from ports import free_port

BAD = "a\r\nBcc: x@evil.example\r\n\r\n\x1b]0;$(touch /tmp/x)`\"';|&\x00\u202e<script>é"


def keys(**given: object) -> Notify:
    return with_notify(Settings(), **given).notify


def event(who: str = "slow.example", trap: str = "trap@home.example") -> Event:
    data = {
        "kind": "sender", "proven": True, "traps": [trap], "traps_total": 1, "hits_before": 2,
        "away_days": 61.0,
    }  # fmt: skip
    return Event("sender-back", who, NOW, NOW + 1, 3, data)


def batch(*events: Event) -> Batch:
    found = [Notice(number + 1, one) for number, one in enumerate(events)]
    return Batch("0a1b.1-2.way", tuple(found), 4, 1)


def program(tmp_path: Path, text: str) -> tuple[str, ...]:
    path = tmp_path / "program.py"
    path.write_text(text)
    return (sys.executable, str(path), "$(touch /tmp/x)")


def test_command_gets_json_and_its_words_as_they_are(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    text = (
        "import json, os, sys\n"
        "told = [sys.argv[1:], sorted(os.environ), json.load(sys.stdin)]\n"
        f"json.dump(told, open({str(out)!r}, 'w'))"
    )
    ways.command(keys(command=program(tmp_path, text)), batch(event(BAD, BAD)), NOW)
    argv, environ, document = json.loads(out.read_text())
    assert argv == ["$(touch /tmp/x)"]
    assert set(environ) <= {"PATH", "LC_ALL", "LC_CTYPE"}
    assert document["api"] == 1 and document["more"] == 4 and document["missed"] == 1
    (told,) = document["events"]
    assert told["who"] == BAD and told["data"]["traps"] == [BAD], "data is as it came"
    assert "\n" not in told["text"] and "\x1b" not in told["text"] and "\u202e" not in told["text"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import sys; print('no\\x1b[2J way', file=sys.stderr); sys.exit(3)",
         r"exit code 3: no\x1b[2J way"),
        ("import time; time.sleep(60)", "not done in 0.5 s"),
        ("import os, sys, time\nos.fork() or time.sleep(60)\nsys.exit(4)", "exit code 4"),
    ],
)  # fmt: skip
def test_command_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, why: str
) -> None:
    monkeypatch.setattr(ways, "TIMEOUT_S", 0.5 if "not done" in why else 30.0)
    begun = time.monotonic()
    with pytest.raises(ways.Undelivered) as error:
        ways.command(keys(command=program(tmp_path, text)), batch(event()), NOW)
    assert why in str(error.value) and "\n" not in str(error.value)
    assert time.monotonic() - begun < 20


def test_command_that_reads_nothing_or_is_not_there(tmp_path: Path) -> None:
    many = batch(*[event(BAD * 50, BAD * 50)] * 50)  # more than a pipe holds
    ways.command(keys(command=program(tmp_path, "")), many, NOW)
    for wrong in (str(tmp_path / "none"), str(tmp_path)):
        with pytest.raises(ways.Undelivered):
            ways.command(keys(command=(wrong,)), batch(event()), NOW)


def test_webhook_is_posted_with_the_batchs_name(listener: Told) -> None:
    ways.webhook(keys(webhook=listener.url + "?a=b"), batch(event(BAD)), NOW)
    ((path, fields, body),) = listener.requests
    assert path == "/hook/secret?a=b" and fields["Idempotency-Key"] == "0a1b.1-2.way"
    assert fields["Content-Type"] == "application/json"
    assert json.loads(body)["events"][0]["who"] == BAD


@pytest.mark.parametrize("status", [199, 301, 302, 307, 308, 400, 404, 500])
def test_webhook_is_followed_nowhere(listener: Told, status: int) -> None:
    listener.status, listener.location = status, f"http://127.0.0.1:{listener.port}/elsewhere"
    if status == 199:
        listener.status = 418
    with pytest.raises(ways.Undelivered) as error:
        ways.webhook(keys(webhook=listener.url), batch(event()), NOW)
    assert len(listener.requests) == 1
    assert "secret" not in str(error.value), "the path opens a door"


def test_webhook_asks_no_proxy_of_the_environment(
    listener: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    ways.webhook(keys(webhook=listener.url), batch(event()), NOW)
    assert len(listener.requests) == 1


def test_webhook_that_answers_an_octet_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ways, "TIMEOUT_S", 0.6)
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def drip() -> None:
            connection, _ = server.accept()
            with connection:
                while not stop.wait(0.05):
                    try:
                        connection.send(b"H")
                    except OSError:
                        return

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        with pytest.raises(ways.Undelivered):
            ways.webhook(
                keys(webhook=f"http://127.0.0.1:{server.getsockname()[1]}/"), batch(event()), NOW
            )
        assert time.monotonic() - begun < 10
        stop.set()
        thread.join()


class Receiver:
    """What an SMTP server took."""

    def __init__(self) -> None:
        self.mails: list[SimpleNamespace] = []
        self.refused: set[str] = set()

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str,
                          options: Any) -> str:  # fmt: skip
        if address in self.refused:
            return "550 5.1.1 nobody \x1b[2J"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.mails.append(
            SimpleNamespace(
                sender=envelope.mail_from, to=envelope.rcpt_tos, data=envelope.content,
                helo=session.host_name,
            )
        )  # fmt: skip
        return "250 OK"


@pytest.fixture
def smtp() -> Iterator[tuple[Receiver, str]]:
    receiver = Receiver()
    port = free_port()
    controller = Controller(receiver, hostname="127.0.0.1", port=port)
    controller.start()
    yield receiver, f"inet:{port}@127.0.0.1"
    controller.stop()


def read(data: bytes) -> EmailMessage:
    found = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(found, EmailMessage)
    return found


def test_mail_can_start_no_loop(smtp: tuple[Receiver, str]) -> None:
    receiver, server = smtp
    given = keys(
        mail_to=["abuse@home.example", "b@home.example"], smtp=server, page="https://g.example/x/",
        mail_from="gatepost@mx.home.example",
    )  # fmt: skip
    ways.mail(given, batch(event(BAD, BAD)), NOW)
    (mail,) = receiver.mails
    assert mail.sender in ("", "<>") and mail.to == ["abuse@home.example", "b@home.example"]
    assert mail.helo == "[127.0.0.1]"
    message = read(mail.data)
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Message-ID"] == "<gatepost.0a1b.1-2.way@mx.home.example>"
    assert message["From"] == "gatepost@mx.home.example"
    assert set(message.keys()) == {
        "From", "To", "Subject", "Date", "Message-ID", "Auto-Submitted", "MIME-Version",
        "Content-Type", "Content-Transfer-Encoding",
    }  # fmt: skip
    assert message["Subject"].startswith(r"gatepost: known sender back: a\x0d\x0aBcc:")
    text = message.get_content()
    assert "is back after" in text and "\x1b" not in text and "\u202e" not in text
    assert "https://g.example/x/sender/a%0D%0ABcc" in text
    assert "And 4 more events" in text and "1 event could not be told" in text


def test_mail_that_some_do_not_take_is_not_sent_twice(smtp: tuple[Receiver, str]) -> None:
    receiver, server = smtp
    receiver.refused.add("gone@home.example")
    given = keys(mail_to=["gone@home.example", "b@home.example"], smtp=server)
    with pytest.raises(ways.PartlyDelivered, match=r"refuses gone@home.example: 550"):
        ways.mail(given, batch(event()), NOW)
    assert [mail.to for mail in receiver.mails] == [["b@home.example"]]
    receiver.refused.add("b@home.example")
    with pytest.raises(ways.Undelivered) as error:
        ways.mail(given, batch(event()), NOW)
    assert "\x1b" not in str(error.value)


def test_mail_without_a_server() -> None:
    port = free_port()
    with pytest.raises(ways.Undelivered, match=f"notify.smtp: inet:{port}@127.0.0.1: "):
        ways.mail(
            keys(mail_to=["a@home.example"], smtp=f"inet:{port}@127.0.0.1"), batch(event()), NOW
        )


def test_feed_has_what_atom_requires() -> None:
    """RFC 4287 4.1.1 and 4.1.2, read by an XML parser."""
    import xml.etree.ElementTree as ElementTree
    from datetime import datetime

    atom = {"a": "http://www.w3.org/2005/Atom"}
    kinds = [event(), event(BAD, BAD), Event("own-user", "", NOW, NOW, 2, {"days": {"x": 2}})]
    notices = [Notice(number, one) for number, one in enumerate(kinds)]
    data = feed.document(keys(page="https://g.example"), notices, "store", NOW)
    assert data == feed.document(keys(page="https://g.example"), notices, "store", NOW + 99)
    root = ElementTree.fromstring(data)
    ids = []
    for element in (root, *root.findall("a:entry", atom)):
        for name in ("id", "title", "updated"):
            (found,) = element.findall(f"a:{name}", atom)
            assert found.text
            if name == "updated":
                assert datetime.fromisoformat(found.text).tzinfo is not None
            if name == "id":
                ids.append(found.text)
    assert len(set(ids)) == 4 and all(text.startswith("urn:uuid:") for text in ids)
    assert root.findall("a:author/a:name", atom)
    entries = root.findall("a:entry", atom)
    assert [e.findall("a:content", atom)[0].get("type") for e in entries] == ["text"] * 3
    title = entries[1].findtext("a:title", "", atom)
    assert "<script>" in title and r"\x0d\x0aBcc" in title and "é" in title
    assert feed.document(keys(), [], "other", NOW)


def test_titles_are_there_for_every_event() -> None:
    from gatepost_policy.config.notify_values import EVENTS

    assert set(words.TITLES) == {*EVENTS, "test"}
