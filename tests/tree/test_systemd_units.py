"""The units in conf/systemd: they start what exists, and systemd's own judge finds them closed."""

import os
import shutil
import signal
import socket
import subprocess
import tomllib
from pathlib import Path

import pytest

import rings
from daemons import Daemon

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EVERY = sorted((ROOT / "conf" / "systemd").glob("*.service"))
# A probe that runs for seconds once a day, and reads a mailbox that is another user's.
PROBES = ("gatepost-privacy-test.service",)
UNITS = [unit for unit in EVERY if unit.name not in PROBES]
# systemd counts in tenths: 15 is an exposure of 1.5, which it calls OK. Most network daemons of
# a distribution are above 80.
MAX_EXPOSURE = 15


def value(unit: Path, key: str) -> str:
    """The last value that `unit` gives `key`."""
    lines = [line for line in unit.read_text().splitlines() if line.startswith(f"{key}=")]
    return lines[-1].partition("=")[2]


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run systemd-analyze; the ring is missing without it."""
    program = shutil.which("systemd-analyze")
    if program is None:
        rings.missing("tools", "no systemd-analyze (Debian: systemd)")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_there_is_one_for_each_service() -> None:
    names = [f"gatepost-{name}.service" for name in ("milter", "notify", "policyd", "watch")]
    assert [unit.name for unit in UNITS] == names


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_starts_an_installed_command(unit: Path) -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert Path(value(unit, "ExecStart").split()[0]).name in scripts
    assert value(unit, "Type") == "notify"
    assert int(value(unit, "WatchdogSec")) > 0


@pytest.mark.parametrize("unit", EVERY, ids=lambda unit: unit.stem)
def test_systemd_finds_no_unknown_key(unit: Path, tmp_path: Path) -> None:
    bait = tmp_path / unit.name
    bait.write_text(unit.read_text().replace("[Service]", "[Service]\nNoSuchKey=yes"))
    assert "Unknown key 'NoSuchKey'" in analyze("verify", "--man=no", bait).stderr
    said = analyze("verify", "--man=no", unit).stderr
    # The one thing it may miss is the program, which is not installed where this test runs.
    ours = [line for line in said.splitlines() if unit.stem in line]
    assert [line for line in ours if "is not executable" not in line] == []


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_is_closed(unit: Path, tmp_path: Path) -> None:
    def judged(path: Path) -> int:
        return analyze(
            "security", "--offline=true", "--no-pager", f"--threshold={MAX_EXPOSURE}", path
        ).returncode

    bait = tmp_path / unit.name
    text = unit.read_text()
    for line in ("ProtectSystem=strict", "NoNewPrivileges=yes", "PrivateDevices=yes"):
        text = text.replace(line, "")
    bait.write_text(text)
    assert judged(unit) == 0
    assert judged(bait) != 0


CONFIG = """
[milter]
socket = "inet:{port}@127.0.0.1"
workers = 1
[policy]
listen = "inet:{policy_port}@127.0.0.1"
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
"""


@pytest.mark.milter
@pytest.mark.parametrize("program", ["gatepost-milter", "gatepost-policyd"])
def test_service_tells_systemd(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready, alive, reloading and ready again, stopping: each in its time."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")

        def wait_for(word: str) -> None:
            while word not in systemd.recv(4096).decode().splitlines():
                pass

        with Daemon(CONFIG, program) as daemon:
            wait_for("READY=1")
            wait_for("WATCHDOG=1")
            os.kill(daemon.child.pid, signal.SIGHUP)
            wait_for("RELOADING=1")
            wait_for("READY=1")
            os.kill(daemon.child.pid, signal.SIGTERM)
            wait_for("STOPPING=1")
            assert daemon.child.wait(30) == 0
