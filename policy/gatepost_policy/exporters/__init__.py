"""Write the listings for other programs: one function a format, `dossier.Entry` in, text out.

Pure but for `write`. Every format carries when each listing ends and what it rests on: as fields
where the format has them, else as a comment. What would shut ourselves out (own networks, trusted
relays, loopback, a prefix of nobody in particular) is refused by `sort_out`, not by its reader.
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters import nft, pf, plain, postfix, rbldnsd
from gatepost_policy.exporters.entry import Blocked
from gatepost_policy.listings.dossier import Entry

Writer = Callable[[Sequence[Blocked], float, Settings], Iterator[str]]

FORMATS: dict[str, Writer] = {
    "plain": plain.lines,
    "nft": nft.lines,
    "pf": pf.lines,
    "postfix-cidr": postfix.cidr_lines,
    "rbldnsd": rbldnsd.lines,
}

# Wider than these nobody lists by accident: such a line would shut out half a country.
WIDEST_V4, WIDEST_V6 = 8, 16
_NEVER = tuple(
    ip_network(text)
    for text in ("127.0.0.0/8", "0.0.0.0/8", "169.254.0.0/16", "::1/128", "::/128", "fe80::/10")
)


@dataclass(frozen=True, slots=True)
class Refused:
    """A listing that is not exported, and why."""

    value: str
    why: str


def sort_out(entries: Sequence[Entry], settings: Settings) -> tuple[list[Blocked], list[Refused]]:
    """(prefixes to block, in order and without overlaps; those that must not be)."""
    own = (*settings.submission.networks, *settings.submission.trusted_relays)
    wanted: list[Blocked] = []
    refused: list[Refused] = []
    for entry in entries:
        if entry.kind == "promoted" and settings.sender.promotion != "enforce":
            continue
        if entry.kind not in ("prefix", "promoted"):
            continue  # a domain or an address is no matter for a packet filter
        network = ip_network(entry.value)
        if any(_overlap(network, n) for n in own):
            refused.append(Refused(entry.value, "one of our own networks"))
        elif any(_overlap(network, n) for n in _NEVER):
            refused.append(Refused(entry.value, "this machine"))
        elif network.prefixlen < (WIDEST_V4 if network.version == 4 else WIDEST_V6):
            refused.append(Refused(entry.value, "too wide"))
        else:
            wanted.append(Blocked(network, entry))
    return _without_overlaps(wanted), refused


def _overlap(a: IPv4Network | IPv6Network, b: IPv4Network | IPv6Network) -> bool:
    return a.version == b.version and a.overlaps(b)


def _without_overlaps(wanted: Sequence[Blocked]) -> list[Blocked]:
    """Sorted; what lies in a wider listing is left out: interval sets refuse overlaps."""
    kept: list[Blocked] = []
    order = sorted(
        wanted,
        key=lambda b: (b.network.version, int(b.network.network_address), b.network.prefixlen),
    )
    for blocked in order:
        if kept and _overlap(kept[-1].network, blocked.network):
            continue
        kept.append(blocked)
    return kept


def write(path: Path, lines: Iterator[str]) -> None:
    """Write aside, sync, rename: a reader sees the old file or the new one. Raises OSError."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(handle, "w", encoding="ascii", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(aside, path.stat().st_mode & 0o777)  # as its reader is used to it
        os.rename(aside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
