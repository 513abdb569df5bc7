"""Milter packets on a socket, from the MTA's side: bytes in, bytes out.

The shapes of commands and replies are miltertest's tables. Its own encoder handles only UTF-8
text, and mail is bytes, so packing and unpacking are done here. Writes are gathered and sent when
an answer is needed: a message costs few system calls, as it does in Postfix.
"""

import struct
from typing import Any

from miltertest import codec, constants

from gatepost_policy.system import sockets
from gatepost_policy.system.socket_address import SocketAddress

# libmilter refuses larger packets; Postfix never sends them (MILTER_CHUNK_SIZE).
CHUNK_BYTES = 65535
# A milter's answer is a header edit or a reply: one that claims more than this is broken.
MAX_ANSWER_BYTES = 64 * 1024 * 1024
FLUSH_BYTES = 256 * 1024


class ProtocolError(Exception):
    """The peer broke the milter protocol, went away, or could not be reached."""


def pack(command: str, **fields: Any) -> bytes:
    """One packet. Text may be str (UTF-8, surrogates for raw bytes) or bytes."""
    body = b"".join(_encode(kind, fields[name]) for name, kind in codec.codec[command])
    return struct.pack("!Lc", len(body) + 1, command.encode("ascii")) + body


def unpack(command: str, body: bytes) -> dict[str, Any]:
    """The fields of an answer, strings as bytes. Raises ProtocolError."""
    if command not in codec.codec:
        raise ProtocolError(f"unknown milter answer {command!r}")
    fields: dict[str, Any] = {}
    try:
        for name, kind in codec.codec[command]:
            fields[name], body = _decode(kind, body)
    except (struct.error, ValueError) as error:
        raise ProtocolError(f"milter answer {command!r} is cut short: {error}") from None
    if body:
        raise ProtocolError(f"milter answer {command!r} carries {len(body)} octets too many")
    return fields


def octets(text: str | bytes) -> bytes:
    """`text` as bytes; surrogates stand for the raw bytes they were made from."""
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")


def _string(value: str | bytes) -> bytes:
    # A NUL ends the string in the packet: what follows would be read as the next string.
    return octets(value).partition(b"\0")[0] + b"\0"


def _encode(kind: str, value: Any) -> bytes:
    if kind in ("strs", "strpairs"):
        return b"".join(_string(v) for v in value)
    if kind == "str":
        return _string(value)
    if kind == "u16":
        return struct.pack("!H", value)
    if kind == "u32":
        return struct.pack("!L", value)
    return octets(value)  # buf, char, char3


def _decode(kind: str, body: bytes) -> tuple[Any, bytes]:
    if kind == "u32":
        return struct.unpack_from("!L", body)[0], body[4:]
    if kind == "str":
        end = body.index(b"\0")
        return body[:end], body[end + 1 :]
    if kind in ("strs", "strpairs"):
        return tuple(body.split(b"\0")[:-1]), b""
    if kind == "char":
        return body[:1], body[1:]
    if kind == "char3":
        return body[:3], body[3:]
    return body, b""  # buf


class Wire:
    """A connected stream of packets. `timeout` is seconds for each read and write."""

    def __init__(self, address: SocketAddress, timeout: float = 300.0) -> None:
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._buffer = bytearray()
        try:
            self._socket = sockets.connect(address, timeout)
        except OSError as error:
            raise ProtocolError(f"{address}: {error.strerror or error}") from None

    def send(self, packet: bytes) -> None:
        """Queue `packet`; it is sent at the next `receive`, or when FLUSH_BYTES have gathered.
        Raises ProtocolError where the peer has gone."""
        self._pending.append(packet)
        self._pending_bytes += len(packet)
        if self._pending_bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is queued. Raises ProtocolError where the peer has gone."""
        data, self._pending, self._pending_bytes = b"".join(self._pending), [], 0
        if data:
            try:
                self._socket.sendall(data)
            except OSError as error:
                raise ProtocolError(f"milter went away: {error.strerror or error}") from None

    def receive(self) -> tuple[str, bytes]:
        """The next answer, (command, payload); SMFIR_PROGRESS is skipped. Raises ProtocolError."""
        self.flush()
        while True:
            (size,) = struct.unpack("!L", self._take(4))
            if not 0 < size <= MAX_ANSWER_BYTES:
                raise ProtocolError(f"milter answer of {size} octets")
            body = self._take(size)
            command = chr(body[0])
            if command != constants.SMFIR_PROGRESS:
                return command, body[1:]

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                data = self._socket.recv(65536)
            except TimeoutError:
                raise ProtocolError("milter did not answer in time") from None
            except OSError as error:
                raise ProtocolError(f"milter went away: {error.strerror or error}") from None
            if not data:
                raise ProtocolError("milter closed the connection")
            self._buffer += data
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken

    def close(self) -> None:
        """Close the socket. What is queued is not sent."""
        self._socket.close()
