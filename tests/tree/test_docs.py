"""The documentation says what the programs do: generated parts are fresh, links lead somewhere."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import rings
from gatepost_milter.cli.milterctl import COMMANDS, cli
from gatepost_policy.config import problems
from gatepost_policy.mail.decision import Reason

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MAN = DOCS / "man"
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS.rglob("*.md")])


def test_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "manpages.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


@pytest.mark.parametrize("tool", ["operator_pages.py", "rooms.py"])
def test_tables_are_fresh(tool: str) -> None:
    """Replies, reasons, log keys and columns are named in the docs, and so are the rooms."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / tool, "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_places_named_in_the_docs_exist() -> None:
    """A path in backquotes leads to a file: pages outlive the modules that they name."""
    text = (DOCS / "rooms.md").read_text() + (DOCS / "flow.md").read_text()
    named = re.findall(r"`((?:milter|policy|migrations|tests|tools|conf)/[\w./-]+)`", text)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.milter
@pytest.mark.slow
def test_readme_shows_what_is_printed() -> None:
    """Its session is run: an import, a trap, a replay through the milter, two reports."""
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "readme.py", "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def walk(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """Every command below `command` with the words that call it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from walk(child, f"{path} {name}")


def test_every_command_is_part_of_the_installation() -> None:
    """The table in milterctl.py promises nothing that is not there."""
    assert set(cli.list_commands(click.Context(cli))) == set(COMMANDS)


def test_every_command_and_option_has_help() -> None:
    silent = []
    for path, command in walk(cli, "milterctl"):
        if not command.help:
            silent.append(path)
        for parameter in command.params:
            if isinstance(parameter, click.Option) and not parameter.hidden and not parameter.help:
                silent.append(f"{path} {parameter.opts[0]}")
    assert silent == []


def test_help_fits_80_columns() -> None:
    """No line is wider (but for long paths to copy), no summary is cut off, no type is shouted."""
    wide, cut = [], []
    for path, command in walk(cli, "milterctl"):
        context = click.Context(command, info_name=path, terminal_width=80)
        for line in command.get_help(context).splitlines():
            if len(line) > 80 and "/completions/" not in line:
                wide.append(line)
            if line.endswith("...") and "Usage:" not in line or "RANGE" in line:
                cut.append(line)
    assert (wide, cut) == ([], [])


def test_every_command_is_documented() -> None:
    text = (DOCS / "commands.md").read_text()
    missing = [
        path for path, c in walk(cli, "milterctl") if not c.hidden and f"## {path}\n" not in text
    ]
    assert missing == []


COMMAND = re.compile(r"^(?: {4}|\$ )(milterctl (?:[^\n]*\\\n)*[^\n]*)", re.M)


# CHANGELOG.md names commands, and is not for pasting.
TO_PASTE = [page for page in PAGES if page.name != "CHANGELOG.md"]


@pytest.mark.parametrize("page", TO_PASTE, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_docs_are_such(page: Path) -> None:
    """Each line to paste names a command that is there, with options that it has."""
    text = page.read_text()
    lines = COMMAND.findall(text) + re.findall(r"`(milterctl [^`]+)`", text)
    assert [problem for line in lines if (problem := misused(line))] == []


def misused(line: str) -> str:
    """What milterctl would not understand of a line; empty where it would."""
    words = shlex.split(line.replace("\\\n", " ").replace(";", " ; "), comments=True)[1:]
    ends = [n for n, word in enumerate(words) if word in (">", "|", "&&", ";")]
    words = words[: min(ends, default=len(words))]
    command: click.Command = cli
    context = click.Context(cli)
    try:
        while isinstance(command, click.Group):
            _, words, _ = command.make_parser(context).parse_args(words)
            if not words:
                return ""
            found = command.get_command(context, words[0])
            if found is None:
                return f"{line}: no command {words[0]}"
            command, words = found, words[1:]
            context = click.Context(command, parent=context)
        _, extra, _ = command.make_parser(context).parse_args(words)
    except click.UsageError as error:
        return f"{line}: {error.format_message()}"
    return f"{line}: too much: {extra}" if extra else ""


def test_a_misused_command_is_found() -> None:
    assert misused("milterctl sender forgive news.example") == ""
    assert "no command" in misused("milterctl sender pardon news.example")
    assert "--nothing" in misused("milterctl --store x report --nothing")
    assert "too much" in misused("milterctl backtest new.toml")


def test_every_key_is_in_the_manual() -> None:
    page = (MAN / "gatepost.toml.5").read_text()
    missing = [
        f"{table}.{key}"
        for table, names in problems.tables().items()
        for key in names
        if f"\\fB{key}\\fR" not in page
    ]
    assert missing == []
    assert [r.value for r in Reason if "\\fB" + r.value.replace("-", "\\-") not in page] == []


@pytest.mark.parametrize("service", ["gatepost-milter", "gatepost-policyd"])
def test_every_option_of_a_service_is_documented(service: str) -> None:
    program = Path(sys.executable).with_name(service)
    done = subprocess.run([program, "--help"], capture_output=True, text=True, check=True)
    options = set(re.findall(r"--[a-z-]+", done.stdout)) - {"--help", "--version"}
    page = (MAN / f"{service}.8").read_text().replace("\\-", "-")
    assert options and {option for option in options if f"\\fB{option}\\fR" not in page} == set()


@pytest.mark.parametrize("page", sorted(p.name for p in MAN.glob("*.[1-8]")))
def test_man_accepts_the_page(page: str, tmp_path: Path) -> None:
    groff = shutil.which("groff")
    if groff is None:
        rings.missing("tools", "no groff (Debian: groff)")
    bait = tmp_path / "bait.1"
    bait.write_text(".TH X 1\n.SH NAME\nx \\- \\(zz\n")

    def said(path: Path) -> str:
        done = subprocess.run(
            [groff, "-man", "-ww", "-Tutf8", "-z", path], capture_output=True, text=True, check=True
        )
        return done.stderr

    assert said(bait) != ""
    assert said(MAN / page) == ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target and not (page.parent / target).exists()
    ]
    assert broken == []


def test_each_decision_has_its_own_number() -> None:
    """Code and docs name a decision by it: file and heading have the same, and no other has it."""
    pages = sorted((DOCS / "decisions").iterdir())
    numbers = [page.name[:4] for page in pages]
    assert len(numbers) == len(set(numbers))
    heads = [page.read_text().partition("\n")[0] for page in pages]
    assert [head[:8] for head in heads] == [f"# {number}: " for number in numbers]
