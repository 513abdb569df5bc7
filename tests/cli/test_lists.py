"""Every list as CSV, and what the shell completes."""

import csv
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import message
from gatepost_milter.cli.milterctl import cli
from gatepost_policy import recorder
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.decision import Reason

pytestmark = pytest.mark.slow


@pytest.fixture
def filled(run: Run, engine: Engine, settings: Settings) -> Run:
    """Two traps, one with a note that is a formula; a hit; a listing by hand."""
    assert run("trap", "add", "one@home.example", "--note", "=1+1")[0] == 0
    assert run("trap", "add", "two@home.example", "--force")[0] == 0
    hit = message(1, to=(), traps=("one@home.example",))
    live = message(2, sender="two@home.example", author="two@home.example")
    recorder.record_batch(engine, [hit, live], settings)
    code, text = run("sender", "punish", "198.51.100.7", "--for", "9d", "--note", "+49")
    assert code == 0, text
    return run


def table(run: Run, *words: str) -> list[dict[str, str]]:
    code, text = run(*words, "--format", "csv")
    assert code in (0, 1), text
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_every_list_is_a_table(filled: Run) -> None:
    found = table(filled, "trap", "list")
    assert [(t["key"], t["note"]) for t in found] == [
        ("one@home.example", "'=1+1"), ("two@home.example", "")
    ]  # fmt: skip
    (hit,) = table(filled, "trap", "hits")
    assert (hit["trap"], hit["sender"], hit["client"]) == (
        "one@home.example", "news@sender.example", "192.0.2.7"
    )  # fmt: skip
    (live,) = table(filled, "trap", "check")
    assert (live["trap"], live["how"]) == ("two@home.example", "sender")
    (listed,) = [row for row in table(filled, "sender", "list") if row["list"] == "listed"]
    assert (listed["value"], listed["by_hand"]) == ("198.51.100.7/32", "yes")
    assert listed["note"] == "'+49"


def test_a_list_of_nothing_has_its_names(run: Run) -> None:
    """A program that reads it finds its columns all the same."""
    for words, first in (
        (("trap", "list"), "kind"), (("trap", "hits"), "at"), (("trap", "check"), "trap"),
        (("sender", "list"), "list"), (("import", "--list"), "id"),
    ):  # fmt: skip
        code, text = run(*words, "--format", "csv")
        assert code == 0 and text.startswith(f"{first},") and len(text.splitlines()) == 1, words


def test_imports_are_a_table(run: Run, tmp_path: Path) -> None:
    log = tmp_path / "mail.log"
    log.write_text(
        "2026-09-21T12:00:00+00:00 mx postfix/smtpd[1]: NOQUEUE: reject: RCPT from x[192.0.2.1]:"
        " 550 5.1.1 <a@home.example>: Recipient address rejected: User unknown;"
        " from=<b@c.example> to=<a@home.example> proto=ESMTP helo=<x>\n"
    )
    run("import", "postfix", str(log))
    (row,) = table(run, "import", "--list")
    assert (row["id"], row["mta"], row["files"], row["undoing"]) == ("1", "postfix", str(log), "no")


def completed(tmp_path: Path, *words: str, of: str) -> list[str]:
    before = ["--config", str(tmp_path / "gatepost.toml"), *words]
    shell = ShellComplete(cli, {}, "milterctl", "_MILTERCTL_COMPLETE")
    return [item.value for item in shell.get_completions(before, of)]


def test_the_shell_knows_traps_senders_and_reasons(filled: Run, tmp_path: Path) -> None:
    both = ["one@home.example", "two@home.example"]
    assert completed(tmp_path, "trap", "remove", of="") == both
    assert completed(tmp_path, "trap", "hits", of="tw") == ["two@home.example"]
    assert completed(tmp_path, "report", "--trap", of="o") == ["one@home.example"]
    assert completed(tmp_path, "sender", "show", of="198.") == ["198.51.100.7/32"]
    assert completed(tmp_path, "report", "--sender", of="x") == []
    assert completed(tmp_path, "tail", "--reason", of="trap-m") == [str(Reason.TRAP_MIXED)]


def test_completion_is_installed_as_the_page_says(tmp_path: Path) -> None:
    """Pasted by somebody whose home directory is empty."""
    page = (Path(__file__).parents[2] / "docs/install.md").read_text()
    block = re.search(r"## Shell completion\n.*?\n\n((?:    [^\n]*\n)+)", page, re.DOTALL)
    assert block is not None
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {"HOME": str(tmp_path), "PATH": path}
    done = subprocess.run(["/bin/sh", "-ec", block[1]], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    made = [file for file in tmp_path.rglob("*milterctl*") if file.is_file()]
    assert len(made) == 3 and all("milterctl" in file.read_text() for file in made)


def test_completion_makes_nothing_and_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """No store, no server, a configuration that is refused: nothing to complete."""
    config = tmp_path / "gatepost.toml"
    for text in (
        f'store.url = "sqlite:///{tmp_path}/none.db"\n',
        'store.url = "postgresql://127.0.0.1:1/x?connect_timeout=1"\n',
        "store.url = 7\n",
    ):
        config.write_text(text)
        assert completed(tmp_path, "trap", "remove", of="") == []
        assert completed(tmp_path, "sender", "show", of="") == []
    assert not (tmp_path / "none.db").exists()
    assert capfd.readouterr() == ("", "")


def test_an_output_is_never_what_we_live_on(
    filled: Run, settings: Settings, tmp_path: Path
) -> None:
    """`-o` with the wrong name would leave a report where the store was."""
    database = tmp_path / str(settings.store.url).rpartition("/")[2]
    assert database.exists()
    alias = tmp_path / "alias"
    alias.symlink_to(database)
    inside = Path(settings.store.journal) / "x.seg"
    for name in (database, f"{database}-wal", tmp_path / "gatepost.toml", alias, inside):
        for words in (
            ("report", "--format", "csv", "-o"), ("report", "--tonight", "-o"),
            ("export", "plain", "-o"), ("data", "export", "a@b.example", "-o"), ("db", "backup"),
        ):  # fmt: skip
            code, text = filled(*words, str(name))
            assert code == 2 and "gatepost's own" in text, (words, name, text)
    assert filled("trap", "list")[0] == 0
    assert filled("db", "backup", f"{database}.tar")[0] == 0
