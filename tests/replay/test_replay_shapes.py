"""However a message was saved, a replay sees what arrived: the strictest signature still verifies,
and the verdict is the one that the same message gets live, over SMTP."""

import gzip
import json
import smtplib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dkimkit
from daemons import BIN, Process, on_engine
from fix_store import settings_in
from gatepost_milter.mta import client as harness
from gatepost_milter.mta import smtp_server
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.replay import play, saved_envelope, saved_mail
from gatepost_milter.replay.journal_tail import JournalTail
from gatepost_milter.replay.private_milter import PrivateMilter
from gatepost_policy import lookup, store, traps
from gatepost_policy.config.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.milter]

BODY = b"Hi.\r\n\r\n.\r\n..dots\r\nFrom here on\r\n\ttab \r\n8-bit \xe9\xff\r\n\r\n"
KEY = dkimkit.rsa(2048)
DNS = {dkimkit.NAME: KEY.record}


def _message(to: str = "suzie@example.net") -> bytes:
    """Signed simple/simple: one octet that moves is one too many."""
    header = [(n, f" {to}".encode() if n == b"To" else v) for n, v in dkimkit.HEADER]
    signature = dkimkit.signature(header, BODY, key=KEY, c="simple/simple")
    return dkimkit.join([signature, *header], BODY)


def _mbox(message: bytes) -> bytes:
    lines = message.replace(b"\r\n", b"\n").replace(b"\nFrom ", b"\n>From ")
    return b"From joe@example.org Fri Jul 11 21:00:37 2003\n" + lines


SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "CRLF": lambda m: m,
    "LF": lambda m: m.replace(b"\r\n", b"\n"),
    "mixed": lambda m: m.replace(b"\r\n", b"\n", 7),
    "byte-order mark": lambda m: b"\xef\xbb\xbf" + m,
    "gzip": gzip.compress,
    "mbox": _mbox,
    "mbox of two": lambda m: _mbox(m) + b"\n" + _mbox(m),
}


@pytest.fixture(scope="module")
def milter(milter_engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateMilter]:
    settings = on_engine(settings_in(tmp_path_factory.mktemp("state")), milter_engine)
    with PrivateMilter(settings, workers=1) as running:
        yield running


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_verifies(tmp_path: Path, milter: PrivateMilter, shape: str) -> None:
    file = tmp_path / "x.eml"
    file.write_bytes(SHAPES[shape](_message()))
    given = saved_envelope.Given(dns=DNS, at=dkimkit.AT, sender="joe@example.org")
    tail = JournalTail(milter.journal)
    outcomes = [
        play.run(item, given, milter.socket, tail.find, spool=milter.directory)
        for item in saved_mail.read(str(file))
    ]
    assert len(outcomes) == (2 if shape == "mbox of two" else 1)
    for outcome in outcomes:
        (signature,) = outcome.json["signatures"]
        assert (signature["result"], signature["reason"]) == ("pass", None), shape
        # The proof that the test can fail: one blank more, and it does not verify.
        broken = saved_mail.Item("x", _message().replace(b"\ttab ", b"\ttab"))
        worse = play.run(broken, given, milter.socket, tail.find, spool=milter.directory)
        assert worse.json["signatures"][0]["result"] == "fail"


def test_live_and_saved_get_the_same_verdict(milter: PrivateMilter) -> None:
    message = _message()
    macros = {"{gatepost_at}": str(dkimkit.AT), "{gatepost_dns}": json.dumps(DNS)}
    envelope = Envelope(macros=macros)
    front = smtp_server.Front(milter.socket, envelope)
    with smtp_server.serving(front) as port, smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        client.ehlo("localhost")
        client.docmd("XCLIENT ADDR=192.0.2.7")
        client.ehlo("localhost")
        client.sendmail("joe@example.org", ["suzie@example.net"], message)
    (live,) = front.results
    tail = JournalTail(milter.journal)
    given = saved_envelope.Given(
        dns=DNS, at=dkimkit.AT, sender="joe@example.org", client="192.0.2.7",
        recipients=("suzie@example.net",),
    )  # fmt: skip
    saved = play.run(
        saved_mail.Item("x", message), given, milter.socket, tail.find, spool=milter.directory
    )
    assert saved.result is not None
    record = tail.take(live.queue_id)
    assert record is not None and saved.record is not None
    assert record["signatures"] == saved.record["signatures"]
    assert (record["action"], record["reason"]) == ("accept", "no-bad-signal")
    assert live.edits == saved.result.edits
    assert _below(live.message) == _below(saved.result.message)


def _below(message: bytes) -> bytes:
    """What stands below our own Received, which names the session."""
    return message[message.index(b"\r\nDKIM-Signature:") :]


def test_a_capture_replays_to_the_same_verdict(tmp_path: Path, settings: Settings) -> None:
    """What the milter kept of a trap hit is enough to have the verdict again, without DNS."""
    trap = "trap@home.example"
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, trap, at=1.0)
    with store.reading(engine) as connection:
        lookup.publish(connection, tmp_path, settings)
    engine.dispose()
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[milter]\nsocket = "unix:{tmp_path}/m.sock"\nworkers = 1\n'
        f'[store]\nurl = "sqlite:///{settings.store.url}"\njournal = "{tmp_path}/journal"\n'
        f'[trap]\ncapture = "{tmp_path}/kept"\n'
    )
    daemon = Process([BIN / "gatepost-milter", "--replay", "--config", config], tmp_path / "log")
    try:
        daemon.wait_for("ready")
        live = harness.send(
            f"unix:{tmp_path}/m.sock", _message(trap), client="2001:db8::7", port=77,
            client_name="mail.example.org", helo="helo.example.org", sender="joe@example.org",
            recipients=[trap], rejected=("gone@home.example",),
            macros={"{gatepost_at}": str(dkimkit.AT), "{gatepost_dns}": json.dumps(DNS)},
        )  # fmt: skip
        first = JournalTail(tmp_path / "journal").take(live.queue_id)
    finally:
        daemon.stop()
    (file,) = (tmp_path / "kept").glob("*.eml")
    (item,) = saved_mail.read(str(file))
    with PrivateMilter(settings, workers=1) as milter:
        tail = JournalTail(milter.journal)
        again = play.run(
            item, saved_envelope.Given(), milter.socket, tail.find, spool=milter.directory
        )
    assert first is not None and again.record is not None
    assert again.request is not None and again.request.assumed == ()
    assert first["signatures"][0]["result"] == "pass" and first["reason"] == "trap"
    own = ("queue_id",)
    assert {k: v for k, v in again.record.items() if k not in own} == {
        k: v for k, v in first.items() if k not in own
    }
    assert again.json["decision"]["reply"] == live.reply
