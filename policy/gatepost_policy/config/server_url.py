"""The URL of a PostgreSQL server: libpq's notation and SQLAlchemy's, checked before it is used.

`postgresql://user:password@host1:5432,host2:5432/name?target_session_attrs=read-write` is libpq's
(PostgreSQL manual 34.1.1.2), `...@/name?host=host1:5432&host=host2:5432` SQLAlchemy's; both are
understood; the result is in the second.

Rule: no message of this module repeats the URL, or anything of it that may be part of a password.
"""

import re
from collections.abc import Callable
from ipaddress import ip_address
from urllib.parse import unquote, unquote_plus, urlencode

from gatepost_policy.system.dataclass import dataclass

LIBPQ = ("postgresql", "postgres")
SCHEMES = (*LIBPQ, "postgresql+psycopg")
# The options of libpq 13 to 18 (PostgreSQL manual 34.1.2). Any other name is refused as a mistake.
OPTIONS = frozenset(
    "host hostaddr port dbname user password passfile require_auth channel_binding connect_timeout"
    " client_encoding options application_name fallback_application_name keepalives keepalives_idle"
    " keepalives_interval keepalives_count tcp_user_timeout gssencmode sslmode sslnegotiation"
    " sslcompression sslcert sslkey sslkeylogfile sslpassword sslcertmode sslrootcert sslcrl"
    " sslcrldir sslsni requirepeer ssl_min_protocol_version ssl_max_protocol_version"
    " min_protocol_version max_protocol_version krbsrvname gsslib gssdelegation scram_client_key"
    " scram_server_key service servicefile target_session_attrs load_balance_hosts"
    " oauth_issuer oauth_client_id oauth_client_secret oauth_scope".split()
)
SECRETS = ("password", "sslpassword", "scram_client_key", "scram_server_key", "oauth_client_secret")
QUOTE = "in a user's name or a password / is written %2F, @ %40, # %23, ? %3F, % %25"


@dataclass(frozen=True, slots=True)
class ServerUrl:
    """The parts of a URL. `user`: as written, with its password; `hosts`: `host`, `host:port` or a
    socket's directory; `options`: (name, value) pairs."""

    user: str
    hosts: tuple[str, ...]
    database: str
    options: tuple[tuple[str, str], ...]

    def sqlalchemy(self) -> str:
        """As SQLAlchemy's psycopg dialect reads it."""
        at = f"{self.user}@" if self.user else ""
        one = self.hosts[0] if len(self.hosts) == 1 and not {*"/%"} & {*self.hosts[0]} else ""
        options = list(self.options)
        if self.hosts and not one:
            # In two lists: `host=[::1]:5432` and a socket's directory with a port are misread.
            split = [_split(host) for host in self.hosts]
            names = ",".join(name for name, _ in split)
            numbers = ",".join(port for _, port in split)
            ports = [("port", numbers)] if numbers.strip(",") else []
            options = [("host", names), *ports, *options]
        query = f"?{urlencode(options, safe='/:,')}" if options else ""
        return f"postgresql+psycopg://{at}{one}/{self.database}{query}"

    def shown(self) -> str:
        """For people: without password and options."""
        name = self.user.partition(":")[0]
        at = f"{name}@" if name else ""
        return f"postgresql://{at}{','.join(self.hosts)}/{self.database}"

    @property
    def has_secret(self) -> bool:
        """True where the URL holds a password or another secret."""
        return ":" in self.user or any(key in SECRETS for key, _ in self.options)


def parse(url: str) -> ServerUrl:
    """The parts of `url`. Raises ValueError; the text says what is wrong, without repeating the
    URL."""
    scheme, _, rest = url.partition("://")
    if "#" in rest or any(ord(c) <= 32 for c in rest):
        raise ValueError(f"got a URL with a # or a blank in it; {QUOTE}")
    place, _, query = rest.partition("?")
    authority, _, database = place.partition("/")
    if "@" in database:
        raise ValueError(f"got a URL with a / before its @; {QUOTE}")
    user, _, hosts = authority.rpartition("@")
    if "@" in user or "@" in query.partition("&")[0].partition("=")[0]:
        raise ValueError(f"got a URL with two @; {QUOTE}")
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise ValueError(f"got a URL with a % that begins no %XX; {QUOTE}")
    if "%00" in rest:
        # libpq reads its options up to a NUL: it would go to another server.
        raise ValueError("got a URL with %00 in it")
    if "/" in database:
        raise ValueError(
            "got a URL with more than one / behind the host; want .../DATABASE, "
            "in a database's name / is written %2F"
        )
    options = _options(query, unquote if scheme in LIBPQ else unquote_plus)
    named = [host for text in _all(options, "host") for host in text.split(",")]
    ports = [port for text in _all(options, "port") for port in text.split(",")]
    if hosts and named:
        raise ValueError("got a URL that names its hosts twice: before the database and in host=")
    places = [_host(unquote(h)) for h in hosts.split(",") if h]
    return ServerUrl(
        user,
        tuple(_with_ports(places or [_host(_bracketed(h)) for h in named], ports)),
        database,
        tuple((key, value) for key, value in options if key not in ("host", "port")),
    )


def _options(query: str, read: Callable[[str], str]) -> list[tuple[str, str]]:
    """The options; `read` decodes them: to libpq a + is a +, to SQLAlchemy a blank."""
    found: list[tuple[str, str]] = []
    for part in query.split("&") if query else ():
        key, equals, value = part.partition("=")
        if not equals:
            raise ValueError("got a URL whose part behind the ? is not name=value&name=value")
        found.append((read(key), read(value)))
    for key, _ in found:
        if key not in OPTIONS:
            from difflib import get_close_matches

            near = get_close_matches(key, OPTIONS, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; {QUOTE}"
            raise ValueError(f"got an option behind the ? that PostgreSQL does not know{hint}")
    return found


def _all(options: list[tuple[str, str]], name: str) -> list[str]:
    return [value for key, value in options if key == name and value]


# `host`, `[2001:db8::1]`, `[fe80::1%eth0]` or the directory of a socket; then a port.
_PLACE = re.compile(
    r"(/[^:]*|\[[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._~-]+)?\]|[A-Za-z0-9._-]+)(?::(.*))?", re.DOTALL
)


def _host(text: str) -> str:
    """`host`, `host:port`, `[2001:db8::1]:port` or `/directory:port`, as it is. Raises
    ValueError."""
    match = _PLACE.fullmatch(text)
    if match is None:
        raise ValueError(f"got a URL with a host that is none; {QUOTE}")
    name = match[1]
    labels = name.removesuffix(".").split(".")
    # RFC 1035 2.3.4; the resolver's own error for these is no error of a database.
    if name[0] not in "/[" and not (len(name) <= 254 and all(0 < len(x) < 64 for x in labels)):
        raise ValueError("got a URL with a host that is no name: a part is empty or too long")
    if name[0] == "[":
        try:
            ip_address(name[1:-1])
        except ValueError:
            raise ValueError("got a URL with a host in [ ] that is no IPv6 address") from None
    if match[2] is not None:
        _port(match[2])
    return text


def _bracketed(host: str) -> str:
    """A host of `host=`, where libpq has an IPv6 address without brackets and never a port."""
    try:
        return f"[{ip_address(host)}]" if ":" in host else host
    except ValueError:
        return host


def _split(host: str) -> tuple[str, str]:
    """(host as libpq's `host` has it, port or '')."""
    match = _PLACE.fullmatch(host)
    assert match is not None, "it was read by `_host`"
    return match[1].strip("[]"), match[2] or ""


def _port(text: str) -> None:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65_536:
        raise ValueError(f"got a URL with a port that is no number from 1 to 65535; {QUOTE}")


def _with_ports(hosts: list[str], ports: list[str]) -> list[str]:
    """libpq's `port=5432,5433`: one for each host, or one for all (manual 34.1.1.3)."""
    if not ports:
        return hosts
    for port in ports:
        if port or len(ports) > 1:  # an empty one is the default: libpq
            _port(port or "5432")
    if len(ports) == 1:
        ports = ports * max(1, len(hosts))
    if not hosts:
        hosts = ["localhost"]
    if len(ports) != len(hosts):
        raise ValueError(f"got {len(hosts)} hosts and {len(ports)} ports; want one for each")
    return [
        host if _split(host)[1] or not port else f"{host}:{port}"
        for host, port in zip(hosts, ports, strict=True)
    ]
