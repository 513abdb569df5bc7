"""A DNS server for tests, on a loopback port of its own: UDP and TCP, and it may misbehave.

`answers` maps a name (lower-case, no end dot) to text, several texts, a list of strings for one
record (`Strings`), None (no such name), or a word: nodata, servfail, refused, silent, truncated
(whole over TCP), cut (truncated, and no TCP), loop, chain, garbage. A name that is missing does
not exist. `asked` counts queries by name.
"""

import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rrset

WORDS = frozenset(
    ("nodata", "servfail", "refused", "silent", "truncated", "cut", "loop", "chain", "garbage")
)
BIG = "v=DKIM1; p=" + "A" * 3000


class Strings(tuple[str, ...]):
    """One TXT record of several strings."""


class Server:
    """The server's state: what it answers, what it was asked."""

    def __init__(self, answers: Mapping[str, Any]) -> None:
        self.answers: dict[str, Any] = dict(answers)
        self.asked: Counter[str] = Counter()
        self.ttl = 300
        self.delay = 0.0
        self.edns = True  # False: as a server that has never heard of it (RFC 6891 7)
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def reply(self, wire: bytes, tcp: bool) -> bytes | None:
        query = dns.message.from_wire(wire)
        name = query.question[0].name
        text = name.to_text(omit_final_dot=True).lower()
        self.asked[text] += 1
        if self.delay:
            time.sleep(self.delay)
        if query.edns >= 0 and not self.edns:
            return wire[:2] + b"\x80\x01" + bytes(8)  # the header alone
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        answer = self.answers.get(text)
        if answer is None:
            response.set_rcode(dns.rcode.NXDOMAIN)
            answer = "nodata"
        if answer in ("nodata", "loop", "chain"):
            zone = dns.name.from_text("example.")
            soa = f"ns.example. root.example. 1 2 3 4 {self.ttl}"
            response.authority.append(dns.rrset.from_text(zone, self.ttl, "IN", "SOA", soa))
        if answer == "silent" or (answer == "cut" and tcp):
            return None
        if answer == "garbage":
            return wire[:2] + b"\x85\x80\0\1\0\1\0\0\0\0" + b"\xc0\x0c" * 9
        if answer == "servfail":
            response.set_rcode(dns.rcode.SERVFAIL)
        elif answer == "refused":
            response.set_rcode(dns.rcode.REFUSED)
        elif answer == "loop":
            other = dns.name.from_text("other.example.")
            for here, there in ((name, other), (other, name)):
                cname = dns.rrset.from_text(here, self.ttl, "IN", "CNAME", there.to_text())
                response.answer.append(cname)
        elif answer == "chain":
            target = "target.example."
            response.answer.append(dns.rrset.from_text(name, 60, "IN", "CNAME", target))
            response.answer.append(dns.rrset.from_text(target, self.ttl, "IN", "TXT", '"v=1"'))
        elif answer != "nodata":
            if answer in ("truncated", "cut"):
                if not tcp:
                    response.flags |= dns.flags.TC
                    return response.to_wire()
                answer = BIG
            records = answer if isinstance(answer, list) else [answer]
            texts = [_quoted(record) for record in records]
            response.answer.append(dns.rrset.from_text(name, self.ttl, "IN", "TXT", *texts))
        return response.to_wire(max_size=65535)


def _quoted(record: Any) -> str:
    strings = record if isinstance(record, Strings) else _pieces(record)
    return " ".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in strings)


def _pieces(text: str) -> list[str]:
    return [text[i : i + 255] for i in range(0, len(text), 255)] or [""]


class _Udp(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        wire, where = self.request
        answer = self.server.state.reply(wire, False)  # type: ignore[attr-defined]
        if answer is not None:
            where.sendto(answer, self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        size = self.rfile.read(2)
        if len(size) == 2:
            wire = self.rfile.read(struct.unpack("!H", size)[0])
            answer = self.server.state.reply(wire, True)  # type: ignore[attr-defined]
            if answer is not None:
                self.wfile.write(struct.pack("!H", len(answer)) + answer)


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = True


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


@contextmanager
def serving(answers: Mapping[str, Any]) -> Iterator[Server]:
    """Run a server with these answers for as long as the block lasts."""
    state = Server(answers)
    for _ in range(20):
        udp = _UdpServer(("127.0.0.1", 0), _Udp)
        state.port = udp.server_address[1]
        try:
            tcp = _TcpServer(("127.0.0.1", state.port), _Tcp)
            break
        except OSError:  # the TCP port of that number is taken
            udp.server_close()
    else:
        raise OSError("no port free for both UDP and TCP")
    servers: list[socketserver.BaseServer] = [udp, tcp]
    threads = [
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        for server in servers
    ]
    for server in servers:
        server.state = state  # type: ignore[attr-defined]
    for thread in threads:
        thread.start()
    try:
        yield state
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()


def silent_port() -> tuple[socket.socket, str]:
    """A UDP socket that never answers, and its address; close it afterwards."""
    quiet = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    quiet.bind(("127.0.0.1", 0))
    return quiet, f"127.0.0.1:{quiet.getsockname()[1]}"
