"""Commands that show before anything is done: config show, stat, --dry-run, what was meant."""

import json
import re
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import pytest

from gatepost_policy import config
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.values import keys_of

ROOT = Path(__file__).parents[2]
LOG = ROOT / "tests" / "demo" / "exim_mainlog"
SENDER = "news@offers.example"


@pytest.fixture
def milterctl(tmp_path: Path, run_milterctl: Any) -> Any:
    """Run milterctl on a store of its own: (exit code, stdout, stderr)."""
    store = f"sqlite:///{tmp_path}/store.sqlite"

    def run(*words: str) -> tuple[int, str, str]:
        got: tuple[int, str, str] = run_milterctl("--store", store, *words)
        return got

    return run


@pytest.fixture
def filled(milterctl: Any) -> Any:
    """The same with the history of an old log in it."""
    code, out, _ = milterctl("import", "exim", str(LOG), "--zone", "UTC")
    assert code == 0, out
    return milterctl


def test_config_show_is_a_configuration(tmp_path: Path, run_milterctl: Any) -> None:
    """What is printed can be loaded, and says the same; --changed has what differs alone."""
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[sender]\naction = "tempfail"\nlisting_first = "12h"\n'
        '[rules.trap]\nmode = "shadow"\n[policy]\nlisten = ["inet:10041@127.0.0.1"]\n'
    )
    code, out, _ = run_milterctl("--config", mine, "config", "show")
    assert code == 0
    again = tmp_path / "again.toml"
    again.write_text(out)
    assert config.load(again) == config.load(mine)
    assert set(tomllib.loads(out)) >= {key.name for key in keys_of(Settings)} - {"rules"}
    code, out, _ = run_milterctl("--config", mine, "config", "show", "--changed")
    assert tomllib.loads(out) == tomllib.loads(mine.read_text())
    assert out.startswith(f"# from {mine}\n")


def test_config_show_keeps_passwords(tmp_path: Path, run_milterctl: Any) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text(
        '[store]\nurl = "postgresql://gp:open-sesame@db.example/x"\n'
        'read_url = "postgresql://db.example/x?user=gp&password=open-sesame"\n'
        '[submission]\nown_received = "mta"\nmta_token = "opensesame"\n'
    )
    for form in ("table", "json"):
        code, out, err = run_milterctl("--config", mine, "config", "show", "--format", form)
        assert code == 0, err
        assert "sesame" not in out and "db.example" in out


def test_stat_counts_what_was_decided(milterctl: Any) -> None:
    assert milterctl("stat")[1] == "no message yet\n"
    assert milterctl("import", "exim", str(LOG), "--zone", "UTC")[0] == 0
    code, out, _ = milterctl("stat", "--format", "json")
    found = json.loads(out)
    assert code == 0 and found["since"] == "2025-05-07T14:21:44Z"
    assert sum(line["messages"] for line in found["decisions"]) == 11
    assert {line["direction"] for line in found["decisions"]} == {"inbound"}
    header, *lines = milterctl("stat", "--format", "csv")[1].splitlines()
    assert header == "direction,action,reason,messages"
    assert len(lines) == len(found["decisions"])


def test_stat_remembers_what_became_a_number(filled: Any, tmp_path: Path) -> None:
    before = json.loads(filled("stat", "--format", "json")[1])
    assert filled("data", "erase", SENDER, "--yes")[0] == 0
    after = json.loads(filled("stat", "--format", "json")[1])
    assert after["decisions"] == before["decisions"]


def test_dry_run_of_erase_says_what_erase_does(filled: Any) -> None:
    """The same numbers, and the store is as it was."""
    held = filled("data", "export", SENDER)[1]
    code, out, err = filled("data", "erase", SENDER, "--dry-run", "--format", "json")
    assert code == 0 and "nothing was changed" in err
    assert filled("data", "export", SENDER)[1] == held
    told = json.loads(out)
    assert told["sent"] > 0
    done = json.loads(filled("data", "erase", SENDER, "--yes", "--format", "json")[1])
    assert told == {name: number for name, number in done.items() if name != "journal"}


def test_dry_run_of_purge_says_what_purge_does(
    filled: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = tmp_path / "short.toml"
    short.write_text('[retention]\nrecipients = "1s"\naddresses = "1s"\nrows = "1s"\n')
    later = time.time() + 60
    monkeypatch.setattr(time, "time", lambda: later)
    code, out, err = filled("--config", str(short), "db", "purge", "--dry-run")
    assert code == 0 and "nothing was changed" in err, err
    told = dict(line.split(": ") for line in out.splitlines())
    assert int(told["recipients"].split()[0]) > 0
    before = filled("stat", "--format", "json")[1]
    code, out, err = filled("--config", str(short), "db", "purge")
    assert code == 0, err
    done = dict(line.split(": ") for line in out.splitlines())
    assert done["recipients"] == told["recipients"] and done["rows"] == told["rows"]
    after = filled("stat", "--format", "json")[1]
    assert json.loads(after)["decisions"] == json.loads(before)["decisions"]


# A message arrives, two recipients of another one are refused, a user submits.
REFUSED = (
    "smtpd[15]: NOQUEUE: reject: RCPT from x.spam.example[192.0.2.9]: 550 5.1.1 <{0}>: "
    "Recipient address rejected: User unknown in local recipient table; "
    "from=<s@spam.example> to=<{0}> proto=ESMTP helo=<x>"
)
POSTFIX = "".join(
    f"Nov 20 10:00:{second:02} mx postfix/{line}\n"
    for second, line in enumerate(
        (
            "smtpd[11]: connect from out.letters.example[198.51.100.20]",
            "smtpd[11]: 4AB1C2D3E4: client=out.letters.example[198.51.100.20]",
            "cleanup[12]: 4AB1C2D3E4: message-id=<1@letters.example>",
            "qmgr[13]: 4AB1C2D3E4: from=<bounce@letters.example>, size=900, nrcpt=1 (queue active)",
            "local[14]: 4AB1C2D3E4: to=<peter@home.example>, relay=local, delay=1, dsn=2.0.0, "
            "status=sent (delivered)",
            "qmgr[13]: 4AB1C2D3E4: removed",
            REFUSED.format("a@home.example"),
            REFUSED.format("b@home.example"),
            "submission/smtpd[16]: 4AB1C2D3E5: client=laptop.lan[192.0.2.77], sasl_method=PLAIN, "
            "sasl_username=alice",
            "qmgr[13]: 4AB1C2D3E5: from=<alice@home.example>, size=700, nrcpt=1 (queue active)",
            "smtp[17]: 4AB1C2D3E5: to=<carol@elsewhere.example>, relay=none, delay=1, dsn=2.0.0, "
            "status=sent (ok)",
            "qmgr[13]: 4AB1C2D3E5: removed",
        )
    )
)


@pytest.mark.parametrize("batch", [5_000, 2])
@pytest.mark.parametrize("mta", ["exim", "postfix"])
def test_dry_run_of_import_says_what_import_does(
    milterctl: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mta: str, batch: int
) -> None:
    """The same numbers: of a new log, of one that is known, of one that has grown, of one that is
    given twice; and the store is as it was."""
    monkeypatch.setattr("gatepost_milter.cli.import_sink.BATCH", batch)
    log = tmp_path / "mail.log"
    whole = LOG.read_text() if mta == "exim" else POSTFIX
    words = ("import", mta, str(log), "--zone", "UTC", "--year", "2025")
    # Half of it, all of it, then once more: nothing is new.
    for part, new in ((whole[: len(whole) // 2], True), (whole, True), (whole, False)):
        log.write_text(part[: part.rindex("\n") + 1])
        before = milterctl("stat", "--format", "json")[1], milterctl("import", "--list")[1]
        for twice in ((), (str(log),)):
            code, foreseen, err = milterctl(*words, *twice, "--dry-run")
            assert code == 0 and "nothing was changed" in err, err
            assert ("0 new" not in foreseen) is new
        after = milterctl("stat", "--format", "json")[1], milterctl("import", "--list")[1]
        assert after == before
        # The last dry run was of the log given twice.
        code, out, err = milterctl(*words, str(log))
        assert (code, out) == (0, foreseen), err


def test_dry_run_of_trap_import_says_what_it_does(milterctl: Any, tmp_path: Path) -> None:
    assert milterctl("trap", "add", "known@home.example")[0] == 0
    traps = tmp_path / "list"
    traps.write_text("new@home.example\nKnown@home.example\nno address\nnew@home.example\n")
    before = milterctl("trap", "list", "--format", "json")[1]
    code, foreseen, err = milterctl("trap", "import", str(traps), "--dry-run")
    assert code == 1 and "nothing was changed" in err
    assert foreseen == "1 new trap, 2 known already, 1 line refused\n"
    assert milterctl("trap", "list", "--format", "json")[1] == before
    assert milterctl("trap", "import", str(traps))[1] == foreseen


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("raport",), "'milterctl report'"),
        (("trap", "ad", "x@home.example"), "'milterctl trap add'"),
        (("purge",), "'milterctl db purge'"),
        (("erase", "x@home.example"), "'milterctl data erase'"),
        (("list",), "'milterctl trap list' or 'milterctl sender list'"),
        (("report", "--sendr", "x"), "'--sender'"),
        (("report", "--csv"), "'--format csv'"),
    ],
)
def test_what_was_meant(run_milterctl: Any, typed: tuple[str, ...], meant: str) -> None:
    code, out, err = run_milterctl(*typed)
    assert (code, out) == (2, "")
    # Click writes quotes since 8.3.
    assert f"Did you mean {meant}? See".replace("'", "") in err.replace("'", "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("typed", [("export",), ("completion",)])
def test_what_can_be_chosen_is_one_line(run_milterctl: Any, typed: tuple[str, ...]) -> None:
    code, _, err = run_milterctl(*typed)
    assert code == 2 and "\\x" not in err and len(err.splitlines()) == 1
    assert re.search(r"Choose from: \w+, \w+, ", err), err


def test_backup_into_no_directory_names_what_was_typed(milterctl: Any, tmp_path: Path) -> None:
    assert milterctl("stat")[0] == 0
    file = tmp_path / "missing" / "backup.tar"
    code, _, err = milterctl("db", "backup", str(file))
    assert (code, err) == (1, f"milterctl: {file}: No such file or directory\n")


def test_nothing_is_guessed_from_afar(run_milterctl: Any) -> None:
    assert "Did you mean" not in run_milterctl("zzzzzz")[2]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["gatepost-milter", "gatepost-policyd", "milterctl"])
def test_version(program: str) -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name(program), "--version"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"{program}, version 0.")
