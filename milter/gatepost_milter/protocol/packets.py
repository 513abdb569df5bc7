"""Milter packets: decode those of the MTA, encode ours. No socket; the only error: ProtocolError.

A packet is a length of four octets (network order), a command, and length - 1 octets of payload;
strings end with NUL. `Decoder` is fed with the octets read, which may end anywhere in a packet.
"""

import re
from collections.abc import Iterator
from struct import Struct, pack

from gatepost_milter.protocol.constants import (
    SMFIC_BODY,
    SMFIC_HEADER,
    SMFIC_OPTNEG,
    SMFIR_CHGHEADER,
    SMFIR_DELRCPT,
    SMFIR_INSHEADER,
    SMFIR_REPLYCODE,
)
from gatepost_milter.protocol.negotiation import Offer
from gatepost_milter.protocol.peer import UNKNOWN, Peer

# libmilter takes 64 kB; Postfix sends a field of 100 kB in one packet where it is told to.
MAX_PACKET = 1_048_576
VERSION, OLDEST_VERSION = 6, 2
# What the first milter version could do (SMFI_V1_ACTS, SMFI_V1_PROT): an offer of 0 means these.
V1 = Offer(0xF, 0x7F)
# A piece of a body packet whose end has not come yet.
BODY_PIECE = 0x62

# Packets that are not taken one by one and whole.
_APART = frozenset((SMFIC_HEADER, SMFIC_BODY))

Field = tuple[bytes, bytes]
Packet = tuple[int, bytes | list[Field]]

_LENGTH = Struct("!I").unpack_from
_PORT = Struct("!H").unpack_from
_HEAD = Struct("!IB").pack
_HEAD_OF = Struct("!IB").unpack_from
_INDEXED = Struct("!IBI").pack
_OPTIONS = Struct("!IBIII").pack
_OFFER = Struct("!III").unpack_from
# The header packets of a row: length, all that it counts (command, name, NUL, value, NUL), name,
# value; no string holds a NUL. The last match may be the rest of the data, with nothing in it.
_FIELDS = re.compile(rb"(.{4})(L([^\0]++)\0([^\0]*+)\0)|.+", re.S).findall


class ProtocolError(Exception):
    """The other side broke the protocol: the connection must be closed. The text holds no data
    that was sent."""


class Decoder:
    """Decodes the MTA's packets. Take all that `feed` yields before you call it again."""

    __slots__ = ("_body_left", "_need", "_rest")

    def __init__(self) -> None:
        self._rest: bytearray = bytearray()
        self._need = 0  # how long `_rest` must be before the next packet can be decoded
        self._body_left = 0  # octets of a body packet that have not come yet

    def feed(self, data: bytes) -> Iterator[Packet]:
        """Yield (command, payload) for each packet that `data` completes.

        Header packets in a row are yielded as one, its payload the list of fields. A body packet
        is not waited for to its end: its parts are yielded as BODY_PIECE, the last as SMFIC_BODY.
        Raises ProtocolError.
        """
        rest = self._rest
        if rest:
            rest += data
            if len(rest) < self._need:
                return
            data = bytes(rest)
            self._rest = bytearray()
        at, size = 0, len(data)
        while True:
            if self._body_left:
                stop = min(at + self._body_left, size)
                if stop > at:
                    self._body_left -= stop - at
                    whole = not self._body_left
                    yield SMFIC_BODY if whole else BODY_PIECE, data[at:stop]
                    at = stop
                if self._body_left:
                    return
            # Most packets are short and all there: they take the inner loop.
            while size - at >= 5:
                length, command = _HEAD_OF(data, at)
                end = at + 4 + length
                if command in _APART or end > size or not 0 < length <= MAX_PACKET:
                    break
                yield command, data[at + 5 : end]
                at = end
            else:
                self._need = 5
                break
            if command == SMFIC_BODY and length > 1:
                self._body_left = length - 1
                at += 5
                continue
            if not 0 < length <= MAX_PACKET:
                raise ProtocolError(f"a packet of {length} octets")
            if end > size:
                self._need = end - at
                break
            if command == SMFIC_HEADER:
                row, end_of_row = _row(data, at)
                if row:
                    yield SMFIC_HEADER, row
                    at = end_of_row
                    continue
                start = at
                while command == SMFIC_HEADER and 0 < length <= MAX_PACKET and end <= size:
                    at = end
                    if size - at < 5:
                        break
                    length, command = _HEAD_OF(data, at)
                    end = at + 4 + length
                yield SMFIC_HEADER, _fields(data[start:at])
                continue
            yield command, data[at + 5 : end]
            at = end
        if at < size:
            self._rest = bytearray(data[at:])


def _row(data: bytes, at: int) -> tuple[list[Field], int]:
    """The fields of the complete header packets in a row from `at` on, and where they end. None
    where one of them is not made as usual: `_fields` looks closer."""
    found = _FIELDS(data, at)
    if not found[-1][1]:
        found.pop()
        if not found:
            return [], at
    lengths, counted, names, values = zip(*found, strict=True)
    # Every packet's own length must say the same.
    sizes = [*map(len, counted)]
    if max(sizes) > MAX_PACKET or pack(f"!{len(sizes)}I", *sizes) != b"".join(lengths):
        return [], at
    return [*zip(names, values, strict=True)], at + sum(sizes) + 4 * len(sizes)


def _fields(block: bytes) -> list[Field]:
    """The fields of a row of header packets. Raises ProtocolError."""
    found: list[Field] = []
    at = 0
    while at < len(block):
        end = at + 4 + _LENGTH(block, at)[0]
        payload = block[at + 5 : end]
        # As libmilter: a name, a value (up to its first NUL), and a NUL at the very end.
        nul = payload.find(b"\0", 1)
        if payload[-1:] != b"\0" or nul < 0 or nul >= len(payload) - 1:
            raise ProtocolError("a header field without its end")
        found.append((payload[:nul], payload[nul + 1 :].partition(b"\0")[0]))
        at = end
    return found


def strings(payload: bytes) -> list[bytes]:
    """The NUL-terminated strings of a payload; octets after the last NUL are ignored.
    Raises ProtocolError where there is no NUL."""
    found = payload.split(b"\0")
    if len(found) < 2:
        raise ProtocolError("a string without its end")
    return found[:-1]


def read_offer(payload: bytes) -> tuple[int, Offer]:
    """(version, offer) of SMFIC_OPTNEG. Raises ProtocolError."""
    if len(payload) < 12:
        raise ProtocolError("an offer that is too short")
    version, actions, steps = _OFFER(payload)
    if version < OLDEST_VERSION:
        raise ProtocolError(f"protocol version {version}: want {OLDEST_VERSION} or later")
    return min(version, VERSION), Offer(actions or V1.actions, steps or V1.steps)


def read_peer(payload: bytes) -> Peer:
    """The client of SMFIC_CONNECT. Raises ProtocolError."""
    name, nul, rest = payload.partition(b"\0")
    family = rest[:1].decode("latin-1")
    if not nul or not rest:
        raise ProtocolError("a connection without an address family")
    host = name.decode("utf-8", "replace")
    if family == UNKNOWN:
        return Peer(host, UNKNOWN)
    if family not in ("4", "6", "L") or len(rest) < 4 or rest[-1:] != b"\0":
        raise ProtocolError("a connection from nowhere")
    address = rest[3:].partition(b"\0")[0].decode("utf-8", "replace")
    return Peer(host, family, _PORT(rest, 1)[0], address)


def packet(command: int, payload: bytes = b"") -> bytes:
    """One packet: `command` is the octet after the length."""
    return _HEAD(len(payload) + 1, command) + payload


def agreement(version: int, agreed: Offer) -> bytes:
    """What was agreed on, as the answer to SMFIC_OPTNEG."""
    return _OPTIONS(13, SMFIC_OPTNEG, version, agreed.actions, agreed.steps)


def insert_header(index: int, name: str, value: str) -> bytes:
    """A field before the one that is number `index` of the whole header. Raises UnicodeError."""
    return _indexed(SMFIR_INSHEADER, index, name, value)


def change_header(index: int, name: str, value: str) -> bytes:
    """Another value for field number `index` (from 1) of this name; an empty one deletes it.
    Raises UnicodeError."""
    return _indexed(SMFIR_CHGHEADER, index, name, value)


def _indexed(command: int, index: int, name: str, value: str) -> bytes:
    data = name.encode() + b"\0" + value.encode() + b"\0"
    return _INDEXED(len(data) + 5, command, index) + data


def delete_recipient(recipient: str) -> bytes:
    """Remove `recipient`, written as it was sent at RCPT."""
    return packet(SMFIR_DELRCPT, recipient.encode("utf-8", "surrogateescape") + b"\0")


def reply(text: str) -> bytes:
    """A reply line for the client. Raises UnicodeError."""
    return packet(SMFIR_REPLYCODE, text.encode("ascii") + b"\0")
