"""Write the listings for other programs: a function for each format, which gives a file's lines.

Pure, except `write`. Every format says of each listing when it ends and what its evidence is: in
fields where the format has them, else in a comment. `sort_out` leaves out what must not be blocked
(`listings.guard`: own networks and domains, trusted relays, `sender.never_list`, prefixes that are
too wide or nobody's), and names it with the reason.
"""

import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

from gatepost_policy.config.settings import Settings
from gatepost_policy.exporters import domains, nft, pf, plain, postfix, rbldnsd
from gatepost_policy.exporters.entry import Blocked, BlockedDomain
from gatepost_policy.listings import guard
from gatepost_policy.listings.dossier import Entry
from gatepost_policy.mail import client_address
from gatepost_policy.mail.facts import Identity, IdentityKind
from gatepost_policy.mail.own import NOTHING_OWN, Own

# (prefixes, now in Unix seconds, settings) -> the lines of the file, without line ends.
Writer = Callable[[Sequence[Blocked], float, Settings], Iterator[str]]

FORMATS: dict[str, Writer] = {
    "plain": plain.lines,
    "nft": nft.lines,
    "pf": pf.lines,
    "postfix-cidr": postfix.cidr_lines,
    "rbldnsd": rbldnsd.lines,
    "postscreen": postfix.postscreen_lines,
}


DomainWriter = Callable[[Sequence[BlockedDomain], float, Settings], Iterator[str]]
DOMAIN_FORMATS: dict[str, DomainWriter] = {
    "rpz": domains.rpz_lines,
    "dnset": domains.dnset_lines,
    "rspamd": domains.rspamd_lines,
}
# What a zone or a map can hold: letters, digits, `-` and `_` in labels (RFC 1035 2.3.1).
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_-]{1,63}")


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A listing that is not exported, and why."""

    value: str
    why: str


@dataclass(frozen=True, slots=True)
class Sorted:
    """What is exported (prefixes in order and without overlaps, domains in order), and what is
    left out."""

    prefixes: list[Blocked]
    domains: list[BlockedDomain]
    left_out: list[LeftOut]


def sort_out(entries: Sequence[Entry], settings: Settings, own: Own = NOTHING_OWN) -> Sorted:
    """Sort the listings; those that may not be blocked are left out, with the reason.

    `own`: the host's own names and addresses. Promoted listings are skipped unless they are
    enforced, and so are listings of sender addresses.
    """
    wanted: list[Blocked] = []
    names: dict[str, BlockedDomain] = {}
    left_out: list[LeftOut] = []
    judge = guard.Guard(settings, own)
    for entry in entries:
        if entry.kind.startswith("promoted") and settings.sender.promotion != "enforce":
            continue
        if entry.kind in ("prefix", "promoted"):
            network = client_address.listed_network(entry.value)
            why: str | None = "no network as gatepost writes it"
            if network is not None:
                why = judge.prefix(network)
            if network is not None and why is None:
                wanted.append(Blocked(network, entry))
        elif entry.kind in ("dkim", "promoted-dkim"):
            domain = Identity(IdentityKind.DKIM, entry.value, True)
            why = judge.refusal(domain)
            if why is None and (len(entry.value) > 250 or not _NAME.fullmatch(entry.value)):
                why = "no name that a zone can hold"
            last = names.get(entry.value)
            if why is None and (last is None or last.entry.until < entry.until):
                names[entry.value] = BlockedDomain(entry.value, entry)
        else:
            continue  # an address of a sender or author: only the milter can refuse by it
        if why is not None:
            left_out.append(LeftOut(entry.value, why))
    return Sorted(_without_overlaps(wanted), [names[n] for n in sorted(names)], left_out)


def _without_overlaps(wanted: Sequence[Blocked]) -> list[Blocked]:
    """Sorted, and each address once, because nft refuses sets with overlaps.

    Where one listing lies in another, each address is listed until the later of the two ends: a
    wide listing is cut into pieces around a narrow one that ends later.
    """
    kept: list[Blocked] = []
    order = sorted(
        wanted,
        key=lambda b: (b.network.version, int(b.network.network_address), b.network.prefixlen),
    )
    group: list[Blocked] = []
    for blocked in order:
        if group and not _overlap(group[0].network, blocked.network):
            kept += _cut(group)
            group = []
        group.append(blocked)
    return kept + _cut(group)


def _cut(group: Sequence[Blocked]) -> list[Blocked]:
    """The pieces for `group`, sorted; its first prefix contains all the others."""
    pieces: list[Blocked] = []
    for one in group:
        # Wider prefixes come first, so at most one piece contains `one` or is equal to it.
        around = next((p for p in pieces if _overlap(p.network, one.network)), None)
        if around is None:
            pieces.append(one)
            continue
        if around.entry.until >= one.entry.until:
            continue
        pieces.remove(around)
        pieces.append(one)
        if around.network != one.network:
            rest = around.network.address_exclude(one.network)  # type: ignore[arg-type]
            pieces += [Blocked(network, around.entry) for network in rest]
    return sorted(pieces, key=lambda b: int(b.network.network_address))


def _overlap(a: IPv4Network | IPv6Network, b: IPv4Network | IPv6Network) -> bool:
    return a.version == b.version and a.overlaps(b)


def write(path: Path, lines: Iterator[str]) -> None:
    """Write a second file, sync, rename it: a reader sees the old file or the new one.

    The target of a symbolic link is replaced, and the link stays; a device or a pipe is written
    to. An old file's permissions are kept. Raises OSError.
    """
    # Otherwise root would replace /dev/null by a file.
    if path.exists() and not path.is_file():
        with path.open("w", encoding="ascii", errors="backslashreplace") as device:
            device.writelines(f"{line}\n" for line in lines)
        return
    path = Path(os.path.realpath(path))
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    handle = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(handle, "w", encoding="ascii", errors="backslashreplace") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):
            os.chmod(aside, path.stat().st_mode & 0o777)  # so that its readers can read it still
        os.rename(aside, path)
    except BaseException:
        with suppress(FileNotFoundError):
            aside.unlink()
        raise
