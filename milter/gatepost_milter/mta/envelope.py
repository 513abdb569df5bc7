"""What the MTA knows of one SMTP session, and the macros and own Received that it makes from it.

Pure, except that it reads the clock where `Envelope.at` is None.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from ipaddress import IPv4Address, IPv6Address, ip_address

from gatepost_milter.mta.conversation import DEFAULT_MACROS, MilterSession
from gatepost_milter.mta.queue_file import Field
from gatepost_milter.protocol.peer import Peer
from gatepost_policy.mail.client_address import unmapped


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One SMTP session and transaction, as the MTA knows it.

    `client` is an address; None is an SMTP client on a unix socket. `local` is sendmail(1):
    127.0.0.1 with port 0, no HELO, paths without brackets. `rejected` are recipients that the
    MTA itself refuses (those not among `recipients` come first). `macros` are sent at MAIL, on
    top of those Postfix sends by default; one of a known name replaces its value, the value None
    takes the macro away.
    """

    client: str | None = "192.0.2.1"
    client_name: str | None = None  # verified host name
    reverse_name: str | None = None  # PTR name, perhaps forged
    port: int = 40000
    helo: str | bytes | None = "client.example"
    sender: str = "sender@example.org"
    sender_args: tuple[str, ...] = ()
    recipients: tuple[str, ...] = ("recipient@example.net",)
    rejected: tuple[str, ...] = ()
    login: str | None = None
    tls: str | None = None  # protocol, such as TLSv1.3
    daemon_name: str | None = None  # None: the MTA's host name, as in Postfix
    local: bool = False
    mta: str = "mx.example.net"
    version: str = "Postfix 3.7.11"
    queue_id: str | None = None  # None: a random one
    at: float | None = None  # Unix time of the own Received; None: now
    macros: Mapping[str, str | bytes | None] = field(default_factory=dict)


def peer(envelope: Envelope) -> Peer:
    """The client as Postfix tells a milter at connect."""
    if envelope.local:
        return Peer("localhost", "4", 0, "127.0.0.1")
    if envelope.client is None:
        return Peer("localhost", "U")
    address = _client_address(envelope.client)
    name = envelope.client_name or f"[{address}]"
    family = "6" if isinstance(address, IPv6Address) else "4"
    return Peer(name, family, envelope.port, str(address))


def _client_address(text: str) -> IPv4Address | IPv6Address:
    # smtpd_peer.c turns IPv4-mapped IPv6 into IPv4 before anybody sees it.
    return unmapped(ip_address(text))


def connection_macros(envelope: Envelope) -> dict[str, str | bytes]:
    """Every macro that is known once the client has said its name."""
    client = peer(envelope)
    name = envelope.reverse_name or envelope.client_name or "unknown"
    address = f"IPv6:{client.address}" if client.family == "6" else client.address or "unknown"
    if envelope.local or envelope.client is None:
        name = "localhost"
    values: dict[str, str | bytes] = {
        "j": envelope.mta,
        "v": envelope.version,
        "{daemon_name}": envelope.daemon_name or envelope.mta,
        "{daemon_addr}": "127.0.0.1" if ":" not in client.address else "::1",
        "_": f"{name} [{client.address or 'unknown'}]",
        "{client_addr}": address,
    }
    if name not in (envelope.client_name, "unknown", "localhost"):
        values["_"] = f"{values['_']!s} (may be forged)"
    if envelope.tls:
        values |= {"{tls_version}": envelope.tls, "{cipher}": "TLS_AES_256_GCM_SHA384"}
        values["{cipher_bits}"] = "256"
    return _overridden(values, envelope)


def mail_macros(milter: MilterSession, envelope: Envelope, queue_id: str) -> None:
    """Set the macros of a transaction; the queue id comes with the first good recipient."""
    values = connection_macros(envelope)
    sender = envelope.sender.strip("<>")
    values |= {
        "{mail_addr}": sender,
        "{mail_host}": sender.rpartition("@")[2],
        "{mail_mailer}": "smtp" if sender else "local",
    }
    if envelope.login is not None:
        values |= {"{auth_type}": "PLAIN", "{auth_authen}": envelope.login}
    if envelope.local:
        # pickup(8) hands over to cleanup(8), which has a queue id from the start.
        values["i"] = queue_id
    milter.values = _overridden(values, envelope)
    known = {name for names in DEFAULT_MACROS.values() for name in names}
    milter.extra = tuple(name for name in envelope.macros if name not in known)


def _overridden(values: dict[str, str | bytes], envelope: Envelope) -> dict[str, str | bytes]:
    for name, value in envelope.macros.items():
        if value is None:
            values.pop(name, None)
        else:
            values[name] = value
    return values


def own_received(envelope: Envelope, queue_id: str, recipients: tuple[str, ...]) -> Field:
    """The trace field smtpd(8) prepends (smtpd.c, "Received:"), with folding as LF and tab."""
    when = datetime.now(UTC) if envelope.at is None else datetime.fromtimestamp(envelope.at, UTC)
    date = format_datetime(when)
    by = f"by {envelope.mta} ({envelope.version.partition(' ')[0]})"
    if envelope.local:
        # pickup(8) names the user, not a client.
        by = by.removesuffix(")") + ", from userid 1000)"
        return Field(b"Received", f" {by}\n\tid {queue_id}; {date}".encode())
    client = peer(envelope)
    name = envelope.client_name or ("localhost" if envelope.client is None else "unknown")
    address = f"IPv6:{client.address}" if client.family == "6" else client.address or "unknown"
    helo = envelope.helo if envelope.helo is not None else "unknown"
    helo_text = helo.decode("utf-8", "surrogateescape") if isinstance(helo, bytes) else helo
    tls = ""
    if envelope.tls:
        tls = (
            f"\n\t(using {envelope.tls} with cipher TLS_AES_256_GCM_SHA384 (256/256 bits))"
            "\n\t(No client certificate requested)"
        )
    protocol = "ESMTP" + ("S" if envelope.tls else "") + ("A" if envelope.login else "")
    if "SMTPUTF8" in envelope.sender_args:
        protocol = "UTF8" + protocol.removeprefix("E")
    single = f"\n\tfor <{recipients[0].strip('<>')}>; " if len(recipients) == 1 else ";\n\t"
    text = (
        f" from {helo_text} ({name} [{address}]){tls}\n\t{by} with {protocol} id {queue_id}"
        f"{single}{date}"
    )
    return Field(b"Received", text.encode("utf-8", "surrogateescape"))
