"""`milterctl replay`: through the real milter, with what the message, a sidecar or we say."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gatepost_milter import harness, replay
from gatepost_milter.journaltail import JournalTail
from gatepost_milter.mailfiles import Item
from gatepost_milter.privatemilter import PrivateMilter, StartError, to_toml
from gatepost_policy import journal, known, recorder, store, traps
from gatepost_policy.settings import Settings

pytestmark = pytest.mark.milter

MILTERCTL = Path(sys.executable).with_name("milterctl")
TRAP = "trap@home.example"
HEAD = (
    b"Received: from helo.example (name.example [192.0.2.7])\n"
    b"\tby mx.home.example (Postfix) with ESMTP id 4F3D\n"
    b"\tfor <user@home.example>; Fri, 20 Nov 2026 09:00:00 +0000\n"
)
MESSAGE = HEAD + b"From: a@sender.example\nSubject: x\n\nbody\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, migrated: Path) -> Settings:
    """A store that knows one trap; what a running service would have published is there."""
    from fix_store import settings_in

    directory = tmp_path_factory.mktemp("state")
    shutil.copy(migrated, directory / "gatepost.sqlite")
    settings = settings_in(directory)
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=1.0)
    with store.reading(engine) as connection:
        known.publish(connection, directory, settings)
    engine.dispose()
    return settings


@pytest.fixture(scope="module")
def own(place: Settings) -> Iterator[PrivateMilter]:
    with PrivateMilter(place, workers=1) as milter:
        yield milter


@pytest.fixture
def play(own: PrivateMilter) -> Any:
    """Play one message; the outcome's JSON."""
    tail = JournalTail(own.journal)

    def run(data: bytes, sidecar: dict[str, Any] | None = None, **given: Any) -> replay.Outcome:
        item = Item("x.eml", data, sidecar=sidecar)
        return replay.run(
            item, replay.Given(**given), own.socket, tail.find, spool=own.directory
        )

    return run


def test_facts_come_from_the_message(play: Any) -> None:
    outcome = play(MESSAGE)
    assert set(outcome.json) == {
        "file", "direction", "family", "signatures", "arc", "edits", "decision", "error"
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


def test_a_milter_without_a_readable_journal(own: PrivateMilter) -> None:
    """The signatures are then those that Authentication-Results names."""
    outcome = replay.run(
        Item("x.eml", SIGNED), replay.Given(), own.socket, lambda result, envelope: None,
        spool=own.directory,
    )  # fmt: skip
    (signature,) = outcome.json["signatures"]
    assert signature["domain"] == "sender.example"
    assert signature["result"] in ("permerror", "temperror")
    assert outcome.json["decision"] == {"action": "accept", "reason": None, "reply": None}


def test_private_milter_leaves_nothing(place: Settings) -> None:
    with PrivateMilter(place, workers=1) as milter:
        harness.send(milter.socket, MESSAGE)
        assert milter.directory.exists()
        assert journal.segments(milter.journal)
    assert not milter.directory.exists()
    assert journal.segments(Path(place.store.journal)) == []


def test_private_milter_that_cannot_start(place: Settings) -> None:
    broken = place.model_copy(
        update={"dkim": place.dkim.model_copy(update={"nameservers": ("no address",)})}
    )
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


# The command line


@pytest.fixture
def command(
    tmp_path: Path, place: Settings, run_milterctl: Any, monkeypatch: pytest.MonkeyPatch
) -> Any:
    """Run `milterctl replay`: (exit code, lines of stdout, stderr)."""
    state = tmp_path / "state"
    state.mkdir()
    for file in Path(place.store.url).parent.glob("*.*"):
        shutil.copy(file, state)
    config = tmp_path / "gatepost.toml"
    config.write_text(f'[store]\nurl = "sqlite:///{state}/gatepost.sqlite"\n')
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> tuple[int, list[str], str]:
        code, out, err = run_milterctl("--config", config, *arguments)
        return code, out.splitlines(), err

    return run


def test_record_shows_in_the_report(tmp_path: Path, command: Any) -> None:
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    code, out, err = command("replay", "--record", "--recipient", TRAP, "x.eml", "--format", "json")
    assert (code, json.loads(out[0])["decision"]["reason"]) == (0, "trap")
    assert err == "x.eml: assumed sender a@sender.example\n"
    code, out, err = command("report", "--sender", "sender.example", "--format", "json")
    told = json.loads("\n".join(out))
    assert told["summary"]["trap_hits"] == 1
    assert told["messages"][0]["source"] == "milter"


def test_files_of_all_kinds_and_a_diff(tmp_path: Path, command: Any) -> None:
    box = tmp_path / "box"
    box.mkdir()
    (box / "1").write_bytes(MESSAGE)
    (box / "2\u202e\x1b[1m").write_bytes(b"Delivered-To: " + TRAP.encode() + b"\n\n")
    (box / "broken").symlink_to("nowhere")
    code, out, err = command("replay", box, "--format", "json")
    assert code == 1
    objects = [json.loads(line) for line in out]
    assert [o["error"] for o in objects] == [None, None, "No such file or directory"]
    assert all(value is None for key, value in objects[2].items() if key not in ("file", "error"))
    assert "broken: No such file or directory" in err and "\x1b" not in err
    # The same mail under another rule set: only what is decided differently is told.
    (tmp_path / "old.json").write_text("\n".join(out))
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write('[trap]\naction = "accept"\n')
    code, out, err = command("replay", box, "--diff", "old.json")
    assert code == 1
    assert "reject backscatter -> accept backscatter" in out[0] and "\x1b" not in out[0]
    assert out[-1] == "1 changed, 2 as before"


def test_plain_output_and_many_assumptions(tmp_path: Path, command: Any) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.eml").write_bytes(b"Subject: x\n\n")
    code, out, err = command("replay", *sorted(tmp_path.glob("*.eml")))
    assert code == 0
    assert sum(line.startswith("  decision  accept no-bad-signal") for line in out) == 25
    assert err.startswith("assumed in 25 messages: ") and err.count("\n") == 1


def test_refused_at_rcpt(tmp_path: Path, command: Any) -> None:
    """No message, no queue id: the record is found all the same, and recorded."""
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write('[trap]\naction = "reject"\n')
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    code, out, err = command(
        "replay", "--record", "--recipient", TRAP, "--sender", "s@sender.example", "x.eml",
        "--format", "json",
    )  # fmt: skip
    told = json.loads(out[0])
    assert (told["decision"]["action"], told["decision"]["reason"]) == ("reject", "trap")
    assert told["decision"]["reply"].startswith("550 5.1.1 ")
    code, out, err = command("report", "--sender", "sender.example", "--format", "json")
    assert json.loads("\n".join(out))["summary"]["trap_hits"] == 1


USAGE: list[tuple[list[str], int, str]] = [
    (["replay", "--dns", "none.json", "x"], 2, "--dns none.json: No such file"),
    (["replay", "--dns", "gatepost.toml", "x"], 2, "no JSON"),
    (["replay", "--diff", "gatepost.toml", "x"], 2, "want the output of replay --format json"),
    (["replay", "--client", "nobody", "x"], 2, "--client: 'nobody' does not appear to be"),
    (["replay", "--milter", "nonsense", "x"], 2, "want inet:"),
    (["replay", "--milter", "unix:/nowhere/s", "x"], 3, "is gatepost-milter running?"),
    (["replay", "--milter", "unix:/nowhere/s", "--record", "x"], 3, "is gatepost-milter running?"),
]


@pytest.mark.parametrize(("arguments", "code", "text"), USAGE)
def test_usage(command: Any, arguments: list[str], code: int, text: str) -> None:
    got, out, err = command(*arguments)
    assert (got, out) == (code, [])
    assert text in err and err.count("\n") == 1


def test_external_milter(tmp_path: Path, place: Settings, own: PrivateMilter, command: Any) -> None:
    """Its record is found in the configured journal."""
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write(f'journal = "{own.journal}"\n')
    code, out, err = command("replay", "--milter", own.socket, "x.eml", "--format", "json")
    assert code == 0, err
    assert json.loads(out[0])["decision"]["reason"] == "no-bad-signal"


def test_external_milter_whose_record_is_in_the_store(
    tmp_path: Path, own: PrivateMilter, command: Any
) -> None:
    """Another host's milter: its journal is not here, its recorder brings the record."""
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    tail = JournalTail(own.journal, from_now=True)
    stop = threading.Event()

    def record() -> None:
        engine = store.open_url(f"sqlite:///{tmp_path}/state/gatepost.sqlite")
        while not stop.wait(0.02):
            for segment in journal.segments(own.journal):
                tail._read(segment)
            for found in list(tail._found.values()):
                fresh = {**found, "at": time.time()}
                recorder.record_batch(engine, [fresh], Settings())
            tail._found.clear()
        engine.dispose()

    thread = threading.Thread(target=record)
    thread.start()
    try:
        code, out, err = command("replay", "--milter", own.socket, "x.eml", "--format", "json")
    finally:
        stop.set()
        thread.join()
    assert code == 0, err
    assert json.loads(out[0])["decision"]["reason"] == "no-bad-signal"


def test_closed_pipe_and_plain_locale(tmp_path: Path, command: Any) -> None:
    (tmp_path / "x\xe9.eml").write_bytes(MESSAGE)
    line = f"LC_ALL=C PYTHONUTF8=0 {MILTERCTL} --config gatepost.toml replay x*.eml | true"
    got = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    assert "Traceback" not in got.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind(tmp_path: Path, command: Any, number: signal.Signals) -> None:
    """Whoever ends a replay ends its milter; only kill -9 leaves the directory."""
    for n in range(400):
        (tmp_path / f"{n}.eml").write_bytes(MESSAGE)
    # pytest's own path may be too long for a socket in it, and then it is not used.
    short = Path(tempfile.mkdtemp(prefix="gp-"))
    line: list[str | Path] = [MILTERCTL, "--config", tmp_path / "gatepost.toml", "replay", tmp_path]
    with subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(short)},
    ) as child:  # fmt: skip
        assert child.stdout is not None and child.stdout.read(100)
        assert _processes_of(short)
        child.send_signal(number)
        child.stdout.close()
        child.wait(60)
    for _ in range(300):
        if not _processes_of(short):
            break
        time.sleep(0.1)
    assert not _processes_of(short)
    left = list(short.glob("gatepost-replay-*"))
    shutil.rmtree(short)
    assert bool(left) is (number is signal.SIGKILL)


def _processes_of(directory: Path) -> set[int]:
    """Processes whose command line names `directory`."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(directory).encode() in file.read_bytes():
                found.add(int(file.parent.name))
        except OSError:
            continue
    return found


def test_progress_bar_leaves_stdout_alone(tmp_path: Path, command: Any) -> None:
    """A person watches stderr, a file takes stdout: each gets its own."""
    for n in range(25):
        (tmp_path / f"{n:02}.eml").write_bytes(MESSAGE)
    master, slave = pty.openpty()
    line: list[str | Path] = [MILTERCTL, "--config", tmp_path / "gatepost.toml", "replay"]
    got = subprocess.run(
        [*line, *sorted(tmp_path.glob("*.eml")), "--format", "json"],
        stdout=subprocess.PIPE, stderr=slave, timeout=100, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(slave)
    shown = os.read(master, 1 << 20).decode("utf-8", "replace")
    os.close(master)
    assert "25/25" in shown and "{" not in shown
    assert [json.loads(x)["error"] for x in got.stdout.splitlines()] == [None] * 25
