"""`milterctl run`: one ready line, both sockets, and nobody left over however it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from from_table import from_table
from gatepost_milter.cli import run_services
from gatepost_milter.cli.common import Failure
from gatepost_policy.config.settings import Settings
from gatepost_policy.system import sockets
from gatepost_policy.system.socket_address import SocketAddress
from ports import free_port

pytestmark = [pytest.mark.milter, pytest.mark.slow]
MILTERCTL = Path(sys.executable).with_name("milterctl")
PATIENCE_S = 60.0


class Running:
    """`milterctl run` in a process group of its own."""

    def __init__(self, directory: Path) -> None:
        self.ports = [free_port(), free_port()]
        (directory / "gatepost.toml").write_text(
            f'[milter]\nsocket = "inet:{self.ports[0]}@127.0.0.1"\nworkers = 2\n'
            f'[policy]\nlisten = "inet:{self.ports[1]}@127.0.0.1"\n'
            f'[store]\nurl = "{directory}/state/gatepost.sqlite"\n'
        )
        self.out, self.err = directory / "out", directory / "err"
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.child = subprocess.Popen(
                [MILTERCTL, "--config", directory / "gatepost.toml", "run"],
                stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
            )  # fmt: skip

    def ready(self) -> "Running":
        wait(lambda: "ready" in self.out.read_text() or self.child.poll() is not None)
        assert self.child.poll() is None, self.err.read_text()
        return self

    def family(self) -> list[int]:
        """Every process below it, whatever its parent is now."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if os.getsid(int(entry.name)) == self.child.pid:
                        found.append(int(entry.name))
                except OSError:
                    continue
        return [pid for pid in found if not is_zombie(pid)]

    def services(self) -> list[int]:
        """The children of `run` itself, in the order of their start."""
        text = Path(f"/proc/{self.child.pid}/task/{self.child.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def gone(self) -> bool:
        """True when nothing is left: no process, no port."""
        return not self.family() and not any(
            sockets.answers(SocketAddress("inet", "127.0.0.1", port)) for port in self.ports
        )

    def clean(self) -> None:
        for pid in self.family():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.child.wait()


def is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def wait(true: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    started = Running(tmp_path)
    yield started.ready()
    started.clean()


def test_what_it_says_and_ctrl_c(running: Running) -> None:
    text = running.out.read_text()
    assert text.count("ready") == 1
    milter, policy = running.ports
    assert text.startswith(
        f"ready: milter on inet:{milter}@127.0.0.1, policy service on inet:{policy}@127.0.0.1"
    )
    assert f"{{ inet:127.0.0.1:{milter}, default_action=accept" in text
    assert f"smtpd_milters={{inet:127.0.0.1:{milter},default_action=tempfail}}" in text
    assert (
        f"check_policy_service {{ inet:127.0.0.1:{policy}, timeout=5s, default_action=DUNNO" in text
    )
    # Pasted over what stands there, a whole line would drop block lists; so none is printed.
    assert "reject_unauth_destination" not in text
    assert "milter_macro_daemon_name=ORIGINATING" in text
    for port in running.ports:
        assert sockets.answers(SocketAddress("inet", "127.0.0.1", port))
    running.child.send_signal(signal.SIGHUP)  # both reload and go on
    time.sleep(0.5)
    assert running.child.poll() is None
    wait(lambda: all(sockets.answers(SocketAddress("inet", "127.0.0.1", p)) for p in running.ports))
    # A terminal sends the signal to the whole group, as Ctrl-C does.
    os.killpg(running.child.pid, signal.SIGINT)
    assert running.child.wait(PATIENCE_S) == 0
    wait(running.gone)
    assert "Traceback" not in running.err.read_text()


def test_term_to_run_alone(running: Running) -> None:
    running.child.terminate()
    assert running.child.wait(PATIENCE_S) == 0
    wait(running.gone)


@pytest.mark.parametrize("which", [0, 1])
def test_either_dying_ends_the_other(running: Running, which: int) -> None:
    name = list(run_services.SERVICES)[which]
    os.kill(running.services()[which], signal.SIGKILL)
    assert running.child.wait(PATIENCE_S) == 1
    wait(running.gone)
    assert f"milterctl: {name} was killed by SIGKILL" in running.err.read_text()


def test_kill_9_of_run_leaves_nobody(running: Running) -> None:
    os.kill(running.child.pid, signal.SIGKILL)
    running.child.wait()
    wait(running.gone)


@pytest.mark.parametrize("which", [0, 1])
def test_port_in_use_is_one_clear_line(tmp_path: Path, which: int) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        sockets = [f"inet:{free_port()}@127.0.0.1"] * 2
        sockets[which] = f"inet:{other.getsockname()[1]}@127.0.0.1"
        sockets[1 - which] = f"inet:{free_port()}@127.0.0.1"
        (tmp_path / "gatepost.toml").write_text(
            f'[milter]\nsocket = "{sockets[0]}"\n[policy]\nlisten = "{sockets[1]}"\n'
            f'[store]\nurl = "{tmp_path}/gatepost.sqlite"\n'
        )
        got = subprocess.run(
            [MILTERCTL, "--config", tmp_path / "gatepost.toml", "run"],
            capture_output=True, text=True, timeout=PATIENCE_S,
        )  # fmt: skip
    key = ("milter.socket", "policy.listen")[which]
    assert got.returncode == 3
    assert got.stderr.startswith(f"milterctl: {key} = {sockets[which]}: the port is in use; stop")
    assert got.stderr.count("\n") == 1
    assert got.stdout == ""


def test_unix_socket_that_is_stale_is_no_obstacle(tmp_path: Path) -> None:
    path = tmp_path / "s"
    settings = from_table(
        Settings, {"milter": {"socket": f"unix:{path}"}, "policy": {"listen": f"unix:{tmp_path}/p"}}
    )
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        run_services.check_sockets(settings)
        other.listen()
        with pytest.raises(Failure, match="another program answers there"):
            run_services.check_sockets(settings)


def test_greeting_says_where_milterctl_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a shell does not find it; and nothing of it where it does."""
    ours = Path(sys.executable).parent
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    said = run_services.greeting(Settings())
    assert f"milterctl is {ours}/milterctl" in said
    assert f"  PATH={ours}:$PATH" in said
    monkeypatch.setenv("PATH", f"{ours}:/usr/bin:/bin")
    assert "milterctl is" not in run_services.greeting(Settings())
