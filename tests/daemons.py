"""Start gatepost's own daemons, or another program, as children, and end them again.

`Daemon` waits for the word `ready` and for the socket. The configuration is a text with {dir} for
the daemon's own directory; everything it writes is below that.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from weakref import WeakKeyDictionary

from from_table import from_table
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.values import write_table
from ports import free_port

START_TIMEOUT = 60
ENGINES = ("libmilter", "native")
BIN = Path(sys.executable).parent


class Running:
    """Which engine the daemons of the present test run on: the fixture `engine` says so."""

    engine = "libmilter"
    # Daemon -> the engine of the test that started it.
    started: ClassVar[WeakKeyDictionary["Daemon", str]] = WeakKeyDictionary()


def with_engine(config: str) -> str:
    """`config`, TOML, with the engine of the present test, where it does not say its own."""
    if Running.engine == "libmilter" or re.search(r"^(milter\.)?engine *=", config, re.M):
        return config
    line = f'engine = "{Running.engine}"\n'
    if re.search(r"^\[milter\]$", config, re.M):
        return re.sub(r"^\[milter\]\n", f"[milter]\n{line}", config, count=1, flags=re.M)
    if re.search(r"^milter\.", config, re.M):
        return f"milter.{line}{config}"
    return f"{config}\n[milter]\n{line}"


def on_engine(settings: Settings, engine: str) -> Settings:
    """`settings` with this engine."""
    tables = write_table(settings)
    return from_table(Settings, {**tables, "milter": {**tables["milter"], "engine": engine}})


class Process:
    """One child process with its output in a file, ended by its id."""

    def __init__(
        self, command: Sequence[str | Path], output: Path, cwd: Path | None = None
    ) -> None:
        self.output = output
        with output.open("ab") as stream:
            self.child = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=stream,
                stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip

    def wait_for(self, word: str = "ready") -> None:
        end = time.monotonic() + START_TIMEOUT
        while word not in self.text():
            if self.child.poll() is not None or time.monotonic() > end:
                self.stop()
                raise RuntimeError(f"no {word!r} from {self.child.args!r}:\n{self.text()}")
            time.sleep(0.02)

    def text(self) -> str:
        return self.output.read_text(errors="replace") if self.output.exists() else ""

    def signal(self, number: int) -> None:
        """Signal the whole group, stopped or hung workers too."""
        try:
            os.killpg(self.child.pid, number)
        except ProcessLookupError:
            pass

    def stop(self) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            self.signal(signal.SIGCONT)
            self.signal(number)
            try:
                self.child.wait(15)
                break
            except subprocess.TimeoutExpired:
                continue
        self.signal(signal.SIGKILL)  # workers that outlived their parent


class Daemon(Process):
    """gatepost-milter, gatepost-policyd or (milterctl) both, in a directory of their own."""

    def __init__(
        self, config: str = "", program: str = "gatepost-milter", *, home: Path | None = None,
        prelude: str = "",
    ) -> None:  # fmt: skip
        self.owned = home is None
        Running.started[self] = Running.engine
        self.home = home or Path(tempfile.mkdtemp(prefix="gatepost-daemon-"))
        self.port = free_port()
        self.policy_port = free_port()
        self.metrics_port = free_port()
        self.config = self.home / "gatepost.toml"
        self.config.write_text(
            with_engine(config)
            .replace("{dir}", str(self.home))
            .replace("{port}", str(self.port))
            .replace("{policy_port}", str(self.policy_port))
            .replace("{metrics_port}", str(self.metrics_port))
        )
        command: list[str | Path] = [BIN / program, "--config", self.config]
        if program == "milterctl":
            command.append("run")
        if prelude:
            # The same entry point, after something was broken on purpose.
            command = [sys.executable, "-c", prelude, "--config", self.config]
        super().__init__(command, self.home / f"{program}.log", cwd=self.home)
        self.wait_for("ready")

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        if self.owned:
            shutil.rmtree(self.home, ignore_errors=True)

    def start_again(self) -> None:
        """A new process on the same configuration and port."""
        self.stop()
        self.output.unlink(missing_ok=True)
        Process.__init__(self, self.child.args, self.output, cwd=self.home)  # type: ignore[arg-type]
        self.wait_for("ready")

    @property
    def socket(self) -> str:
        """In Postfix's notation."""
        return f"inet:127.0.0.1:{self.port}"


class OtherMilter(Process):
    """tests/other_milter.py on a free port."""

    def __init__(self, ops: str, output: Path) -> None:
        self.port = free_port()
        script = Path(__file__).with_name("other_milter.py")
        super().__init__([sys.executable, "-P", script, f"inet:{self.port}@127.0.0.1", ops], output)
        self.wait_for("ready")
        _wait_port(self.port)

    def stop(self) -> None:
        """libmilter takes seconds to hear SIGTERM, and nothing here needs to be put in order."""
        self.signal(signal.SIGKILL)
        self.child.wait(15)

    @property
    def socket(self) -> str:
        return f"inet:127.0.0.1:{self.port}"


def _wait_port(port: int) -> None:
    end = time.monotonic() + START_TIMEOUT
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 5).close()
            return
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)


def read_everything(folder: Path) -> dict[Path, bytes]:
    """Every regular file below `folder` with its bytes, for a search."""
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
