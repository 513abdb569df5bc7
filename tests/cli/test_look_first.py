"""Commands that show before anything is done: config show, stat, --dry-run, what was meant."""

import json
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


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (("raport",), "milterctl report"),
        (("trap", "ad", "x@home.example"), "milterctl trap add"),
    ],
)
def test_what_was_meant(run_milterctl: Any, typed: tuple[str, ...], meant: str) -> None:
    code, out, err = run_milterctl(*typed)
    assert (code, out) == (2, "")
    assert f"Did you mean '{meant}'?" in err
    assert len(err.splitlines()) == 1


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
