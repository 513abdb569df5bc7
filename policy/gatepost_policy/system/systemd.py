"""Tell systemd how a service is doing: ready, reloading, stopping, alive (sd_notify(3)).

Nothing is sent, and nothing fails, where the service was started by something else.
"""

import os
import socket
import time
from collections.abc import Mapping


def notify(*states: str, environ: Mapping[str, str] = os.environ) -> bool:
    """Send states such as `READY=1`, `STATUS=...`. False where systemd did not get them."""
    name = environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return False
    address = "\0" + name[1:] if name.startswith("@") else name  # @: the abstract namespace
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.sendto("\n".join(states).encode(), address)
    except OSError:
        return False  # no reason to stop the service; systemd logs that it was not notified
    return True


def reloading(environ: Mapping[str, str] = os.environ) -> bool:
    """Tell systemd that a reload has begun; `notify("READY=1")` tells that it is over."""
    # CLOCK_MONOTONIC, which systemd compares with the time of its own request.
    stamp = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    return notify("RELOADING=1", f"MONOTONIC_USEC={stamp}", environ=environ)


def watchdog_seconds(environ: Mapping[str, str] = os.environ) -> float | None:
    """Seconds between two `WATCHDOG=1`: half the unit's WatchdogSec. None where none is set."""
    # WATCHDOG_PID names the process that is watched: a child must not speak for its parent.
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not microseconds.isascii() or not microseconds.isdigit() or int(microseconds) == 0:
        return None
    return int(microseconds) / 2_000_000
