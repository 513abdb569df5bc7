"""SPF and DMARC through a replay: the RFC 7208 suite, captures old and new, one answer for ever."""

import json
from pathlib import Path
from typing import Any

import pytest

from fix_replay import MESSAGE, TRAP
from gatepost_milter.replay import dns_file, saved_envelope
from gatepost_milter.replay import play as replay
from gatepost_milter.replay.journal_tail import JournalTail
from gatepost_milter.replay.private_milter import PrivateMilter
from gatepost_milter.replay.saved_mail import Item

pytestmark = [pytest.mark.slow, pytest.mark.milter]
SUITE = json.loads((Path(__file__).parents[1] / "auth/rfc7208/suite.json").read_text("ascii"))
ZONE: dict[str, Any] = {
    "mail.sender.example": {"TXT": "v=spf1 mx -all", "MX": "10 mx.sender.example"},
    "mx.sender.example": {"A": ["192.0.2.7"]},
    "_dmarc.sender.example": "v=DMARC1; p=reject; sp=none",
}


@pytest.fixture
def play(replay_milter: PrivateMilter) -> Any:
    tail = JournalTail(replay_milter.journal)

    def run(data: bytes, sidecar: dict[str, Any] | None = None, **given: Any) -> replay.Outcome:
        item = Item("x.eml", data, sidecar=sidecar)
        asked, milter = saved_envelope.Given(**given), replay_milter
        return replay.run(item, asked, milter.socket, tail.find, spool=milter.directory)

    return run


@pytest.mark.parametrize("scenario", SUITE, ids=lambda s: s["description"])
def test_the_rfc_7208_suite(play: Any, scenario: dict[str, Any]) -> None:
    wrong = {}
    for name, case in scenario["tests"].items():
        got = play(
            MESSAGE, client=case["host"], helo=case["helo"], sender=case["mailfrom"],
            dns=scenario["zone"],
        ).json  # fmt: skip
        assert got["error"] is None, (name, got)
        if got["spf"]["mail_from"]["result"] not in case["result"]:
            wrong[name] = (case["result"], got["spf"])
    assert not wrong


@pytest.mark.parametrize("scenario", SUITE, ids=lambda s: s["description"])
def test_its_zones_are_files_for_the_command(scenario: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "zone.json"
    file.write_text(json.dumps(scenario["zone"]))
    assert dns_file.read(file) == scenario["zone"]


def test_what_is_printed(play: Any) -> None:
    got = play(MESSAGE, sender="news@mail.sender.example", helo="mx.sender.example", dns=ZONE).json
    assert got["spf"] == {
        "mail_from": {
            "result": "pass", "domain": "mail.sender.example", "mechanism": "mx", "reason": None,
        },
        "helo": {
            "result": "none", "domain": "mx.sender.example", "mechanism": None, "reason": None,
        },
    }  # fmt: skip
    assert got["dmarc"] == {
        "result": "pass", "domain": "sender.example", "organisation": "sender.example",
        "policy": "reject", "aligned": ["spf"], "reason": None,
    }  # fmt: skip
    (added,) = [e for e in got["edits"] if e["name"] == "Authentication-Results"]
    assert added["value"].split("\n\t")[1:] == [
        "spf=pass smtp.mailfrom=mail.sender.example;", "dkim=none;",
        "dmarc=pass policy.dmarc=reject header.from=sender.example",
    ]  # fmt: skip


@pytest.mark.parametrize("sender", ["news@sender.example", ""])
def test_a_host_that_greets_with_its_mail_domain(play: Any, sender: str) -> None:
    """One look-up answers for both identities, and each is still called by its own name."""
    zone = {"sender.example": "v=spf1 ip4:192.0.2.7 -all"}
    for _ in range(2):
        got = play(MESSAGE, sender=sender, helo="sender.example", client="192.0.2.7", dns=zone).json
        (added,) = [e for e in got["edits"] if e["name"] == "Authentication-Results"]
        name = "mailfrom" if sender else "helo"
        assert f"spf=pass smtp.{name}=sender.example" in added["value"]
        assert added["value"].count("spf=") == 1


def test_submissions_are_not_checked(play: Any) -> None:
    got = play(MESSAGE, login="joe", dns=ZONE).json
    assert (got["direction"], got["spf"], got["dmarc"]) == ("submission", None, None)


def test_a_capture_gives_the_same_answer_and_an_old_one_says_nothing_of_spf(play: Any) -> None:
    given = {"sender": "news@mail.sender.example", "helo": "mx.sender.example", "at": 1e9}
    first = play(MESSAGE, dns=ZONE, **given).json
    side = {"queue_id": "A1", "at": 1e9, "dns": ZONE, "checked": ["dkim", "spf", "dmarc"],
            "client": {"address": "192.0.2.7", "helo": "mx.sender.example"},
            "envelope": {"sender": "news@mail.sender.example", "recipients": [TRAP]}}  # fmt: skip
    again = play(MESSAGE, sidecar=side).json
    assert (again["spf"], again["dmarc"]) == (first["spf"], first["dmarc"])
    del side["checked"]
    old = play(MESSAGE, sidecar=side).json
    assert (old["error"], old["spf"], old["dmarc"]) == (None, None, None)
    assert old["decision"]["action"] == again["decision"]["action"] == "reject"
