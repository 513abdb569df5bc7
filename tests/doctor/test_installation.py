"""`milterctl check`: a right installation draws no problem, each fault draws its own."""

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest
from sqlalchemy import Engine

import dnskit
from fix_store import message, settings_in
from from_table import from_table
from gatepost_milter import cli
from gatepost_milter.doctor import installation
from gatepost_policy import config, journal, recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.values import write_table
from gatepost_policy.store import migrate

pytestmark = pytest.mark.slow

NOW = 1_795_000_000.0


def problems(settings: Settings, path: Path | None = None, now: float = NOW) -> dict[str, str]:
    """What is wrong: what was looked at, and the words for it."""
    found = list(installation.examine(settings, path, now))
    assert all(f.change for f in found if f.problem), found
    return {f.what: f.problem for f in found if f.problem}


@pytest.fixture
def sound(tmp_path: Path) -> Settings:
    """Settings with a state directory in which all is well."""
    os.chmod(tmp_path, 0o700)
    settings = settings_in(tmp_path)
    engine = store.open_engine(settings)
    recorder.record_batch(engine, [message()], settings)
    with store.writing(engine) as connection:
        traps.add(connection, "trap@example.net", at=NOW)
    engine.dispose()
    config.journal_dir(settings).mkdir(mode=0o700)
    return settings


@pytest.fixture
def recording(sound: Settings) -> Iterator[Settings]:
    """The same, with somebody who holds the recorder's lock."""
    handle = os.open(config.journal_dir(sound) / recorder.LOCK, os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(handle, fcntl.LOCK_EX)
    yield sound
    os.close(handle)


def test_sound(recording: Settings) -> None:
    found = list(installation.examine(recording, None, NOW))
    assert [f for f in found if f.problem] == []
    assert [f.what for f in found] == [
        "modules",
        "configuration",
        "state",
        "store",
        "traps",
        "ours",
        "journal",
    ]
    assert "recorder runs" in found[-1].state


def test_either_database(any_settings: Settings, any_engine: Engine) -> None:
    """No state directory yet, but a store: it is looked at."""
    recorder.record_batch(any_engine, [message()], any_settings)
    found = {f.what: f for f in installation.examine(any_settings, None, NOW)}
    assert all(f.problem is None for f in found.values()), found
    assert f"schema {migrate.HEAD}, last message 20" in found["store"].state


def test_database_server_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "none"))
    settings = settings_in(tmp_path, "postgresql://u:secret@127.0.0.1:1/g")
    (found,) = (f for f in installation.examine(settings, None, NOW) if f.problem)
    assert (found.what, found.unreachable, found.change) == ("store", True, "is the server up?")
    assert "secret" not in f"{found}"


def test_new_machine(tmp_path: Path) -> None:
    assert problems(settings_in(tmp_path / "none")) == {}


def test_the_doctor_changes_nothing(tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    list(installation.examine(settings_in(tmp_path), None, NOW))
    assert sorted(tmp_path.rglob("*")) == before


def test_configuration_others_may_change(sound: Settings, tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    path.touch(0o600)
    assert problems(sound, path) == {}
    path.chmod(0o666)
    assert "others may change it" in problems(sound, path)["configuration"]


def test_password_others_may_read(tmp_path: Path) -> None:
    path = tmp_path / "gatepost.toml"
    for url, want in (
        ("postgresql://u:secret@127.0.0.1:1/g", True),
        ("postgresql://u@127.0.0.1:1/g", False),
        ("postgresql:///g?host=/run/postgresql&application_name=a:b@c", False),
    ):
        path.touch()
        path.chmod(0o644)
        found = list(installation._configuration(settings_in(tmp_path, url), path, NOW))
        assert any("holds a password" in (f.problem or "") for f in found) == want, url
        for mode in (0o640, 0o600):  # root's, and of the services' group: as it is packaged
            path.chmod(mode)
            found = list(installation._configuration(settings_in(tmp_path, url), path, NOW))
            assert all(f.problem is None for f in found), url


def test_rule_that_expired(sound: Settings) -> None:
    settings = from_table(
        Settings,
        {**write_table(sound), "rules": {"trap": {"mode": "off", "expires": date(2026, 1, 1)}}},
    )
    assert problems(settings)["rules"] == "off ended on 2026-01-01: it is enforced"


def _writable(settings: Settings) -> None:
    os.chmod(config.state_dir(settings), 0o777)


def _damaged(settings: Settings) -> None:
    path = config.database_path(settings)
    assert path is not None
    path.write_bytes(b"nothing like a database" * 1000)


def _newer(settings: Settings) -> None:
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    engine.dispose()


def _gap(settings: Settings) -> None:
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        connection.exec_driver_sql(
            f'INSERT INTO journal_gap (since, "until", lost) VALUES ({NOW - 9}, {NOW - 5}, 3)'
        )
    engine.dispose()


def _used_trap(settings: Settings) -> None:
    engine = store.open_engine(settings)
    with store.writing(engine) as connection:
        traps.add(connection, "news@sender.example", at=NOW)
    engine.dispose()


def _quarantined(settings: Settings) -> None:
    directory = config.quarantine_dir(settings)
    directory.mkdir()
    (directory / "x.json").touch()


def _waiting(settings: Settings) -> None:
    writer = journal.Writer(config.journal_dir(settings), max_bytes=10**9, sync="process")
    assert writer.write(message(7))
    writer.close()
    for segment in journal.segments(config.journal_dir(settings)):
        os.utime(segment, (NOW - 60, NOW - 60))


def _full(settings: Settings) -> None:
    (config.journal_dir(settings) / "x").write_bytes(b"")
    os.truncate(config.journal_dir(settings) / "x", settings.store.journal_max_bytes)


@pytest.mark.parametrize(
    ("break_it", "what", "words"),
    [
        (_writable, "state", "others may write there (mode 0777)"),
        (_damaged, "store", "is damaged or no SQLite file"),
        (_newer, "store", f"has schema 9999, this gatepost wants {migrate.HEAD}"),
        (_gap, "journal", "lost: 3 records"),
        (_used_trap, "traps", "somebody uses it (seen as sender)"),
        (_quarantined, "quarantine", "1 record that the store refused"),
        (_waiting, "journal", "records have been waiting for 60 s"),
        (_full, "journal", "bytes are in use"),
    ],
)
def test_fault(
    sound: Settings, break_it: Callable[[Settings], None], what: str, words: str
) -> None:
    assert problems(sound) == {}
    break_it(sound)
    assert words in problems(sound)[what]


def test_capture_directory(sound: Settings, tmp_path: Path) -> None:
    settings = from_table(
        Settings, {**write_table(sound), "trap": {"capture": str(tmp_path / "missing")}}
    )
    assert problems(settings)["capture"] == "trap.capture names no directory"


@pytest.fixture
def resolver() -> Iterator[dnskit.Server]:
    """A resolver that answers."""
    with dnskit.serving({}) as server:
        yield server


def test_sockets_and_exit_codes(
    sound: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str], resolver: dnskit.Server
) -> None:
    file = tmp_path / "gatepost.toml"
    file.write_text(
        f'[milter]\nsocket = "unix:{tmp_path}/m"\n[policy]\nlisten = "unix:{tmp_path}/p"\n'
        f'[dkim]\nnameservers = ["{resolver.address}"]\n'  # this machine's may answer nothing
        f'[store]\nurl = "{config.store_url(sound)}"\njournal = "{config.journal_dir(sound)}"\n'
    )
    file.chmod(0o600)

    def check(*options: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            cli.main(["--config", str(file), "check", *options])
        assert isinstance(ended.value.code, int)
        return ended.value.code, capsys.readouterr().out

    with socket.socket(socket.AF_UNIX) as milter, socket.socket(socket.AF_UNIX) as policy:
        milter.bind(f"{tmp_path}/m")
        policy.bind(f"{tmp_path}/p")
        code, out = check()
        assert code == 3
        assert "PROBLEM  milter.socket" in out
        assert "systemctl start gatepost-policyd" in out
        milter.listen()
        policy.listen()
        code, out = check()
        assert (code, "PROBLEM" in out) == (0, False), out
        code, out = check("--format", "json")
        assert all(f["ok"] for f in json.loads(out))
        _quarantined(sound)
        assert check()[0] == 1
