"""Start a private gatepost-milter for a replay: own socket, own journal, the configured store.

It reads the traps and listings of the configured store and records nothing there: its journal is in
a temporary directory that is removed at the end, and in replay mode it runs no recorder.
Submissions are written to that private journal in full (without client data, as always), so that a
replay can show what was decided about each.
"""

import json
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from gatepost_policy import config
from gatepost_policy.config.values import write_table
from gatepost_policy.system import services

if TYPE_CHECKING:
    from gatepost_policy.config.settings import Settings

START_S = 60.0
STOP_S = 15.0


class StartError(Exception):
    """The private milter did not start. The text is the last line that it logged."""


class PrivateMilter:
    """A running gatepost-milter; use it as a context. `socket` is in libmilter's notation."""

    def __init__(self, settings: "Settings", workers: int = 0) -> None:
        self._settings = settings
        # sun_path holds 108 octets: a deep $TMPDIR would not leave room for the socket.
        base = tempfile.gettempdir()
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-replay-", dir=base))
        if len(str(self.directory)) > 90:
            shutil.rmtree(self.directory)
            self.directory = Path(tempfile.mkdtemp(prefix="gatepost-replay-", dir="/tmp"))
        self.journal = self.directory / "journal"
        self.socket = f"unix:{self.directory / 's'}"
        self._log = self.directory / "log"
        file = self.directory / "gatepost.toml"
        file.write_text(to_toml(_private(settings, self, workers)), encoding="utf-8")
        self._process: subprocess.Popen[bytes] | None = None
        self._options = ["--config", str(file), "--replay"]
        self._term: Any = None  # the handler of TERM before ours

    def __enter__(self) -> "PrivateMilter":
        try:
            if threading.current_thread() is threading.main_thread():
                if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                    self._term = signal.signal(signal.SIGTERM, _leave)
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _start(self) -> None:
        from gatepost_policy.recorder import publish_now

        publish_now(self._settings)
        with self._log.open("wb") as log:
            # Own session: Ctrl-C ends only the replay, which then stops the milter in order.
            self._process = services.start_service(
                services.MILTER, self._options, stdout=log, stderr=log, own_session=True
            )
        end = time.monotonic() + START_S
        while "ready" not in (said := self.said()):
            if self._process.poll() is not None or time.monotonic() > end:
                last = said.strip().splitlines()
                raise StartError(last[-1] if last else "gatepost-milter ended without a word")
            time.sleep(0.02)

    def said(self) -> str:
        """The text that the milter has logged so far."""
        return self._log.read_text("utf-8", "replace") if self._log.exists() else ""

    def stop(self) -> None:
        """End the milter and remove its directory; calling it twice is fine."""
        process, self._process = self._process, None
        if process is not None:
            services.stop_services([process], STOP_S)
        shutil.rmtree(self.directory, ignore_errors=True)
        if self._term is not None:
            signal.signal(signal.SIGTERM, self._term)
            self._term = None


def _leave(number: int, frame: object) -> None:
    """Handler of TERM: leave by an exception, so that the private milter is stopped as well."""
    raise SystemExit(128 + number)


def _private(settings: "Settings", own: PrivateMilter, workers: int) -> dict[str, Any]:
    """The configured settings, changed where they would touch the running service (socket, journal,
    copies of trap mail, metrics)."""
    tree: dict[str, Any] = write_table(settings, changed=True)
    milter = {"socket": own.socket, "socket_mode": "0600", "socket_group": ""}
    tree["milter"] = tree.get("milter", {}) | milter | {"workers": workers}
    # Both engines give the same answers, so where pymilter is not installed the native one is
    # used. A plain folder named `milter` is found as a module too, but has no origin.
    pymilter = find_spec("milter")
    if settings.milter.engine == "libmilter" and (pymilter is None or pymilter.origin is None):
        tree["milter"]["engine"] = "native"
    tree["store"] = tree.get("store", {}) | {
        "url": config.store_url(settings),
        "journal": str(own.journal),
        "submission": "full",
        "sync": "process",
    }
    tree.get("trap", {}).pop("capture", None)
    tree.pop("metrics", None)
    return tree


def to_toml(tree: dict[str, Any]) -> str:
    """`tree` (tables of plain values and lists) as TOML. A table may hold tables, one level deep
    (`rules`)."""
    lines: list[str] = []
    for name, table in tree.items():
        nested = {k: v for k, v in table.items() if isinstance(v, dict)}
        lines.append(f"[{name}]")
        lines += [f"{k} = {_value(v)}" for k, v in table.items() if k not in nested]
        for key, values in nested.items():
            lines.append(f"[{name}.{json.dumps(key)}]")
            lines += [f"{k} = {_value(v)}" for k, v in values.items() if v is not None]
    return "\n".join(lines) + "\n"


def _value(value: Any) -> str:
    # A JSON string, number, boolean or list of these is TOML as well, escapes included.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
