"""A real OpenDMARC behind a socket, with a DNS of its own: what it makes of our results.

`serving(programs, home, records)` runs one. It asks the resolver in /etc/resolv.conf and no other,
so it gets a mount namespace in which that file names `dns_server`.
"""

import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dns_server import DnsServer
from gatepost_milter.mta import client
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.wire import ProtocolError
from mta_unpack import Programs

AUTHSERV = "dmarc.example.net"  # what OpenDMARC calls itself
CONF = """\
AuthservID {own}
TrustedAuthservIDs {trusted}
RejectFailures false
SPFIgnoreResults true
SPFSelfValidate false
RequiredHeaders false
Syslog no
Background false
Socket {socket}
"""


@dataclass(frozen=True, slots=True)
class OpenDmarc:
    """One that runs. `socket` is where it listens, in libmilter's notation."""

    socket: str
    log: Path

    def session(self) -> client.Session:
        """A connection for any number of messages."""
        return client.Session(self.socket, Envelope(client="192.0.2.9", sender="x@evil.example"))


def verdict(session: client.Session, fields: bytes, author: str) -> str | None:
    """OpenDMARC's word (pass, fail, ...) for a message of `author` with these header fields."""
    message = fields + f"From: <service@{author}>\r\nSubject: x\r\n\r\nHello\r\n".encode()
    for edit in session.send(message).edits:
        text = edit.value or ""
        if edit.name.lower() == "authentication-results" and AUTHSERV in text:
            return text.partition("dmarc=")[2].split()[0].rstrip(";")
    return None


@contextmanager
def serving(
    programs: Programs, home: Path, records: Mapping[str, str], trusted: str, port: int = 0
) -> Iterator[OpenDmarc]:
    """Run OpenDMARC, which believes `trusted`, for as long as the block lasts: on TCP where a
    `port` is given, for an MTA; else on a unix socket, which answers sooner."""
    dns = DnsServer(records)
    local = home / "opendmarc.sock"
    theirs, ours = (f"inet:{port}@127.0.0.1",) * 2 if port else (f"local:{local}", f"unix:{local}")
    (home / "resolv.conf").write_text(f"nameserver {dns.address}\n")
    conf = home / "opendmarc.conf"
    conf.write_text(CONF.format(own=AUTHSERV, trusted=trusted, socket=theirs))
    program = programs.root / "usr/sbin/opendmarc"
    script = (
        f'mount --bind "{home}/resolv.conf" /etc/resolv.conf && exec "{program}" -f -c "{conf}"'
    )
    log = home / "opendmarc.log"
    with open(log, "ab") as out:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", script], stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, env=programs.environment(),
        )  # fmt: skip
    try:
        running = OpenDmarc(ours, log)
        _wait(running, process)
        yield running
    finally:
        process.terminate()
        process.wait(10)
        dns.stop()


def _wait(running: OpenDmarc, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 20
    while True:
        try:
            with running.session() as session:
                session.send(b"Subject: are you there\r\n\r\n")
            return
        except (OSError, ProtocolError):
            if process.poll() is not None or time.monotonic() > until:
                raise AssertionError(f"OpenDMARC: {running.log.read_text()}") from None
            time.sleep(0.05)
