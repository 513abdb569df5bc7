"""Which networks of `mynetworks` may go into `submission.networks` (our own mail without a login).

`mynetworks` says who may relay. It may also hold a backup MX, or a container bridge through which
anybody's mail comes. So only loopback and private networks are proposed, and none with a bridge of
this host or a trusted relay in it, nor a single private host: it may be a printer or a backup MX,
and only the administrator knows which.
"""

import fcntl
import re
import shlex
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path

from gatepost_milter.doctor import postfix_lines, postfix_tables
from gatepost_milter.doctor.finding import Finding, Live, place
from gatepost_milter.doctor.postfix_config import PostfixConfig

Network = IPv4Network | IPv6Network

LOOPBACK = (ip_network("127.0.0.0/8"), ip_network("::1/128"))
# RFC 1918, RFC 4193, RFC 4291 2.5.6
PRIVATE = tuple(
    ip_network(n)
    for n in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fe80::/10")
)
# The default bridges of Docker and Podman. Connections to published ports of a container seem to
# come from the bridge's own address, whoever made them.
BRIDGES = (ip_network("172.17.0.0/16"), ip_network("10.88.0.0/16"))
_BRIDGE_NAMES = re.compile(r"(?:docker|br-|podman|cni|virbr|lxcbr|lxdbr|incusbr|veth|flannel|cali)")
_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B


@dataclass(frozen=True, slots=True)
class Proposal:
    """`networks` may go into submission.networks; `left_out`: (network, reason) of the others."""

    networks: tuple[Network, ...]
    left_out: tuple[tuple[str, str], ...]


def parse(word: str) -> Network | None:
    """One word of mynetworks as a network; None where it is a table or a host name."""
    text = word.removeprefix("!").replace("[", "").replace("]", "")
    try:
        network = ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, IPv6Network) and (mapped := network.network_address.ipv4_mapped):
        return ip_network(f"{mapped}/{max(0, network.prefixlen - 96)}", strict=False)
    return network


def inside(network: Network, others: tuple[Network, ...]) -> bool:
    """True where `network` lies in one of the others."""
    return any(
        (isinstance(network, IPv4Network) and isinstance(o, IPv4Network) and network.subnet_of(o))
        or (isinstance(network, IPv6Network) and isinstance(o, IPv6Network)
            and network.subnet_of(o))
        for o in others
    )  # fmt: skip


def _meets(network: Network, others: tuple[Network, ...]) -> bool:
    return any(network.version == o.version and network.overlaps(o) for o in others)


def propose(
    mynetworks: str, trusted_relays: tuple[Network, ...], bridges: tuple[Network, ...]
) -> Proposal:
    """What of `mynetworks` is loopback or a private LAN. Pure."""
    words = [w.text for w in postfix_lines.words(mynetworks)]
    barred = tuple(n for w in words if w.startswith("!") and (n := parse(w)) is not None)
    found: dict[Network, None] = {}
    left: list[tuple[str, str]] = []
    for word in words:
        network = parse(word)
        if word.startswith("!") or network is None:
            continue
        if inside(network, LOOPBACK):
            found[network] = None
        elif not inside(network, PRIVATE):
            left.append((str(network), "public addresses: whoever hands in mail there is asked"))
        elif network.num_addresses == 1:
            left.append((str(network), "one host: add it by hand if it is no relay"))
        elif _meets(network, trusted_relays):
            left.append((str(network), "holds a host of submission.trusted_relays"))
        elif _meets(network, bridges) or inside(network, BRIDGES):
            left.append((str(network), "a container bridge, through which strangers may come"))
        elif _meets(network, barred):
            left.append((str(network), "mynetworks itself takes a part of it out"))
        else:
            found[network] = None
    return Proposal(tuple(found), tuple(left))


def listed(word: str) -> tuple[str, ...] | None:
    """The entries of a file (`/etc/postfix/networks`) or table (`cidr:`, `hash:`...) in mynetworks,
    read from its text source; None where that cannot be read (postconf(5))."""
    kind, _, path = word.rpartition(":")
    if not path.startswith("/") or (kind and kind not in postfix_tables.TEXTS):
        return None
    try:
        lines = Path(path).read_text(errors="replace").splitlines()
    except OSError:
        return None
    rows = [line.split() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    found = [row[0] for row in rows] if kind else [w for row in rows for w in row]
    return tuple(w.strip(",") for w in found)


def entries(mynetworks: str) -> str:
    """The value with files and tables replaced by their entries, as far as they can be read."""
    found: list[str] = []
    for word in postfix_lines.words(mynetworks):
        inner = listed(word.text)
        found += [word.text] if inner is None else inner
    return " ".join(found)


def for_postfix(live: Live) -> Proposal:
    """The proposal for this Postfix on this host."""
    return propose(
        entries(live.config.get("mynetworks")), tuple(live.settings.submission.trusted_relays),
        local_bridges(),
    )  # fmt: skip


def line(live: Live, networks: tuple[Network, ...]) -> str:
    """The line of gatepost.toml that adds `networks` to those already there."""
    every = dict.fromkeys([*map(str, live.settings.submission.networks), *map(str, networks)])
    return "gatepost.toml: [submission] networks = [" + ", ".join(f'"{n}"' for n in every) + "]"


def missing(live: Live) -> tuple[Network, ...]:
    """The proposed networks that are not in submission.networks yet."""
    have = tuple(live.settings.submission.networks)
    return tuple(n for n in for_postfix(live).networks if not inside(n, have))


def check(live: Live) -> Iterator[Finding]:
    """Clients of this host and its LAN that send without a login must be in submission.networks,
    or their mail counts as inbound and is not scrubbed."""
    if lacking := missing(live):
        yield Finding(
            "networks", "main.cf, mynetworks",
            f"mail without a login from {', '.join(map(str, lacking))} leaves with everything it "
            "tells: it is not in submission.networks",
            line(live, lacking),
        )  # fmt: skip


def strangers(live: Live) -> Iterator[Finding]:
    """Public addresses in `mynetworks`: they may relay without a login, but gatepost treats their
    mail as inbound. Checked for main.cf and for each listener with its own mynetworks."""
    ours = live.settings.submission
    named = tuple(n for n in (*ours.networks, *ours.trusted_relays) if not everybody(n))
    where = [None, *(s for s in live.config.smtpd() if "mynetworks" in s.overrides)]
    for service in where:
        words = [w.text for w in postfix_lines.words(live.config.get("mynetworks", service))]
        yield from _in_files(live, place(service, "mynetworks"), words, named)
        public = [w for w in words if not w.startswith("!") and _public(w, named)]
        if not public:
            continue
        rest = [w for w in words if w not in public]
        yield live.mend(
            "public-networks", place(service, "mynetworks"),
            f"{', '.join(public)} in mynetworks: whoever connects from there may send to anywhere "
            "without a login, and what leaves so is not scrubbed (hosts of your own there belong "
            "into submission.networks, a backup MX into submission.trusted_relays)",
            live.config.set("mynetworks", " ".join(rest), service),
        )  # fmt: skip
    if wide := [n for n in (*ours.networks, *ours.trusted_relays) if everybody(n)]:
        key = "networks" if set(wide) & set(ours.networks) else "trusted_relays"
        left = ", ".join(f'"{n}"' for n in getattr(ours, key) if n not in wide)
        yield Finding(
            "public-networks", f"gatepost.toml, [submission] {key}",
            f"{', '.join(map(str, wide))} is everybody: what strangers send is taken for mail of "
            "your own",
            f"gatepost.toml: [submission] {key} = [{left}]",
        )  # fmt: skip


def disguised(live: Live) -> Iterator[Finding]:
    """Public networks whose hosts may name any client with XCLIENT (Postfix XCLIENT_README): then
    gatepost judges, lists and trusts the address that they name."""
    name = "smtpd_authorized_xclient_hosts"
    for service in (None, *(s for s in live.config.smtpd() if name in s.overrides)):
        words = [w.text for w in postfix_lines.words(live.config.get(name, service))]
        wide = [w for w in words if not w.startswith("!") and _public(w, ()) and _many(w)]
        if wide:
            yield live.mend(
                "client-forged", place(service, name),
                f"{', '.join(wide)}: whoever connects from there can say that mail comes from any "
                "address (XCLIENT), so that innocent hosts are listed for it",
                live.config.set(name, " ".join(w for w in words if w not in wide), service),
            )  # fmt: skip


def _many(word: str) -> bool:
    """True for a network too wide for proxies of one site, and for a table that has everybody."""
    network = parse(word)
    return network is None or network.prefixlen < (24 if network.version == 4 else 64)


def _in_files(
    live: Live, where: str, words: list[str], named: tuple[Network, ...]
) -> Iterator[Finding]:
    """Public addresses in the files and tables that mynetworks names."""
    for word in words:
        public = [w for w in listed(word) or () if not w.startswith("!") and _public(w, named)]
        if not public:
            continue
        kind, _, path = word.rpartition(":")
        drop = " ".join(f"-e {shlex.quote(_without(w, bool(kind)))}" for w in public)
        change = f"sed -i -E {drop} {shlex.quote(path)}"
        if kind and kind not in postfix_tables.PLAIN_TEXTS:
            program = live.config.called[0].removesuffix("postconf") + "postmap"
            change += f" && {shlex.join([program, *live.config.called[1:], word])}"
        yield Finding(
            "public-networks", where,
            f"{', '.join(public)} in {word}, which mynetworks names: whoever connects from there "
            "may send to anywhere without a login, and what leaves so is not scrubbed",
            change,
        )  # fmt: skip


def _without(word: str, row: bool) -> str:
    """A sed(1) command that takes an entry out: the whole row of a table, a word of a file."""
    text = re.escape(word)
    return rf"\#^{text}([ \t]|$)#d" if row else rf"s#(^|[ \t,]){text}([ \t,]|$)#\1\2#g"


def everybody(network: Network) -> bool:
    """True for a public network that is too wide to belong to one site (IPv4 wider than /8, IPv6
    wider than /16)."""
    widest = 8 if network.version == 4 else 16
    return network.prefixlen < widest and not inside(network, PRIVATE)


def _public(word: str, named: tuple[Network, ...]) -> bool:
    if word.startswith("static:"):
        return True  # every client matches
    network = parse(word)
    return network is not None and not (
        inside(network, LOOPBACK) or inside(network, PRIVATE) or inside(network, named)
    )


def unread(config: PostfixConfig) -> Iterator[str]:
    """Words of mynetworks that could not be read: host names, and tables or files."""
    for word in postfix_lines.words(config.get("mynetworks")):
        if parse(word.text) is None and listed(word.text) is None:
            yield f"{word.text} in mynetworks"


def local_bridges() -> tuple[Network, ...]:
    """The IPv4 networks of bridges on this host (Linux, netdevice(7))."""
    found = []
    for path in Path("/sys/class/net").glob("*"):
        if not _BRIDGE_NAMES.match(path.name) and not (path / "bridge").is_dir():
            continue
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                request = struct.pack("256s", path.name.encode()[:15])
                address, mask = (
                    socket.inet_ntoa(fcntl.ioctl(probe.fileno(), number, request)[20:24])
                    for number in (_SIOCGIFADDR, _SIOCGIFNETMASK)
                )
            found.append(ip_network(f"{address}/{mask}", strict=False))
        except OSError:
            continue  # no IPv4 address on it
    return tuple(found)
