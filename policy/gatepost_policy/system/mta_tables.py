"""Which domains the MTA on this host accepts mail for, and which addresses are this host's own.

Read from the MTA itself (postconf, postmap, exim -bP) and the kernel. Tables that cannot be read
are named in `unread`; their domains are not known to be ours, and are treated like any other.
"""

import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_network
from pathlib import Path

TIMEOUT_S = 10
# Postfix's tables that name domains of ours (postconf(5)), and the one that names networks.
DOMAINS = ("mydestination", "virtual_mailbox_domains", "virtual_alias_domains", "relay_domains")
NETWORKS = "mynetworks"
# The named lists of Exim's own and of Debian's configuration.
EXIM_DOMAINS = ("local_domains", "relay_to_domains")
EXIM_NETWORKS = ("relay_from_hosts",)
MAX_DEPTH = 4  # files that name files
_PLACES = (Path("/usr/sbin"), Path("/usr/local/sbin"), Path("/sbin"))
_DOMAIN = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9])?\.)+[a-z0-9-]+\.?", re.I)


@dataclass(slots=True)
class Tables:
    """What was found: `domains` in lower case, `networks` as CIDR text, `unread`: tables that could
    not be read."""

    domains: set[str] = field(default_factory=set)
    networks: set[str] = field(default_factory=set)
    unread: list[str] = field(default_factory=list)

    def domain(self, text: str) -> None:
        """Add a name of a table, if it is a domain."""
        text = text.strip().strip(".").lower()
        if _DOMAIN.fullmatch(text):
            self.domains.add(text)

    def network(self, text: str) -> None:
        """Add an address or network of a table, if it is valid and not everything (/0)."""
        text = text.strip().replace("[", "").replace("]", "")
        with suppress(ValueError):
            found = ip_network(text, strict=False)
            if found.prefixlen:
                self.networks.add(str(found))


def read() -> Tables:
    """Postfix's and Exim's tables, and this host's addresses. Never raises."""
    found = Tables()
    for address in addresses():
        found.network(address)
    _postfix(found)
    _exim(found)
    return found


def domains(lists: Iterable[str]) -> Tables:
    """The domains that Postfix lists name; a `$name` in them is expanded already. Never raises."""
    found = Tables()
    for value in lists:
        for item in re.split(r"[,\s]+", value.strip()):
            for one in _items(item, found):
                found.domain(one)
    return found


def addresses(proc: Path = Path("/proc/self/net")) -> Iterator[str]:
    """The addresses of this host's interfaces, from Linux's /proc."""
    with suppress(OSError):
        before = ""
        for line in (proc / "fib_trie").read_text().splitlines():
            if "/32 host LOCAL" in line:
                yield before
            elif "|-- " in line:
                before = line.rpartition("|-- ")[2].strip()
    with suppress(OSError):
        for line in (proc / "if_inet6").read_text().splitlines():
            yield str(IPv6Address(int(line.split()[0], 16)))


def _program(name: str) -> str | None:
    found = shutil.which(name)
    if found is not None:
        return found
    return next((str(p / name) for p in _PLACES if (p / name).exists()), None)


def _run(*command: str) -> str | None:
    """What `command` prints, None where it fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _postfix(found: Tables) -> None:
    postconf = _program("postconf")
    if postconf is None:
        return
    text = _run(postconf, "-x", *DOMAINS, NETWORKS)
    if text is None:
        found.unread.append("postconf")
        return
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals:
            continue
        take = found.network if name == NETWORKS else found.domain
        for item in re.split(r"[,\s]+", value.strip()):
            for one in _items(item, found):
                take(one)


def _items(item: str, found: Tables, depth: int = 0) -> Iterable[str]:
    """The entries of one item of a Postfix list: itself, the words of a file, or a table's keys."""
    if not item or item.startswith("!"):
        return ()
    if item.startswith("/"):
        # The list goes on in the file, with all that a list may hold; Postfix has no limit.
        words = [w for line in _lines(item, found) for w in line.replace(",", " ").split()]
        if depth >= MAX_DEPTH:
            found.unread.append(item)
            return ()
        return [one for word in words for one in _items(word, found, depth + 1)]
    kind, colon, path = item.partition(":")
    if not colon or not path.startswith("/"):
        return (item,)
    if kind == "cidr":
        return [line.split(maxsplit=1)[0] for line in _lines(path, found)]
    text = None
    if kind in ("hash", "btree", "lmdb", "cdb", "texthash", "inline"):
        postmap = _program("postmap")
        text = None if postmap is None else _run(postmap, "-s", item)
    if text is None:
        found.unread.append(item)
        return ()
    return [line.split(maxsplit=1)[0] for line in text.splitlines() if line.strip()]


def _lines(path: str, found: Tables) -> Iterable[str]:
    """The lines of a file that say something, without comments."""
    try:
        text = Path(path).read_text("utf-8", "replace")
    except OSError:
        found.unread.append(path)
        return ()
    rows = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [row for row in rows if row]


def _exim(found: Tables) -> None:
    program = _program("exim4") or _program("exim")
    if program is None:
        return
    for kind, names in (("domainlist", EXIM_DOMAINS), ("hostlist", EXIM_NETWORKS)):
        take = found.domain if kind == "domainlist" else found.network
        for name in names:
            text = _run(program, "-bP", kind, name)
            if text is None:
                continue
            value = text.partition("=")[2].strip()
            separator = ":"
            if value.startswith("<"):
                separator, value = value[1], value[2:]
            for item in value.replace("::", "\0").split(separator):
                item = item.replace("\0", ":").strip()
                if item == "@":
                    host = _run(program, "-bP", "primary_hostname")
                    take((host or "").partition("=")[2])
                elif ";" in item or "$" in item:
                    found.unread.append(f"{name}: {item}")
                else:
                    take(item)
