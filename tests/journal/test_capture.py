"""Captures: complete or not there, bounded, private, and never in the way of mail."""

import errno
import json
import os
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from from_table import from_table
from gatepost_milter.replay import saved_mail
from gatepost_policy.config.settings import Trap
from gatepost_policy.journal import capture
from gatepost_policy.journal.capture import Capture, Sink
from gatepost_policy.mail import address
from gatepost_policy.mail.facts import Client, Facts, Family, Recipient

AT = 1_790_000_000.0
MESSAGE = b"From: a@x.example\r\nSubject: folded\r\n\there \r\n\r\nbody\xff\r\n.\r\n\x00 end"
FACTS = Facts(
    at=AT,
    client=Client(Family.IPV6, ip_address("2001:db8::1"), 4000, "mx.x.example", "h\udcff"),
    queue_id="4Q1",
    sender=address.parse("a@x.example"),
    recipients=(
        Recipient(address.parse("Trap+x@home.example")),
        Recipient(address.parse("nobody@home.example"), accepted=False),
    ),
)
DNS: dict[str, Any] = {
    "s._domainkey.x.example": ["v=DKIM1; p=", "other"],
    "a.example": None,
    "b.example": {"error": "timeout"},
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "captured"


REASONS: list[str] = []


def sink(directory: Path, **values: Any) -> Sink:
    REASONS.clear()
    return Sink(from_table(Trap, {"capture": str(directory), **values}), REASONS.append)


def take(to: Sink, at: float = AT, size: int = 10) -> Path | None:
    kept = to.begin(at)
    assert kept is not None
    kept.header(b"From: a@x.example")
    kept.end_of_headers()
    kept.body(b"x" * size)
    return kept.finish({"at": at})


def test_what_is_kept_is_what_came(directory: Path) -> None:
    kept = sink(directory).begin(AT)
    assert kept is not None
    # As a milter is given it: name, colon, value with its leading space; folding as LF.
    kept.header(b"From: a@x.example")
    kept.header(b"Subject: folded\n\there ")
    kept.end_of_headers()
    for start in range(0, 20, 5):
        kept.body(MESSAGE.partition(b"\r\n\r\n")[2][start : start + 5])
    path = kept.finish(capture.sidecar(FACTS, frozenset({"Trap+x@home.example"}), DNS))
    assert path is not None and path.name.startswith("20260921T")
    assert path.read_bytes() == MESSAGE
    assert [p.stat().st_mode & 0o777 for p in (path, path.with_suffix(".json"))] == [0o600] * 2
    assert directory.stat().st_mode & 0o777 == 0o700
    # And replay finds both.
    (name,) = saved_mail.find([str(directory)])
    (item,) = saved_mail.read(name)
    assert item.data == MESSAGE and item.error is None
    side = item.sidecar
    assert side is not None
    assert (side["at"], side["dns"]) == (AT, DNS)
    assert side["client"]["address"] == "2001:db8::1"
    assert side["envelope"]["sender"] == "a@x.example"
    assert side["envelope"]["recipients"] == [
        {"address": "Trap+x@home.example", "trap": True, "accepted": True},
        {"address": "nobody@home.example", "trap": False, "accepted": False},
    ]


def test_off() -> None:
    assert Sink(Trap()).begin(AT) is None


def test_an_abandoned_one_leaves_nothing(directory: Path) -> None:
    kept = sink(directory).begin(AT)
    assert kept is not None
    kept.header(b"From: a@x.example")
    kept.abandon()
    kept.abandon()
    kept.body(b"late")
    assert kept.finish({}) is None
    assert list(directory.iterdir()) == []


def test_a_message_over_the_limit_is_not_kept(directory: Path) -> None:
    small = sink(directory, capture_max_message_bytes=2048)
    assert take(small, size=3000) is None
    assert (small.failed, list(directory.iterdir())) == (1, [])
    assert REASONS == ["larger than trap.capture_max_message_bytes"]
    assert take(small, size=1000) is not None


@pytest.mark.parametrize("bound", [{"capture_max_files": 10}, {"capture_max_bytes": 1_048_576}])
def test_the_oldest_make_room(directory: Path, bound: dict[str, int]) -> None:
    """However many come; looked at every LOOK_EVERY captures."""
    to = sink(directory, **bound)
    for number in range(100):
        assert take(to, AT + number * 60, size=50_000) is not None
    to.prune()
    names = sorted(p.name for p in directory.glob("*.eml"))
    assert 0 < len(names) <= 21
    assert len(list(directory.glob("*.json"))) == len(names)
    assert sum(p.stat().st_size for p in directory.iterdir()) <= 1_048_576
    newest = time.strftime("%Y%m%dT%H%M%S", time.gmtime(AT + 99 * 60))
    assert names[-1].startswith(newest)


def test_unfinished_files_of_the_dead_go(directory: Path) -> None:
    directory.mkdir(parents=True)
    old, new = directory / ".old.part", directory / ".new.part"
    for path in (old, new):
        path.write_bytes(b"x")
    os.utime(old, (AT, AT))
    sink(directory).prune()
    assert [p.name for p in directory.iterdir()] == [".new.part"]


def test_a_full_disk_is_no_ones_problem(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    to = sink(directory)
    kept = to.begin(AT)
    assert kept is not None

    monkeypatch.setattr(kept, "_file", Path("/dev/full").open("wb"))
    kept.header(b"From: a@x.example")
    kept.body(b"x" * 20_000)  # more than is buffered: writing fails, and so does closing
    assert kept.finish({}) is None
    assert (to.failed, list(directory.iterdir())) == (1, [])
    assert REASONS == ["No space left on device"]


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    to = sink(tmp_path / "file" / "captured")
    assert to.begin(AT) is None
    assert (to.failed, REASONS) == (1, ["Not a directory"])


def test_a_directory_that_turns_against_us(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the name nor the way back can be had: still nobody else's problem."""
    to = sink(directory)
    kept = to.begin(AT)
    assert kept is not None

    def refuse(*args: Any, **more: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/20260921.eml")

    monkeypatch.setattr(os, "rename", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert kept.finish({}) is None
    assert (to.failed, REASONS) == (1, ["Permission denied"])


def test_the_sidecar_is_there_before_the_message(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    rename = os.rename

    def watch(old: Any, new: Any) -> None:
        rename(old, new)
        seen.append(sorted(p.suffix for p in directory.iterdir() if not p.name.startswith(".")))

    monkeypatch.setattr(os, "rename", watch)
    path = take(sink(directory))
    assert seen == [[".json"], [".eml", ".json"]]
    assert path is not None and json.loads(path.with_suffix(".json").read_text()) == {"at": AT}


def test_a_capture_has_a_name_of_its_own(directory: Path) -> None:
    to = sink(directory)
    names = {c.name for c in (to.begin(AT) for _ in range(20)) if isinstance(c, Capture)}
    assert len(names) == 20
