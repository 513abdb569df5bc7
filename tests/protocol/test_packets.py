"""Packets: octets in, packets or one exception out, however they are cut."""

import struct
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost_milter.protocol import constants as c
from gatepost_milter.protocol import packets
from gatepost_milter.protocol.negotiation import Offer
from gatepost_milter.protocol.packets import (
    BODY_PIECE,
    MAX_PACKET,
    Decoder,
    Packet,
    ProtocolError,
    packet,
)
from gatepost_milter.protocol.peer import Peer

TEXT = st.binary(max_size=40).map(lambda b: b.replace(b"\0", b"."))
COMMANDS = st.one_of(
    st.tuples(st.sampled_from(sorted(b"ACDEHKMNOQRTU")), st.binary(max_size=60)),
    st.tuples(st.just(c.SMFIC_BODY), st.binary(min_size=1, max_size=300)),
    st.tuples(
        st.just(c.SMFIC_HEADER),
        st.tuples(TEXT.filter(bool), TEXT).map(lambda f: f[0] + b"\0" + f[1] + b"\0"),
    ),
)


def decoded(pieces: Iterable[bytes]) -> list[Packet]:
    """What comes of `pieces`, with rows of fields and pieces of bodies put together."""
    decoder = Decoder()
    out: list[Packet] = []
    body = b""
    for piece in pieces:
        for command, payload in decoder.feed(piece):
            if isinstance(payload, list):
                out += [(command, [field]) for field in payload]
            elif command == BODY_PIECE:
                body += payload
            elif command == c.SMFIC_BODY:
                out.append((command, body + payload))
                body = b""
            else:
                out.append((command, payload))
    return out


@given(st.lists(COMMANDS, max_size=12), st.data())
def test_cut_anywhere(commands: list[tuple[int, bytes]], data: st.DataObject) -> None:
    """Whole, octet by octet, or cut at random: the same packets."""
    octets = b"".join(packet(command, payload) for command, payload in commands)
    want: list[Packet] = []
    for command, payload in commands:
        if command == c.SMFIC_HEADER:
            name, value, _ = payload.split(b"\0")
            want.append((command, [(name, value)]))
        else:
            want.append((command, payload))
    cuts = data.draw(st.lists(st.integers(0, len(octets)), max_size=8).map(sorted))
    random = [octets[a:b] for a, b in zip([0, *cuts], [*cuts, len(octets)], strict=True)]
    for pieces in ([octets], [octets[i : i + 1] for i in range(len(octets))], random):
        assert decoded(pieces) == want


PAYLOADS = st.lists(
    st.lists(st.sampled_from([b"\0", b"L", b"a", b"\0\0\0\5L"]), max_size=12).map(b"".join),
    min_size=1,
    max_size=8,
)


@given(PAYLOADS)
def test_a_row_at_once_is_as_one_by_one(payloads: list[bytes]) -> None:
    """Payloads full of NULs and of what looks like the next packet."""
    row = b"".join(packet(c.SMFIC_HEADER, payload) for payload in payloads)
    want: list[Packet] | type[ProtocolError]
    try:
        want = [(c.SMFIC_HEADER, [field]) for field in packets._fields(row)]
    except ProtocolError:
        want = ProtocolError
    try:
        got: list[Packet] | type[ProtocolError] = decoded([row])
    except ProtocolError:
        got = ProtocolError
    assert got == want


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_anything(pieces: list[bytes]) -> None:
    """Packets or ProtocolError, never another exception."""
    try:
        found = decoded(pieces)
    except ProtocolError:
        return
    for command, payload in found:
        for read in (packets.strings, packets.read_offer, packets.read_peer):
            try:
                if isinstance(payload, bytes):
                    read(payload)
            except ProtocolError:
                continue
        assert 0 <= command < 256


@pytest.mark.parametrize(
    "octets",
    [b"\0\0\0\0", struct.pack("!I", MAX_PACKET + 1) + b"M", b"\xff\xff\xff\xffO",
     packet(c.SMFIC_HEADER), packet(c.SMFIC_HEADER, b"Subject"),
     packet(c.SMFIC_HEADER, b"Subject\0"), packet(c.SMFIC_HEADER, b"Subject\0x")],
)  # fmt: skip
def test_no_packet(octets: bytes) -> None:
    """A length that is none, a field without its end."""
    with pytest.raises(ProtocolError):
        decoded([octets + b"\0" * 8])


def test_odd_fields() -> None:
    """As libmilter reads them: a value ends with its first NUL; a name may be anything else."""
    odd = [b"A\0\0", b"\0x\0y\0", b"A\0b\0c\0", b"B \0 folded\n\tvalue\0"]
    got = decoded([b"".join(packet(c.SMFIC_HEADER, payload) for payload in odd)])
    assert [payload for _, payload in got] == [
        [(b"A", b"")], [(b"\0x", b"y")], [(b"A", b"b")], [(b"B ", b" folded\n\tvalue")],
    ]  # fmt: skip


def test_a_long_body_is_never_kept() -> None:
    """Its octets go on as they come, whatever length the packet claims."""
    decoder = Decoder()
    assert list(decoder.feed(struct.pack("!IB", 4_000_000_001, c.SMFIC_BODY))) == []
    for _ in range(3):
        assert list(decoder.feed(b"x" * 1000)) == [(BODY_PIECE, b"x" * 1000)]


def test_a_slow_packet_is_copied_once() -> None:
    """A megabyte that comes octet by octet costs a megabyte, not its square."""
    decoder = Decoder()
    octets = packet(c.SMFIC_UNKNOWN, b"x" * (MAX_PACKET - 1))
    found: list[Packet] = []
    for octet in octets:
        found += decoder.feed(bytes([octet]))
    assert found == [(c.SMFIC_UNKNOWN, b"x" * (MAX_PACKET - 1))]


@pytest.mark.parametrize(
    ("payload", "want"),
    [
        (b"mail.example\x004\x11\x5c192.0.2.1\0", Peer("mail.example", "4", 4444, "192.0.2.1")),
        (b"x\x006\0\x19IPv6:2001:db8::1\0", Peer("x", "6", 25, "IPv6:2001:db8::1")),
        (b"localhost\0L\0\0/run/x\0", Peer("localhost", "L", 0, "/run/x")),
        (b"localhost\0U", Peer("localhost", "U")),
        (b"\xff\0U", Peer("\ufffd", "U")),
        (b"x", None),
        (b"x\0", None),
        (b"x\x004\0", None),
        (b"x\x004\0\x19192.0.2.1", None),
        (b"x\0?\0\x19192.0.2.1\0", None),
    ],
)
def test_peers(payload: bytes, want: Peer | None) -> None:
    """Families, and announcements that are cut short."""
    if want is None:
        with pytest.raises(ProtocolError):
            packets.read_peer(payload)
    else:
        assert packets.read_peer(payload) == want


@pytest.mark.parametrize(
    ("offer", "want"),
    [
        ((6, 0x1FF, 0x1FFFFF), (6, Offer(0x1FF, 0x1FFFFF))),
        ((9, 1, 2), (6, Offer(1, 2))),
        ((2, 0, 0), (2, Offer(0xF, 0x7F))),
        ((1, 1, 1), None),
    ],
)
def test_offers(offer: tuple[int, int, int], want: tuple[int, Offer] | None) -> None:
    """Versions 2 to 6; nothing offered means what the first version could do."""
    payload = struct.pack("!III", *offer)
    if want is None:
        with pytest.raises(ProtocolError):
            packets.read_offer(payload)
    else:
        assert packets.read_offer(payload) == want
