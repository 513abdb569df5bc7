"""The probe milter of the harness tests, and `milterctl` run in this process.

The probe is pymilter on a unix socket, doing what a message asks.
"""

import io
import json
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import Process

PROBE = Path(__file__).with_name("probe_milter.py")


class Probe(Process):
    """A running probe. `flags` are what it negotiates: leadspc, skip, noreply, rejected."""

    def __init__(self, home: Path, *flags: str) -> None:
        self.socket = f"unix:{home}/probe.sock"
        self.log = home / "probe.log"
        command: list[str | Path] = [sys.executable, "-P", PROBE, self.socket, self.log, *flags]
        super().__init__(command, home / "out")
        self.wait_for("listening")
        self._read = 0

    def stop(self) -> None:
        """At once: libmilter takes up to five seconds to hear a TERM."""
        self.signal(signal.SIGKILL)
        self.child.wait(15)

    def events(self) -> list[dict[str, Any]]:
        """What it saw since the last call."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        new, self._read = lines[self._read :], len(lines)
        return [json.loads(line) for line in new]


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Probe]]:
    """Make a probe with these flags; one for each set of flags and module."""
    made: dict[tuple[str, ...], Probe] = {}

    def make(*flags: str) -> Probe:
        if flags not in made:
            made[flags] = Probe(tmp_path_factory.mktemp("p"), *flags)
        made[flags].events()
        return made[flags]

    yield make
    for probe in made.values():
        probe.stop()


@pytest.fixture
def run_milterctl(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """Run `milterctl` here: a process for each call would cost most of a second."""
    from gatepost_milter import cli

    def run(*arguments: str | Path, stdin: bytes = b"") -> tuple[int, str, str]:
        reader = io.BufferedReader(io.BytesIO(stdin))
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdin", io.TextIOWrapper(reader))
            with pytest.raises(SystemExit) as ended:
                cli.main([str(a) for a in arguments])
        got = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        assert "Traceback" not in got.err
        return ended.value.code, got.out, got.err

    return run
