"""What is ours without being configured, as the recorder last found it: one small file for all.

The MTA's own tables say which domains it takes mail for (`mta_tables`), the system which addresses
this host has. Asking takes a process or two, so it is done by who records, now and then; everybody
else reads the file. No file: nothing is known to be ours but what the configuration says.
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
LOOK_S = 5.0  # how often the file's time is looked at
_seen: dict[Path, tuple[float, tuple[int, int] | None, Own]] = {}


def read(state_dir: Path) -> Own:
    """What the file in `state_dir` says. Never raises."""
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
    """What was found, as it is published."""
    return Own(
        domains=tuple(sorted(domains)), networks=tuple(ip_network(text) for text in networks)
    )


def write(state_dir: Path, own: Own) -> None:
    """Tell everybody. Raises OSError."""
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
