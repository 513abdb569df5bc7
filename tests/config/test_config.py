"""Configuration: found where the manual says, wrong values named in one line, defaults told."""

import os
import tomllib
from pathlib import Path

import pytest

from from_table import from_table
from gatepost_policy import config
from gatepost_policy.config import ConfigError, file
from gatepost_policy.config.settings import Rule, Settings
from gatepost_policy.config.values import keys_of

HERE = Path(__file__).parents[1]
SAMPLE = HERE.parent / "conf" / "gatepost.toml"
BAD = sorted((HERE / "bad_configs").iterdir())


def problems(path: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    return caught.value.problems


@pytest.mark.parametrize("case", BAD, ids=lambda path: path.name)
def test_bad_config(case: Path) -> None:
    """Every line names file and key; `expected` is what an operator reads."""
    got = [line.replace(f"{case}/", "") for line in problems(case / "gatepost.toml")]
    want = (case / "expected").read_text().splitlines()
    assert got == want
    assert all(line.isprintable() for line in got)


def test_there_are_bad_configs() -> None:
    assert len(BAD) > 30


def test_secret_of_a_store_is_not_repeated() -> None:
    got = problems(HERE / "bad_configs" / "store-unknown" / "gatepost.toml")
    assert "secret" not in "".join(got)


def test_unreadable(tmp_path: Path) -> None:
    got = problems(tmp_path / "missing.toml")
    assert got == (
        f"{tmp_path}/missing.toml: cannot read the configuration: No such file or directory",
    )
    got = problems(tmp_path)
    assert got == (f"{tmp_path}: cannot read the configuration: Is a directory",)


def test_too_large(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_bytes(b"#" * (file.MAX_FILE_BYTES + 1))
    assert "want at most 1048576 bytes" in problems(path)[0]


def test_found_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gatepost_policy.config.file.SYSTEM_FILE", tmp_path / "etc.toml")
    assert config.find(None, {}) is None
    (tmp_path / "etc.toml").touch()
    assert config.find(None, {}) == tmp_path / "etc.toml"
    (tmp_path / "gatepost.toml").touch()
    assert config.find(None, {}) == Path("gatepost.toml")
    # A file that was named is wanted, whether it exists or not.
    assert config.find(None, {"GATEPOST_CONFIG": "/no/such"}) == Path("/no/such")
    assert config.find("/given", {"GATEPOST_CONFIG": "/no/such"}) == Path("/given")


def test_sample_has_every_key_with_its_default() -> None:
    """conf/gatepost.toml is the documentation: all keys, nothing else, and true."""
    sample = tomllib.loads(SAMPLE.read_text())
    want = [key.name for key in keys_of(Settings) if key.name != "rules"]
    assert sorted(sample) == sorted(want)
    defaults = Settings()
    loaded = config.load(SAMPLE)
    for table in want:
        section = getattr(defaults, table)
        assert sorted(sample[table]) == sorted(key.name for key in keys_of(type(section))), table
        assert getattr(loaded, table) == section, table


def test_sample_shows_every_key_of_a_rule(tmp_path: Path) -> None:
    """The example of a rule is a comment; without its `#` it must load."""
    text = SAMPLE.read_text()
    example = text[text.index("# [rules.") :].replace("# ", "")
    (tmp_path / "gatepost.toml").write_text(example)
    loaded = config.load(tmp_path / "gatepost.toml")
    assert len(loaded.rules) == 1
    (table,) = tomllib.loads(example)["rules"].values()
    assert sorted(table) == sorted(key.name for key in keys_of(Rule))


def test_sample_says_why() -> None:
    """Each key has a comment above it (or above its group) that is more than its name."""
    comment = False
    for line in SAMPLE.read_text().splitlines():
        if line.startswith("#"):
            comment = True
        elif line.startswith("["):
            comment = False
        elif " = " in line and not line.startswith(" "):
            assert comment, line


def test_durations_and_domains(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    path.write_text(
        '[sender]\nlisting_first = "2s"\nown_domains = ["Bücher.Example."]\n'
        '[policy]\nlisten = ["inet:1@127.0.0.1", "unix:/run/x"]\n'
        "[rules.trap]\nmode = 'shadow'\nexpires = 2027-01-31\n"
    )
    got = config.load(path)
    assert got.sender.listing_first == 2
    assert got.sender.own_domains == ("xn--bcher-kva.example",)
    assert [str(a) for a in got.policy.listen] == ["inet:1@127.0.0.1", "unix:/run/x"]
    rule = next(iter(got.rules.values()))
    assert rule.expires is not None and rule.expires.isoformat() == "2027-01-31"


@pytest.mark.parametrize(
    ("url", "want"),
    [
        ("sqlite:////var/lib/x/y.sqlite", "sqlite:////var/lib/x/y.sqlite"),
        ("sqlite:///y.sqlite", "sqlite:///{cwd}/y.sqlite"),
        ("/var/lib/x.sqlite", "sqlite:////var/lib/x.sqlite"),
        ("./x.sqlite", "sqlite:///{cwd}/x.sqlite"),
        ("postgresql://u@/g?host=/run", "postgresql+psycopg://u@/g?host=/run"),
        ("postgres://u@h/g", "postgresql+psycopg://u@h/g"),
        ("postgresql+psycopg://u@h/g", "postgresql+psycopg://u@h/g"),
    ],
)
def test_store_url(url: str, want: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    got = config.store_url(config.load(None, store=url))
    assert got == want.format(cwd=tmp_path)


@pytest.mark.parametrize(
    "url",
    ["nonsense", "sqlite://", "sqlite:///:memory:", "oracle://x", "~/x.sqlite", "sqlite:///~/x.db"],
)
def test_store_option_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^--store: want a store such as"):
        config.load(None, store=url)


def test_state_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.default_state_dir({"XDG_STATE_HOME": "/x"}) == Path("/x/gatepost")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert config.default_state_dir({}) == Path("/var/lib/gatepost")
    # XDG: a relative path is invalid.
    assert config.default_state_dir({"XDG_STATE_HOME": "x"}) == Path("/var/lib/gatepost")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.default_state_dir({}) == tmp_path / ".local/state/gatepost"


def test_directories_follow_the_store() -> None:
    got = config.load(None, store="/srv/gp/x.sqlite")
    assert config.state_dir(got) == Path("/srv/gp")
    assert config.journal_dir(got) == Path("/srv/gp/journal")
    assert config.quarantine_dir(got) == Path("/srv/gp/quarantine")


def test_journal_of_its_own() -> None:
    got = from_table(Settings, {"store": {"journal": "/fast/journal", "url": "/srv/x.sqlite"}})
    assert config.journal_dir(got) == Path("/fast/journal")


def test_worker_count(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, want in ((1, 2), (2, 2), (8, 8), (64, 16)):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert config.worker_count(Settings()) == want, cores
    assert config.worker_count(from_table(Settings, {"milter": {"workers": 5}})) == 5


def test_never_list_of_ones_own(tmp_path: Path) -> None:
    """A list without the shipped names is a list; with them it is longer."""
    file = tmp_path / "gatepost.toml"
    file.write_text('[sender]\nnever_list = ["example.org"]\n')
    assert config.load(file).sender.never_list == ("example.org",)
    file.write_text('[sender]\nnever_list = ["@packaged", "example.org"]\n')
    assert len(config.load(file).sender.never_list) > 10
