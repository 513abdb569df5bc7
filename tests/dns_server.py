"""A small DNS server for one test: TXT records given as a mapping, every other name NXDOMAIN.

Listens on UDP and TCP of a loopback address of its own, port 53, because a resolver knows no other.
"""

import secrets
import socketserver
import struct
import threading
from collections.abc import Mapping

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset


def answer(wire: bytes, records: Mapping[str, str]) -> bytes:
    """The response to one query, in wire form."""
    query = dns.message.from_wire(wire)
    response = dns.message.make_response(query)
    response.flags |= dns.flags.AA | dns.flags.RA
    question = query.question[0]
    text = records.get(question.name.to_text().lower().rstrip("."))
    if text is None:
        response.set_rcode(dns.rcode.NXDOMAIN)
    elif question.rdtype == dns.rdatatype.TXT:
        parts = " ".join(f'"{text[i : i + 250]}"' for i in range(0, len(text), 250))
        response.answer.append(dns.rrset.from_text(question.name, 60, "IN", "TXT", parts))
    return response.to_wire()


class _UdpServer(socketserver.ThreadingUDPServer):
    daemon_threads = allow_reuse_address = True
    records: Mapping[str, str]


class _TcpServer(socketserver.ThreadingTCPServer):
    daemon_threads = allow_reuse_address = True
    records: Mapping[str, str]


class _Udp(socketserver.BaseRequestHandler):
    server: _UdpServer

    def handle(self) -> None:
        data, sock = self.request
        wire = answer(data, self.server.records)
        if len(wire) > 1200:
            query = dns.message.from_wire(data)
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            wire = short.to_wire()
        sock.sendto(wire, self.client_address)


class _Tcp(socketserver.StreamRequestHandler):
    server: _TcpServer

    def handle(self) -> None:
        head = self.rfile.read(2)
        if len(head) == 2:
            data = self.rfile.read(struct.unpack("!H", head)[0])
            wire = answer(data, self.server.records)
            self.wfile.write(struct.pack("!H", len(wire)) + wire)


class DnsServer:
    """Answers from `records` until `stop`. Raises OSError where the port cannot be had."""

    def __init__(self, records: Mapping[str, str]) -> None:
        # An address of its own: two test runs on one machine are in nobody's way.
        self.address = address = f"127.53.{secrets.randbelow(256)}.{secrets.randbelow(254) + 1}"
        self.servers: tuple[_UdpServer | _TcpServer, ...] = (
            _UdpServer((address, 53), _Udp), _TcpServer((address, 53), _Tcp),
        )  # fmt: skip
        for server in self.servers:
            server.records = records
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()
