"""`milterctl replay`: many files, what it says on which stream, and that nothing stays behind."""

import contextlib
import json
import os
import pty
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fix_replay import MESSAGE, MILTERCTL, TRAP
from gatepost_milter.replay.journal_tail import JournalTail
from gatepost_milter.replay.private_milter import PrivateMilter
from gatepost_policy import journal, recorder, store
from gatepost_policy.config.settings import Settings

pytestmark = [pytest.mark.slow, pytest.mark.milter]


def test_record_shows_in_the_report(tmp_path: Path, run_replay: Any) -> None:
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    given = ("--record", "--recipient", TRAP, "--format", "json")
    code, out, err = run_replay("replay", *given, "x.eml")
    assert (code, json.loads(out[0])["decision"]["reason"]) == (0, "trap")
    assert err == "x.eml: assumed sender a@sender.example\n"
    code, out, err = run_replay("report", "--sender", "sender.example", "--format", "json")
    told = json.loads("\n".join(out))
    assert told["summary"]["trap_hits"] == 1
    assert told["messages"][0]["source"] == "milter"


def test_files_of_all_kinds_and_a_diff(tmp_path: Path, run_replay: Any) -> None:
    box = tmp_path / "box"
    box.mkdir()
    (box / "1").write_bytes(MESSAGE)
    (box / "2\u202e\x1b[1m").write_bytes(b"Delivered-To: " + TRAP.encode() + b"\n\n")
    (box / "broken").symlink_to("nowhere")
    code, out, err = run_replay("replay", box, "--format", "json")
    assert code == 1
    objects = [json.loads(line) for line in out]
    assert [o["error"] for o in objects] == [None, None, "No such file or directory"]
    assert all(value is None for key, value in objects[2].items() if key not in ("file", "error"))
    assert "broken: No such file or directory" in err and "\x1b" not in err
    # The same mail under another rule set: only what is decided differently is told.
    (tmp_path / "old.json").write_text("\n".join(out))
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write('[trap]\naction = "accept"\n')
    code, out, err = run_replay("replay", box, "--diff", "old.json")
    assert code == 1
    assert "reject backscatter -> accept backscatter" in out[0] and "\x1b" not in out[0]
    assert out[-1] == "1 changed, 2 as before"


def test_plain_output_and_many_assumptions(tmp_path: Path, run_replay: Any) -> None:
    for number in range(25):
        (tmp_path / f"{number:02}.eml").write_bytes(b"Subject: x\n\n")
    code, out, err = run_replay("replay", *sorted(tmp_path.glob("*.eml")))
    assert code == 0
    assert sum(line.startswith("  decision  accept no-bad-signal") for line in out) == 25
    assert err.startswith("assumed in 25 messages: ") and err.count("\n") == 1


def test_refused_at_rcpt(tmp_path: Path, run_replay: Any) -> None:
    """No message, no queue id: the record is found all the same, and recorded."""
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write('[trap]\naction = "reject"\n')
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    code, out, err = run_replay(
        "replay", "--record", "--recipient", TRAP, "--sender", "s@sender.example", "x.eml",
        "--format", "json",
    )  # fmt: skip
    told = json.loads(out[0])
    assert (told["decision"]["action"], told["decision"]["reason"]) == ("reject", "trap")
    assert told["decision"]["reply"].startswith("550 5.1.1 ")
    code, out, err = run_replay("report", "--sender", "sender.example", "--format", "json")
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
def test_usage(run_replay: Any, arguments: list[str], code: int, text: str) -> None:
    got, out, err = run_replay(*arguments)
    assert (got, out) == (code, [])
    assert text in err and err.count("\n") == 1


ANSWERS: list[tuple[Any, str]] = [
    ([], "want a JSON object, name to answer, got []"),
    ({"a.example": "v=DKIM1", "k.example": 5},
     'k.example: want text, a list of texts, null or {"error": WORD}, got 5'),
    ({"k\x1b.example": True}, 'k\\x1b.example: want text, a list of texts, null or'),
    ({"k.example": {"txt": "v=DKIM1"}}, 'an object of TXT, A, AAAA, MX, PTR, got "txt"'),
    ({"k.example": {"A": 5}}, 'k.example.A: want text, a list of texts, null or'),
    ({"k.example": {"MX": "mx.example"}}, 'k.example.MX: want "10 mx.example.org", got'),
    ({"k.example": {}}, 'an object of TXT, A, AAAA, MX, PTR, got {}'),
    ({"k.example": ["v=DKIM1", ["p="]]}, 'k.example.1: want text, got ["p="]'),
    ({"k.example": {"error": "nxdomain"}}, 'k.example: want {"error": WORD}, WORD one of timeout,'),
    ({"k.example": {"error": ["timeout"]}}, 'got {"error": ["timeout"]}'),
]  # fmt: skip


@pytest.mark.parametrize(("answers", "text"), ANSWERS)
def test_answers_of_the_wrong_type(
    tmp_path: Path, run_replay: Any, answers: Any, text: str
) -> None:
    """One line: file, name, what was wanted, what stands there. Nothing is played back for it."""
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    (tmp_path / "dns.json").write_text(json.dumps(answers))
    code, out, err = run_replay("replay", "--dns", "dns.json", "x.eml")
    assert (code, out, err.count("\n")) == (2, [], 1)
    assert err.startswith("milterctl: --dns dns.json: ") and text in err


def test_answers_nested_too_deeply(tmp_path: Path, run_replay: Any) -> None:
    (tmp_path / "dns.json").write_text('{"a":' * 100_000)
    code, _, err = run_replay("replay", "--dns", "dns.json", "x.eml")
    assert (code, err) == (2, "milterctl: --dns dns.json: no JSON: nested too deeply\n")


def test_external_milter(tmp_path: Path, replay_milter: PrivateMilter, run_replay: Any) -> None:
    """Its record is found in the configured journal."""
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    with (tmp_path / "gatepost.toml").open("a") as config:
        config.write(f'journal = "{replay_milter.journal}"\n')
    given = ("--milter", replay_milter.socket, "--format", "json")
    code, out, err = run_replay("replay", *given, "x.eml")
    assert code == 0, err
    assert json.loads(out[0])["decision"]["reason"] == "no-bad-signal"


def test_external_milter_whose_record_is_in_the_store(
    tmp_path: Path, replay_milter: PrivateMilter, run_replay: Any
) -> None:
    """Another host's milter: its journal is not here, its recorder brings the record."""
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    tail = JournalTail(replay_milter.journal, from_now=True)
    stop = threading.Event()

    def record() -> None:
        engine = store.open_url(f"sqlite:///{tmp_path}/state/gatepost.sqlite")
        while not stop.wait(0.02):
            for segment in journal.segments(replay_milter.journal):
                tail._read(segment)
            for found in list(tail._found.values()):
                fresh = {**found, "at": time.time()}
                recorder.record_batch(engine, [fresh], Settings())
            tail._found.clear()
        engine.dispose()

    thread = threading.Thread(target=record)
    thread.start()
    try:
        given = ("--milter", replay_milter.socket, "--format", "json")
        code, out, err = run_replay("replay", *given, "x.eml")
    finally:
        stop.set()
        thread.join()
    assert code == 0, err
    assert json.loads(out[0])["decision"]["reason"] == "no-bad-signal"


def test_closed_pipe_and_plain_locale(tmp_path: Path, run_replay: Any) -> None:
    (tmp_path / "x\xe9.eml").write_bytes(MESSAGE)
    line = f"LC_ALL=C PYTHONUTF8=0 {MILTERCTL} --config gatepost.toml replay x*.eml | true"
    got = subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, cwd=tmp_path, timeout=100
    )
    # What it assumed may be said before the pipe is found closed: that depends on buffering.
    notes = [note.rpartition(": ")[2] for note in got.stderr.splitlines()]
    assert notes in ([], ["assumed sender a@sender.example"])


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_behind(tmp_path: Path, run_replay: Any, number: signal.Signals) -> None:
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


def test_progress_bar_leaves_stdout_alone(tmp_path: Path, run_replay: Any) -> None:
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
    shown = ""
    with contextlib.suppress(OSError):  # EIO: all of it was read
        while piece := os.read(master, 1 << 20):
            shown += piece.decode("utf-8", "replace")
    os.close(master)
    assert "25/25" in shown and "{" not in shown
    assert [json.loads(x)["error"] for x in got.stdout.splitlines()] == [None] * 25


@pytest.mark.parametrize(
    ("time_of_receipt", "want"),
    [
        ("2026-04-28", None),
        ("1777334400", None),
        ("30d", None),
        ("nan", "want a time of the years 1970 to 9999, got 'nan'"),
        ("1e30", "want a time of the years 1970 to 9999, got '1e30'"),
        ("soon", "want a time such as \"2011-04-28\" or \"30d\", got 'soon'"),
    ],
)  # fmt: skip
def test_the_time_of_receipt(
    tmp_path: Path, run_replay: Any, time_of_receipt: str, want: str | None
) -> None:
    (tmp_path / "x.eml").write_bytes(MESSAGE)
    code, out, err = run_replay("replay", "--at", time_of_receipt, "x.eml", "--format", "json")
    if want is None:
        assert (code, json.loads(out[0])["error"]) == (0, None)
    else:
        assert code == 2 and f"Invalid value for '--at': {want}" in err
