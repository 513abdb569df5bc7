"""Start one of gatepost's services as a child that ends when we do, and stop it again."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from typing import IO

MILTER = "gatepost_milter.engine.daemon"
POLICYD = "gatepost_policy.policyd.server"
# The child asks the kernel for SIGTERM when its parent dies (prctl(2), PR_SET_PDEATHSIG), so that
# no child keeps the port; where the parent has died before that, nothing is started.
_CODE = """
import ctypes, importlib, os, sys
try:
    ctypes.CDLL(None).prctl(1, 15, 0, 0, 0)
except (OSError, AttributeError):
    pass
if os.getppid() != int(sys.argv.pop(1)):
    sys.exit(1)
sys.exit(importlib.import_module(sys.argv.pop(1)).main())
"""


def start_service(
    module: str,
    options: Sequence[str],
    *,
    stdout: int | IO[bytes],
    stderr: IO[bytes] | None = None,
    own_session: bool = False,
) -> subprocess.Popen[bytes]:
    """Run `main` of `module` (MILTER, POLICYD). It prints `ready` on `stdout` once it serves.

    `own_session`: Ctrl-C on our terminal does not reach it. Raises OSError.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE, str(os.getpid()), module, *options],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=own_session,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def stop_services(processes: Iterable[subprocess.Popen[bytes]], seconds: float) -> None:
    """TERM to each, and KILL to those that have not ended after `seconds`."""
    running = [process for process in processes if process.poll() is None]
    for process in running:
        process.send_signal(signal.SIGTERM)
    end = time.monotonic() + seconds
    for process in running:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()  # its workers see its control pipe close and leave
            process.wait()
