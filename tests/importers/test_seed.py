"""The mail this program was written for: its log imported, its trap set, its story told."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

import rings
from gatepost_milter import cli

pytestmark = pytest.mark.corpus

SUMMARY = {
    "messages": 5,
    "first_seen": "2010-11-07T14:21:44Z",
    "last_seen": "2011-04-28T12:40:26Z",
    "families": {"ipv4": 4, "ipv6": 1},
    "dkim": {"pass": 4, "fail": 1},
    "dkim_own": {"pass": 4, "fail": 1},
    "dkim_others": {},
    "spf": {},
    "dmarc": {},
    "trap_hits": 5,
    "median_gap_days": 42.1,
}


@pytest.fixture
def log() -> Path:
    """The seed's log."""
    path = Path(os.environ.get("GATEPOST_CORPUS", "/nonexistent")) / "seed/seed_exim_main.log"
    if not path.exists():
        rings.missing("corpus", "$GATEPOST_CORPUS names no corpus")
    return path


def milterctl(
    capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str
) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--store", f"{directory}/gatepost.sqlite", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().out


def report(capsys: pytest.CaptureFixture[str], directory: Path, *arguments: str) -> Any:
    code, out = milterctl(capsys, directory, "report", "--format", "json", *arguments)
    assert code == 0
    return json.loads(out)


@pytest.mark.parametrize("trap_first", [False, True])
def test_the_story(
    log: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], trap_first: bool
) -> None:
    """Whatever comes first, the trap or the log."""
    steps = [["import", "exim", str(log), "--zone", "UTC"], ["trap", "add", "bsdly@bsdly.net"]]
    for step in steps[::-1] if trap_first else steps:
        assert milterctl(capsys, tmp_path, *step)[0] == 0
    got = report(capsys, tmp_path, "--sender", "edrenat.es")
    hosts = got["summary"].pop("hosts")
    assert got["summary"] == SUMMARY
    assert hosts[0] == {
        "host": "mo-p00-ob.rzone.de",
        "address": "81.169.146.162",
        "family": "ipv4",
        "messages": 3,
    }
    assert sum(host["messages"] for host in hosts) == 5
    assert got["standing"]["repeat_sender"] is True
    assert got["rhythm"]["word"] == "monthly"
    assert got["movement"] == "moved from IPv4 to IPv6 on 2011-04-28"
    # Importing again changes nothing.
    assert milterctl(capsys, tmp_path, *steps[0])[0] == 0
    assert report(capsys, tmp_path, "--sender", "edrenat.es")["messages"] == got["messages"]
    everybody = report(capsys, tmp_path)["senders"]
    assert [(s["sender"], s["repeat_sender"]) for s in everybody] == [("edrenat.es", True)]
