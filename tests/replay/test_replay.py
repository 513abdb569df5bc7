"""A replay through the real milter, with what the message, a sidecar or we say."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fix_replay import HEAD, MESSAGE, TRAP
from gatepost_milter.mta import client
from gatepost_milter.replay import play as replay
from gatepost_milter.replay import saved_envelope
from gatepost_milter.replay.journal_tail import JournalTail
from gatepost_milter.replay.private_milter import PrivateMilter, StartError, to_toml
from gatepost_milter.replay.saved_mail import Item
from gatepost_policy import journal
from gatepost_policy.config.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.milter]


@pytest.fixture
def play(replay_milter: PrivateMilter) -> Any:
    """Play one message; the outcome's JSON."""
    tail = JournalTail(replay_milter.journal)

    def run(data: bytes, sidecar: dict[str, Any] | None = None, **given: Any) -> replay.Outcome:
        item = Item("x.eml", data, sidecar=sidecar)
        asked, milter = saved_envelope.Given(**given), replay_milter
        return replay.run(item, asked, milter.socket, tail.find, spool=milter.directory)

    return run


def test_facts_come_from_the_message(play: Any) -> None:
    outcome = play(MESSAGE)
    assert set(outcome.json) == {
        "file", "direction", "family", "signatures", "arc", "spf", "dmarc", "edits", "decision",
        "error",
    }  # fmt: skip
    assert (outcome.json["direction"], outcome.json["family"]) == ("inbound", "ipv4")
    assert outcome.json["decision"] == {
        "action": "accept", "reason": "no-bad-signal", "reply": None
    }  # fmt: skip
    seen = outcome.record
    assert (seen["client"]["address"], seen["client"]["name"]) == ("192.0.2.7", "name.example")
    assert (seen["client"]["helo"], seen["at"]) == ("helo.example", 1795165200.0)
    assert [r["address"] for r in seen["recipients"]] == ["user@home.example"]
    assert outcome.request.assumed == (("sender", "a@sender.example"),)


def test_what_is_given_wins(play: Any) -> None:
    outcome = play(
        MESSAGE, client="2001:db8::9", helo="given.example", sender="s@given.example",
        recipients=("r@given.example",), at=1234567890.0,
    )  # fmt: skip
    seen = outcome.record
    assert outcome.json["family"] == "ipv6"
    assert seen["client"] == {
        "address": "2001:db8::9", "port": outcome.request.envelope.port, "name": None,
        "helo": "given.example",
    }  # fmt: skip
    assert (seen["sender"], seen["at"]) == ("s@given.example", 1234567890.0)
    assert outcome.request.assumed == ()


def test_nothing_known_is_assumed(play: Any) -> None:
    outcome = play(b"Subject: x\n\n")
    got = dict(outcome.request.assumed)
    assert got == {
        "client": "192.0.2.1", "recipient": "postmaster@localhost", "time": "now", "sender": ""
    }  # fmt: skip


def test_sidecar(play: Any) -> None:
    """The form that capture writes: who was refused at RCPT is refused again."""
    sidecar = {
        "at": 1_600_000_000.5,
        "client": {"address": "2001:db8::5", "port": 99, "name": "n.example", "helo": "h.example"},
        "envelope": {
            "sender": "s@side.example",
            "recipients": [
                {"address": TRAP, "accepted": True},
                {"address": "gone@home.example", "accepted": False},
            ],
        },
        "dns": {},
    }
    outcome = play(MESSAGE, sidecar)
    seen = outcome.record
    assert seen["client"] == sidecar["client"]
    assert (seen["at"], seen["sender"]) == (1_600_000_000.5, "s@side.example")
    accepted = {r["address"]: r["accepted"] for r in seen["recipients"]}
    assert accepted == {TRAP: True, "gone@home.example": False}
    assert outcome.json["decision"]["action"] == "reject"
    assert outcome.json["decision"]["reply"].startswith("550 ")


SIGNED = (
    HEAD
    + b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=sender.example; s=s1;\n"
    + b"\th=from; bh=MHIQKmqGhMsd9bVVpXqMvyfK3Hb3tzaSkhJWyXs7eh0=; b=aGVsbG8=\n"
    + MESSAGE.removeprefix(HEAD)
)


@pytest.mark.parametrize(
    ("answer", "want"),
    [
        (None, ("permerror", "no-key")),
        ({"error": "timeout"}, ("temperror", "dns-timeout")),
        ({"error": "servfail"}, ("temperror", "dns-servfail")),
        ("v=DKIM1; p=", ("permerror", "key-revoked")),
        # Too large for a milter packet: it goes another way and says the same.
        (["v=DKIM1; p="] + ["x" * 250] * 400, ("permerror", "several-keys")),
    ],
)
def test_dns_is_played_back(play: Any, answer: Any, want: tuple[str, str]) -> None:
    outcome = play(SIGNED, dns={"s1._domainkey.sender.example": answer})
    (signature,) = outcome.json["signatures"]
    assert (signature["result"], signature["reason"]) == want
    assert set(signature) == set(replay.SIGNATURE_KEYS)
    (edit,) = outcome.json["edits"]
    assert (edit["op"], edit["name"], edit["index"]) == ("insert", "Authentication-Results", 0)


def test_submission(play: Any) -> None:
    """Scrubbed, told without client data, and the record names none."""
    message = b"X-Mailer: m\nFrom: a@home.example\nSubject: x\n\nbody\n"
    outcome = play(
        message, client="203.0.113.77", helo="laptop.example", login="alice@home.example",
        sender="a@home.example", recipients=("b@friend.example",),
    )  # fmt: skip
    assert outcome.json["direction"] == "submission"
    assert outcome.json["decision"]["reason"] == "scrubbed"
    assert ("delete", "X-Mailer") in [(e["op"], e["name"]) for e in outcome.json["edits"]]
    text = json.dumps(outcome.record)
    for canary in ("203.0.113.77", "laptop.example", "alice@home.example"):
        assert canary not in text
    assert b"203.0.113.77" not in outcome.result.message
    assert b"203.0.113.77" in outcome.result.queued  # the proof that there was something to find


def test_bad_client_is_an_error_of_that_file(play: Any) -> None:
    outcome = play(MESSAGE, client="nobody")
    assert outcome.failed
    assert outcome.json["decision"] is None and outcome.json["signatures"] is None
    assert "nobody" in outcome.json["error"]


def test_a_milter_without_a_readable_journal(replay_milter: PrivateMilter) -> None:
    """The signatures are then those that Authentication-Results names."""
    outcome = replay.run(
        Item("x.eml", SIGNED), saved_envelope.Given(), replay_milter.socket,
        lambda result, envelope: None, spool=replay_milter.directory,
    )  # fmt: skip
    (signature,) = outcome.json["signatures"]
    assert signature["domain"] == "sender.example"
    assert signature["result"] in ("permerror", "temperror")
    assert outcome.json["decision"] == {"action": "accept", "reason": None, "reply": None}


def test_private_milter_leaves_nothing(replay_store: Settings) -> None:
    with PrivateMilter(replay_store, workers=1) as milter:
        client.send(milter.socket, MESSAGE)
        assert milter.directory.exists()
        assert journal.segments(milter.journal)
    assert not milter.directory.exists()
    assert journal.segments(Path(replay_store.store.journal)) == []


def test_private_milter_that_cannot_start(replay_store: Settings) -> None:
    broken = replace(replay_store, dkim=replace(replay_store.dkim, nameservers=("no address",)))
    with pytest.raises(StartError):
        PrivateMilter(broken).__enter__()


def test_toml_of_settings_is_read_back() -> None:
    import tomllib

    tree: dict[str, Any] = {
        "dkim": {"authserv_id": 'a"b\\c\n\x7fé', "nameservers": ["::1"], "arc": False},
        "rules": {"trap": {"mode": "shadow", "note": "x", "expires": None}},
    }
    got = tomllib.loads(to_toml(tree))
    del tree["rules"]["trap"]["expires"]
    assert got == tree
