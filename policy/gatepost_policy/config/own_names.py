"""Our own domains and networks, as the recorder last found them: a small file for all processes.

The MTA's tables say which domains it accepts mail for (`mta_tables`), the system which addresses
this host has. Finding out needs other programs, so only the recorder does it, from time to time;
all others read the file. Without the file, only what the configuration names is ours.
"""

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

from gatepost_policy.mail.own import NOTHING_OWN, Own

FILE = "own.json"
LOOK_S = 5.0  # seconds between two looks at whether the file has changed
# By state directory: (monotonic seconds of the next look, (mtime_ns, inode), content).
_seen: dict[Path, tuple[float, tuple[int, int] | None, Own]] = {}


def read(state_dir: Path) -> Own:
    """The content of the file in `state_dir`; NOTHING_OWN where it is missing or invalid."""
    now = time.monotonic()
    known = _seen.get(state_dir)
    if known is not None and now < known[0]:
        return known[2]
    try:
        status = os.stat(state_dir / FILE)
        stamp = (status.st_mtime_ns, status.st_ino)
        if known is not None and known[1] == stamp:
            own = known[2]
        else:
            own = _parse(json.loads((state_dir / FILE).read_text("utf-8")))
    except (OSError, ValueError, TypeError, KeyError):
        stamp, own = None, NOTHING_OWN
    _seen[state_dir] = (now + LOOK_S, stamp, own)
    return own


def _parse(data: dict[str, list[str]]) -> Own:
    return Own(
        domains=tuple(str(name) for name in data["domains"]),
        networks=tuple(ip_network(text) for text in data["networks"]),
    )


def made(domains: Iterable[str], networks: Iterable[str]) -> Own:
    """An `Own` of these names and networks. Raises ValueError for an invalid network."""
    return Own(
        domains=tuple(sorted(domains)), networks=tuple(ip_network(text) for text in networks)
    )


def write(state_dir: Path, own: Own) -> None:
    """Write the file, atomically and only if it changes. Raises OSError."""
    text = json.dumps(
        {"domains": sorted(own.domains), "networks": sorted(str(n) for n in own.networks)}
    )
    path = state_dir / FILE
    with suppress(OSError):
        if path.read_text("utf-8") == text:
            return
    aside = state_dir / f".{FILE}.{os.getpid()}"
    aside.write_text(text, "utf-8")
    os.replace(aside, path)
