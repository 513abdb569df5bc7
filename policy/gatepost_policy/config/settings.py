"""The configuration: every key, its type, its bounds and its default.

`Settings` is what the rest of the program reads; `config.load` makes one from a TOML file.
conf/gatepost.toml documents each key for operators; a test compares the two.
Units: durations are text (`24h`) in the file and whole seconds here; keys with `_ms` and `_bytes`
are milliseconds and octets.
"""

import re
from dataclasses import field
from datetime import date
from functools import cache
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Annotated, Literal

from gatepost_policy.config import notify_values
from gatepost_policy.config.field_lists import DEFAULT_KEEP, DEFAULT_REMOVE
from gatepost_policy.config.values import Before, Between, Like, Then, Value
from gatepost_policy.mail.address import canonical_domain
from gatepost_policy.mail.decision import Reason
from gatepost_policy.system.dataclass import dataclass
from gatepost_policy.system.socket_address import SocketAddress
from gatepost_policy.text.times import UNITS

LONGEST_S = 1_000 * UNITS["y"]  # a longer one before now would be no valid date (year 1 or later)


def duration(value: object) -> int:
    """Seconds of a text such as `"24h"` (86400). Raises ValueError saying what was wanted.

    A number without a unit is refused: "rows = 365" would be 365 seconds, not days, and would empty
    the store.
    """
    if isinstance(value, str):
        match = re.fullmatch(r"(\d{1,9})([smhdwy])", value.strip(), re.ASCII)
        if match:
            seconds = int(match.group(1)) * UNITS[match.group(2)]
            if seconds > LONGEST_S:
                raise ValueError('want a duration of at most "1000y"')
            return seconds
    raise ValueError('want a duration such as "90s", "24h" or "30d"')


def in_words(seconds: int) -> str:
    """86400 as `"1d"`, in the largest unit (d, h, m, s) that is exact; `duration` reads it back."""
    unit = next(u for u in ("d", "h", "m", "s") if seconds % UNITS[u] == 0)
    return f"{seconds // UNITS[unit]}{unit}"


def _network(value: object) -> object:
    if isinstance(value, IPv4Network | IPv6Network):
        return value
    if not isinstance(value, str):
        raise ValueError('want a network such as "192.0.2.0/24"')
    try:
        return ip_network(value, strict=True)
    except ValueError as error:
        raise ValueError(f'want a network such as "192.0.2.0/24": {error}') from None


def _listen(value: object) -> object:
    """A list of sockets; a single text is a list of one."""
    if isinstance(value, str):
        return (SocketAddress.parse(value),)
    if isinstance(value, list | tuple):
        return tuple(value)
    raise ValueError("want text in quotes, or a list of them")


def _maybe_listen(value: object) -> object:
    return () if value == "" else _listen(value)


def _socket_address(value: object) -> object:
    if isinstance(value, SocketAddress):
        return value
    if isinstance(value, str):
        return SocketAddress.parse(value)
    raise ValueError("want text in quotes")


def _socket(value: str) -> str:
    SocketAddress.parse(value)  # raises ValueError with what was wanted
    return value


def nameserver(value: str) -> tuple[str, int]:
    """`127.0.0.1:5353`, `[::1]:5353`, `127.0.0.1` or `::1` as (address, port).

    Raises ValueError saying what was wanted.
    """
    text = value.strip()
    match = re.fullmatch(r"\[([^\]]+)\](?::(\d{1,5}))?|([^:\[\]]+):(\d{1,5})|([^\[\]]+)", text)
    try:
        if match is None:
            raise ValueError("no resolver")
        port = int(match[2] or match[4] or 53)
        if not 0 < port < 65536:
            raise ValueError("no port")
        return str(ip_address(match[1] or match[3] or match[5])), port
    except ValueError:
        raise ValueError('want a resolver such as "127.0.0.1:5353" or "[::1]:5353"') from None


def _nameserver(value: str) -> str:
    nameserver(value)
    return value


Seconds = Annotated[int, Value(duration, in_words), Between(1)]
Network = Annotated[IPv4Network | IPv6Network, Value(_network, str)]
Domain = Annotated[str, Then(canonical_domain)]
Socket = Annotated[str, Then(_socket)]
Nameserver = Annotated[str, Then(_nameserver)]
Listener = Annotated[SocketAddress, Value(_socket_address, str)]
Listeners = Annotated[tuple[Listener, ...], Before(_listen)]
FileMode = Annotated[str, Like("0[0-7]{3}", '"0660"')]


@dataclass(frozen=True, kw_only=True)
class Milter:
    """[milter]"""

    engine: Literal["libmilter", "native"] = "libmilter"
    socket: Socket = "inet:8894@127.0.0.1"
    socket_mode: FileMode = "0660"
    socket_group: str = ""
    workers: Annotated[int, Between(0, 64)] = 0  # 0: one per core, 2 to 16
    pin_workers: bool = True
    on_error: Literal["accept", "tempfail", "reject"] = "accept"
    max_header_bytes: Annotated[int, Between(4096)] = 1_048_576
    max_header_fields: Annotated[int, Between(50)] = 5_000
    oversize: Literal["accept", "reject"] = "accept"
    drain: Seconds = 4


@dataclass(frozen=True, kw_only=True)
class Submission:
    """[submission]"""

    daemon_names: tuple[str, ...] = ("ORIGINATING",)
    second_pass_names: tuple[str, ...] = ()
    networks: tuple[Network, ...] = ()
    trusted_relays: tuple[Network, ...] = ()
    relay_logins: tuple[str, ...] = ()
    local: Literal["scrub", "leave"] = "scrub"
    own_received: Literal["milter", "mta", "proxy"] = "milter"
    mta_token: Annotated[str, Like("[A-Za-z0-9]*", '"Abc123" (letters and digits)')] = ""
    proxy_daemon_name: str = "HOP2"
    client_received: Literal["anonymise", "keep"] = "anonymise"
    remove: tuple[str, ...] = DEFAULT_REMOVE
    keep: tuple[str, ...] = DEFAULT_KEEP
    unknown_fields: Literal["keep", "drop"] = "keep"
    date: Literal["keep", "utc"] = "keep"
    message_id: Literal["keep", "mask-host"] = "keep"
    trace_keys: str = ""  # file of milterctl trace keygen; empty: no token


@dataclass(frozen=True, kw_only=True)
class Dkim:
    """[dkim]: what is verified, and limits for the work that a hostile signature can cause."""

    authserv_id: str = ""  # empty: the MTA's own name, macro {j}
    nameservers: tuple[Nameserver, ...] = ()  # empty: the system's resolvers
    lookup_timeout_ms: Annotated[int, Between(10, 60_000)] = 2_000
    message_timeout_ms: Annotated[int, Between(10, 120_000)] = 5_000
    max_lookups: Annotated[int, Between(1, 5_000)] = 200
    cache_entries: Annotated[int, Between(16)] = 10_000
    cache_bytes: Annotated[int, Between(65_536)] = 16_777_216
    cache_ttl_max: Seconds = 86_400
    cache_ttl_negative: Seconds = 300
    max_signatures: Annotated[int, Between(1, 100)] = 10
    max_signature_bytes: Annotated[int, Between(1024)] = 16_384
    max_signed_fields: Annotated[int, Between(10)] = 300
    max_key_bits: Annotated[int, Between(1024, 16_384)] = 8_192
    min_key_bits: Annotated[int, Between(512)] = 1_024
    max_exponent_bits: Annotated[int, Between(2, 64)] = 33
    max_record_bytes: Annotated[int, Between(512)] = 8_192
    clock_skew: Seconds = 300
    clock_ahead: Seconds = 36_000
    arc: bool = True
    arc_max_bytes: Annotated[int, Between(1024)] = 262_144


@dataclass(frozen=True, kw_only=True)
class Spf:
    """[spf]: the limits of its DNS look-ups are those of [dkim]."""

    check: bool = True


@dataclass(frozen=True, kw_only=True)
class Dmarc:
    """[dmarc]: the limits of its DNS look-ups are those of [dkim]."""

    check: bool = True


@dataclass(frozen=True, kw_only=True)
class Trap:
    """[trap]"""

    action: Literal["reject-after-data", "reject", "tempfail", "accept", "discard"] = (
        "reject-after-data"
    )
    mixed: Literal["deliver-rest", "reject"] = "deliver-rest"
    policy_answer: Literal["dunno", "reject"] = "dunno"
    capture: str = ""  # directory; empty: nothing is kept
    capture_max_files: Annotated[int, Between(1)] = 10_000
    capture_max_bytes: Annotated[int, Between(1_048_576)] = 1_073_741_824
    capture_max_message_bytes: Annotated[int, Between(1024)] = 52_428_800


PACKAGED = "@packaged"


@cache
def packaged_never_list() -> tuple[str, ...]:
    """The domains of never_list.txt: mail services whose domain stands for very many senders."""
    text = (Path(__file__).with_name("never_list.txt")).read_text("ascii")
    return tuple(line for line in text.split("\n") if line and not line.startswith("#"))


def _with_packaged(value: object) -> object:
    """Replace `@packaged` in a list by the shipped names."""
    if not isinstance(value, list | tuple):
        return value
    if PACKAGED not in value:
        return tuple(value)  # strict mode takes no list here, only a tuple
    others = [name for name in value if name != PACKAGED]
    return (*packaged_never_list(), *others)


@dataclass(frozen=True, kw_only=True)
class Sender:
    """[sender]: listings and repeat senders."""

    action: Literal["shadow", "tempfail", "reject", "tag"] = "shadow"
    listing_first: Seconds = 86_400
    listing_memory: Seconds = 90 * 86_400
    listing_max: Seconds = 7 * 86_400
    good_messages: Annotated[int, Between(1)] = 5
    good_window: Seconds = 30 * 86_400
    promotion: Literal["off", "shadow", "enforce"] = "shadow"
    excuses: Annotated[int, Between(0, 30)] = 2
    trap_ratio: Annotated[float, Between(0, 1)] = 0.05
    never_list: Annotated[tuple[Domain, ...], Before(_with_packaged)] = field(
        default_factory=packaged_never_list
    )
    own_domains: tuple[Domain, ...] = ()
    repeat_messages: Annotated[int, Between(2)] = 3
    repeat_span: Seconds = 30 * 86_400
    repeat_action: Literal["accept", "tag", "tempfail"] = "accept"
    tag_header: Annotated[
        str, Like("[A-Za-z0-9-]+", '"X-Gatepost" (letters, digits and dashes)')
    ] = "X-Gatepost"


@dataclass(frozen=True, kw_only=True)
class Policy:
    """[policy]: gatepost-policyd."""

    listen: Listeners = (SocketAddress("inet", "127.0.0.1", 10040),)
    timeout_ms: Annotated[int, Between(10)] = 2_000
    idle: Seconds = 300
    max_connections: Annotated[int, Between(1)] = 1_000
    max_request_bytes: Annotated[int, Between(4096)] = 65_536
    inet_verdicts: bool = False
    socket_mode: FileMode = "0660"


@dataclass(frozen=True, kw_only=True)
class Store:
    """[store]"""

    url: str = ""  # empty: SQLite in the state directory
    read_url: str = ""  # a replica for reports; empty: `url`
    journal: str = ""  # empty: `journal/` in the state directory
    journal_max_bytes: Annotated[int, Between(1_048_576)] = 1_073_741_824
    sync: Literal["process", "power"] = "process"
    submission: Literal["counts", "full"] = "counts"
    busy_ms: Annotated[int, Between(1)] = 5_000


@dataclass(frozen=True, kw_only=True)
class Retention:
    """[retention]: ages count from when gatepost learned of a message."""

    recipients: Seconds = 30 * 86_400  # of inbound mail without a trap
    addresses: Seconds = 90 * 86_400  # client addresses become prefixes
    rows: Seconds = 365 * 86_400  # rows become counts
    traps: Seconds = 20 * 365 * 86_400  # trap mail and its senders
    guesses: Seconds = 365 * 86_400  # recipients that do not exist, hosts that try logins
    every: Seconds = 3_600  # how often the recorder purges


@dataclass(frozen=True, kw_only=True)
class Log:
    """[log]: one line for each message, on stderr."""

    format: Literal["logfmt", "json"] = "logfmt"
    level: Literal["debug", "info", "warning", "error"] = "info"


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """[metrics]"""

    listen: Annotated[tuple[Listener, ...], Before(_maybe_listen)] = ()


Mailbox = Annotated[str, Then(notify_values.mailbox)]
Events = tuple[notify_values.Event, ...]


@dataclass(frozen=True, kw_only=True)
class Notify:
    """[notify]: of which events `milterctl notify` tells people, and how."""

    command: Annotated[tuple[str, ...], Then(notify_values.command)] = ()
    command_events: Events = ("own-user", "loss", "probe-failed")
    webhook: Annotated[str, Then(notify_values.webhook)] = ""
    webhook_events: Events = ("trap-hit", "sender-back", "own-user", "loss", "probe-failed")
    mail_to: tuple[Mailbox, ...] = ()
    mail_events: Events = ("sender-back", "own-user", "loss", "probe-failed", "digest")
    mail_from: Annotated[str, Then(notify_values.maybe_mailbox)] = ""
    smtp: Annotated[str, Then(notify_values.smtp)] = "inet:25@127.0.0.1"
    feed: Annotated[str, Then(notify_values.file)] = ""
    page: Annotated[str, Then(notify_values.page)] = ""
    digest: Annotated[str, Then(notify_values.hour)] = "06:00"
    gather: Seconds = 300
    again: Seconds = 3_600


@dataclass(frozen=True, kw_only=True)
class Rule:
    """[rules.REASON]"""

    mode: Literal["enforce", "shadow", "off"] = "enforce"
    owner: str = ""
    note: str = ""
    expires: date | None = None  # from this day on (UTC) the rule is back to "enforce"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole file: one attribute for each table."""

    milter: Milter = Milter()
    submission: Submission = Submission()
    dkim: Dkim = Dkim()
    spf: Spf = Spf()
    dmarc: Dmarc = Dmarc()
    trap: Trap = Trap()
    sender: Sender = Sender()
    policy: Policy = Policy()
    store: Store = Store()
    retention: Retention = Retention()
    log: Log = Log()
    metrics: Metrics = Metrics()
    notify: Notify = Notify()
    rules: dict[Reason, Rule] = field(default_factory=dict)
    # True for /etc/gatepost/gatepost.toml: paths that it does not name are the services' own,
    # whichever user runs the command.
    of_machine: bool = field(default=False, metadata={"key": False})
