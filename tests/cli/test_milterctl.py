"""`milterctl` as a program: help, exit codes, one-line errors, odd terminals."""

import csv
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click
import pytest

from fix_report import SLOW, fill
from fix_store import message
from gatepost_milter import cli
from gatepost_milter.cli import milterctl
from gatepost_policy import config, journal, recorder, store
from postgresql_server import Server

pytestmark = pytest.mark.slow

MILTERCTL = str(Path(sys.executable).with_name("milterctl"))


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No configuration of this machine, and a state directory of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("GATEPOST_CONFIG", raising=False)
    monkeypatch.setattr("gatepost_policy.config.file.SYSTEM_FILE", tmp_path / "none.toml")


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """(exit code, stdout, stderr) of `milterctl` in this process."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    got = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, got.out, got.err


def commands() -> list[list[str]]:
    """Every command there is, as its words."""
    found: list[list[str]] = []

    def walk(command: click.Command, words: list[str]) -> None:
        found.append(words)
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                walk(inner, [*words, name])

    walk(milterctl.cli, [])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, *words, "--help")
    assert code == 0
    assert out.startswith(f"Usage: {' '.join(['milterctl', *words])}")
    assert not err
    # A sentence or a noun, before the options.
    assert len(out.split("\n\n")[1].strip()) > 10
    assert out.isascii()


def test_help_says_of_each_command_what_it_says_of_itself() -> None:
    for name, (module, line) in milterctl.COMMANDS.items():
        command = import_module(f"gatepost_milter.cli.{module}").command
        first = (command.help or "").split("\n\n")[0].replace("\n", " ")
        assert command.short_help or first, name
        assert first.startswith(line.rstrip(".")) or command.short_help == line, (name, first)


def test_help_imports_no_command() -> None:
    """`milterctl --help` answers at once: neither SQLAlchemy nor rich nor dnspython are needed."""
    code = (
        "import sys\nfrom gatepost_milter import cli\n"
        "try: cli.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('sqlalchemy', 'rich', 'dns') if m in sys.modules])"
    )
    got = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert got.stdout.splitlines()[-1] == "[]"


def test_a_report_imports_what_it_needs(tmp_path: Path) -> None:
    """With nothing to take in, what takes it in is not imported; nor the migrations' tools."""
    (tmp_path / "gatepost.toml").write_text(
        f'store.url = "sqlite:///{tmp_path}/g.sqlite"\nstore.journal = "{tmp_path}/journal"\n'
    )
    code = (
        "import sys\nfrom gatepost_milter import cli\n"
        f"try: cli.main(['--config', '{tmp_path}/gatepost.toml', 'report', '--format', 'json', "
        "'--sender', 'sender.example'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('alembic', 'rich', 'dns', 'jinja2', 'gatepost_policy.recorder', "
        "'gatepost_policy.ingest', 'gatepost_policy.dkim', 'dkim', 'email.headerregistry', "
        "'sqlalchemy.dialects.postgresql') if m in sys.modules])"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(2)
    ]
    assert "alembic" in told[0].stdout.splitlines()[-1]  # the first one makes the store
    assert told[1].stdout.splitlines()[-1] == "[]"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "--version")
    assert code == 0
    assert out.startswith("milterctl, version ")


BROKEN = "[milter]\nsokcet = 1\n"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["report", "--sender", "nobody.example"], 0, ""),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["report", "--nonsense"], 2, "No such option"),
        (["report", "--format", "xml"], 2, "--format"),
        (["report", "--limit", "-1"], 2, "--limit"),
        (["report", "--since", "yesterday"], 2, "--since: want a time"),
        (["report", "--host", "mail.example.org"], 2, "--host: want an IP address"),
        (["report", "--sender", ""], 2, "--sender: want an address"),
        (["report", "-o", "/no/such/directory/file"], 2, "No such file or directory"),
        (["--config", "missing.toml", "report"], 2, "missing.toml: cannot read"),
        (["--config", "broken.toml", "report"], 2, "milter.sokcet: unknown key; did you mean"),
        (["--config", "broken.toml", "check"], 2, "milter.sokcet: unknown key; did you mean"),
        (["--config", "broken.toml", "run"], 2, "milter.sokcet: unknown key; did you mean"),
        (["--store", "oracle://x", "report"], 2, "--store: want a store"),
        (["--store", "", "report"], 2, "--store: want a URL or a file's name, got nothing"),
        (["--store", "sqlite:///x.sqlite?mode=ro", "report"], 2, "options behind the ?"),
        (["--store", "damaged.sqlite", "report"], 3, "is damaged or no SQLite file"),
        (["--store", "damaged.sqlite", "db", "check"], 3, "is damaged or no SQLite file"),
        (["--store", "damaged.sqlite", "trap", "list"], 3, "is damaged or no SQLite file"),
        (["--store", "broken.toml/x.sqlite", "report"], 3, "store"),
        (["--store", "postgresql://u:secret@127.0.0.1:1/x", "report"], 3, "is the server up?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_exit_codes(
    capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    """One clear line on stderr, and the exit code of the manual."""
    Path("broken.toml").write_text(BROKEN)
    Path("damaged.sqlite").write_bytes(b"not a database at all" * 100)
    got, out, err = run(capsys, *arguments)
    assert (got, err.count("\n")) == (code, 1 if code else 0), err
    assert words in err
    assert "secret" not in err
    assert not code or not out


def test_store_of_a_newer_gatepost(capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "--store", "s.sqlite", "report")
    engine = store.open_url(f"sqlite:///{Path('s.sqlite').absolute()}")
    with store.writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()
    for words in (["report"], ["db", "upgrade"]):
        code, _, err = run(capsys, "--store", "s.sqlite", *words)
        assert code == 3
        assert "newer than this gatepost knows" in err
        assert err.count("\n") == 1
    code, out, _ = run(capsys, "--store", "s.sqlite", "db", "check")
    assert code == 1
    assert "newer than this gatepost knows" in out


def test_db_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--store", "s.sqlite", "db", "current") == (0, "none\n", "")
    assert not Path("s.sqlite").exists()
    code, out, _ = run(capsys, "--store", "s.sqlite", "db", "upgrade")
    assert (code, out.startswith("schema none -> ")) == (0, True)
    code, out, _ = run(capsys, "--store", "s.sqlite", "db", "upgrade")
    assert out.endswith(": nothing to do\n")
    code, out, _ = run(capsys, "--store", "s.sqlite", "db", "check")
    assert (code, out.endswith("fine\n")) == (0, True)


@pytest.fixture
def slow(tmp_path: Path) -> str:
    """The path of a store with the slow sender."""
    path = str(tmp_path / "slow.sqlite")
    settings = config.load(None, store=path)
    engine = store.open_engine(settings)
    fill(engine, SLOW, settings)
    engine.dispose()
    return path


def test_formats(capsys: pytest.CaptureFixture[str], slow: str) -> None:
    code, out, err = run(capsys, "--store", slow, "report", "--format", "json")
    assert (code, err) == (0, "")
    assert out.isascii()
    assert json.loads(out)["summary"]["messages"] == 5
    code, out, _ = run(capsys, "--store", slow, "report", "--format", "csv", "-o", "out.csv")
    assert (code, out) == (0, "")
    with open("out.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 5
    code, out, _ = run(capsys, "--store", slow, "report", "--sender", "slow.example",
                       "--format", "html")  # fmt: skip
    assert code == 0
    assert out.lstrip().lower().startswith("<!doctype html>")


def test_locale_that_is_not_utf_8(slow: str, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {
        **os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0",
        "PYTHONIOENCODING": "ascii",
    }  # fmt: skip
    got = subprocess.run([MILTERCTL, "--store", slow, "report"], capture_output=True, env=environ)
    assert (got.returncode, got.stderr) == (0, b"")
    assert got.stdout.isascii()
    assert b"slow.example" in got.stdout
    # How Python hands over a byte of the command line that is no UTF-8.
    code, out, err = run(capsys, "--store", slow, "report", "--sender", "\udcff@slow.example")
    assert (code, err) == (0, "")
    assert r"\udcff@slow.example" in out


def test_closed_pipe(slow: str) -> None:
    """`milterctl report | head -1`: no traceback, no word."""
    child = subprocess.Popen(
        [MILTERCTL, "--store", slow, "report", "--format", "json", "--limit", "100000"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert child.stdout is not None and child.stderr is not None
    child.stdout.close()
    err = child.stderr.read()
    child.stderr.close()
    assert child.wait() == 0
    assert err == b""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    code, out, _ = run(capsys, "completion", shell)
    assert code == 0
    assert "_MILTERCTL_COMPLETE" in out


def test_completion_knows_commands_and_options() -> None:
    environ = {**os.environ, "_MILTERCTL_COMPLETE": "bash_complete"}
    for words, index, want in (
        ("milterctl re", "1", "report"),
        ("milterctl report --se", "2", "--sender"),
    ):
        got = subprocess.run(
            [MILTERCTL], capture_output=True, text=True, check=True,
            env={**environ, "COMP_WORDS": words, "COMP_CWORD": index},
        )  # fmt: skip
        assert want in got.stdout


def journaled(count: int) -> journal.Writer:
    """A journal with messages that no recorder has seen."""
    settings = config.load(None, store="s.sqlite")
    writer = journal.Writer(config.journal_dir(settings), max_bytes=10**9, sync="process")
    for number in range(count):
        assert writer.write(message(number))
    return writer


def test_report_tells_what_was_just_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a recorder it ingests by itself; twice tells the same."""
    journaled(3).close()
    for _ in range(2):
        code, out, err = run(capsys, "--store", "s.sqlite", "report", "--format", "json")
        assert (code, err) == (0, "")
        assert json.loads(out)["summary"]["messages"] == 3


def test_report_says_when_the_recorder_is_behind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody holds the lock and does nothing: what is known is told, and that it is old."""
    # Two seconds are the promise; a test need not wait for them.
    monkeypatch.setattr(recorder.wait_until_ingested, "__defaults__", (0.1,))
    journaled(1).close()
    run(capsys, "--store", "s.sqlite", "report")
    writer = journaled(1)
    settings = config.load(None, store="s.sqlite")
    stuck = recorder.Recorder(settings)
    assert stuck.lock()
    try:
        code, out, err = run(capsys, "--store", "s.sqlite", "report", "--format", "json")
    finally:
        stuck.close()
        writer.close()
    assert code == 0
    assert json.loads(out)["summary"]["messages"] == 1
    assert err == "milterctl: the recorder is behind; the newest messages may be missing\n"


def test_report_reads_a_store_that_is_locked(capsys: pytest.CaptureFixture[str], slow: str) -> None:
    """Another program writes for longer than we wait: reading goes on."""
    Path("gatepost.toml").write_text(f'[store]\nurl = "{slow}"\nbusy_ms = 50\n')
    run(capsys, "trap", "add", "other@example.net")
    engine = store.open_url(f"sqlite:///{slow}")
    with store.writing(engine):
        code, out, err = run(capsys, "report", "--format", "json")
    engine.dispose()
    assert (code, err.count("\n")) == (0, 1)
    assert "is locked by another program" in err
    assert json.loads(out)["summary"]["messages"] == 5


def test_on_a_real_terminal(slow: str) -> None:
    """A pseudo-terminal of 60 columns: nothing is wider, and it has colours."""
    columns = 60
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    environ = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "NO_COLOR")}
    child = subprocess.Popen(
        [MILTERCTL, "--store", slow, "report", "--sender", "slow.example"],
        stdin=follower, stdout=follower, stderr=follower, env={**environ, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(follower)
    data = b""
    with suppress(OSError):  # EIO: the other side is closed
        while piece := os.read(leader, 65536):
            data += piece
    os.close(leader)
    assert child.wait() == 0
    text = data.decode()
    assert "\x1b[" in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    assert "repeat sender" in plain
    assert max(len(line) for line in plain.splitlines()) <= columns


@pytest.mark.postgresql
def test_database_server(capsys: pytest.CaptureFixture[str], postgresql: Server) -> None:
    """A server's schema is upgraded by hand only: until then every command says how."""
    url = postgresql.create("by_hand")
    try:
        assert run(capsys, "--store", url, "db", "current") == (0, "none\n", "")
        code, _, err = run(capsys, "--store", url, "report")
        assert code == 3
        assert err.endswith("run: milterctl db upgrade\n") and err.count("\n") == 1
        code, out, _ = run(capsys, "--store", url, "db", "check")
        assert (code, out.count("run: milterctl db upgrade")) == (1, 1)
        code, out, _ = run(capsys, "--store", url, "db", "upgrade")
        assert (code, out.startswith("schema none -> ")) == (0, True)
        assert run(capsys, "--store", url, "trap", "add", "trap@example.net")[0] == 0
        code, out, err = run(capsys, "--store", url, "report", "--format", "json")
        assert (code, err, json.loads(out)["summary"]["messages"]) == (0, "", 0)
        code, out, _ = run(capsys, "--store", url, "db", "check")
        assert (code, out.endswith("fine\n")) == (0, True)
        assert run(capsys, "--store", url, "db", "purge")[0] == 0
    finally:
        postgresql.drop("by_hand")
