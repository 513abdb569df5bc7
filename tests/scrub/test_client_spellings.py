"""Spellings of a client's address, names and login out of which a reader makes the datum again.

And, as the counter-proof, what looks alike and is somebody else's.
"""

import base64
import hashlib
import time
from ipaddress import ip_address

import pytest

from gatepost_policy.scrub import mask_host
from gatepost_policy.scrub.client_words import ClientWords

IP = "203.0.113.77"
CLIENT = ClientWords.of(
    ip_address(IP), ("alice-laptop.lan", "dsl-77.isp.example"), "alice.p7@home.example",
    ("mx.example.net",),
)  # fmt: skip
V6 = ClientWords.of(ip_address("2001:db8:5:1::4d"), (), None)


def hashed(left: str) -> str:
    return hashlib.sha256(left.encode()).hexdigest()[:32]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize("value", [
    # So that nobody's program makes a link of it.
    "203.0.113[.]77", "203[.]0[.]113[.]77", "203.0.113(.)77", "203.0.113{.}77", "203.0.113[dot]77",
    "203 dot 0 dot 113 dot 77", "dsl-77.isp[.]example", "alice[.]p7[@]home[.]example",
    # Other signs between the numbers.
    "203 . 0 . 113 . 77", "203_0_113_77", "203,0,113,77", '{"ip":[203,0,113,77]}',
    '"203"."0"."113"."77"',
    # Glued to letters, turned round, other numbers.
    "ip203.0.113.77", "203.0.113.77x", "from203.0.113.77port", "77-113-0-203.dyn.example",
    "77.113.0.203.dyn.example", "203000113077", "0313.0.0161.0115", "0xcb.0x00.0x71.0x4d",
    "cb:00:71:4d", "CB 00 71 4D", "203.0.29005", "203.29005", "2002:cb00:714d::1",
    # Entities, escapes, pieces, one layer within another.
    "&#50;03.0.113.77", "203&period;0&#46;113&#x2e;77", "\\u0032\\u0030\\u0033.0.113.77",
    "\\x32\\x30\\x33.0.113.77", "ip*0=203.0; ip*1=.113.77", 'u*1=".p7"; u*0="alice"',
    "c*0*=utf-8''alice%2D; c*1*=laptop.lan", "203%252E0%252E113%252E77", b64(b64(IP)),
    "3230332e302e3131332e3737",
    # Letters, digits and hyphens of other scripts; what has no width.
    "２０３.0.113.77", "203．0．113．77", "203。0。113。77", "203.0\u200b.113.77",  # noqa: RUF001
    "203.0.113.\u00ad77", "alice\u2010laptop.lan", "alice\u2011laptop", "alice\u2013laptop",
    "alice\u2212laptop.lan", "ａｌｉｃｅ-laptop",  # noqa: RUF001
    # Other signs within a name, and what programs put before a login.
    "alice_laptop", "ALICE_LAPTOP.LAN", "bounce-alice.p7@lists.example", "owner-alice.p7",
    "alice.p7=home.example@lists.example", "alice_p7_at_home.example",
])  # fmt: skip
def test_told(value: str) -> None:
    assert CLIENT.told_by(value.encode())


@pytest.mark.parametrize("value", ["2001_db8_5_1__4d", "2001.db8.5.1.0.0.0.4d.isp.example",
                                   "2001[:]db8[:]5[:]1[::]4d", "addr2001:db8:5:1::4d",
                                   "2001:db8:5:1::4dport25", "2001 : db8 : 5 : 1 :: 4d",
                                   "D.4.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.5.0.0.0.8.B.D.0.1.0.0.2",
                                   str(int(ip_address("2001:db8:5:1::4d")))])  # fmt: skip
def test_told_of_ipv6(value: str) -> None:
    assert V6.told_by(value.encode())


@pytest.mark.parametrize("value", [
    "12001:db8:5:1::4d", "2001:db8:5:2::4d", "::4d", "a:2001:db8:5:1::4d0", "2001:db8:5:11::4d",
])  # fmt: skip
def test_somebody_elses_ipv6(value: str) -> None:
    assert not V6.told_by(value.encode())


@pytest.mark.parametrize("value", [
    "2001:db8:5:1::4e", "on [IPv6:2001:DB8:5:1:1c2d:3e4f:5a6b:7c8d]", "2001:db8:5:1::/64",
    "2001:0db8:0005:0001::99",
])  # fmt: skip
def test_another_address_of_the_clients_network(value: str) -> None:
    """A host has several in one /64: one that changes, with which it sends, and a fixed one."""
    assert V6.told_by(value.encode())
    inside = ClientWords.of(ip_address("fe80::1"), (), None)
    assert not inside.told_by(b"fe80::2")


@pytest.mark.parametrize("value", [
    "l\u00e4ptop.lan", "L\u00c4PTOP.LAN", "xn--lptop-gra.lan", "la\u0308ptop.lan", "by \u00c4lice7",
    "=?utf-8?q?=C3=A4LICE7?=",
])  # fmt: skip
def test_letters_outside_ascii(value: str) -> None:
    """In any case, and as DNS has them, whichever form the client gave."""
    for name in ("l\u00e4ptop.lan", "xn--lptop-gra.lan"):
        client = ClientWords.of(None, (name,), "\u00c4lice7")
        assert client.told_by(value.encode())
        assert not client.told_by("l\u00e4ptops.lan malice7".encode())


@pytest.mark.parametrize("value", [
    "203.0.113.7", "1203.0.113.77", "203.0.113.770", "203.0.113.77.5", "1.203.0.113.77",
    "203-0-113-778", "198.51.100[.]77", "77.113.0.203", "20300113077", "77 113 0 203 apples",
    "cb:00:71:4e", "203.0.29006", "ip*0=203.0; ip*1=.113.7", "malice-laptop", "palice-laptops",
    "my-alice-laptop.lan", "alice; laptop; lan", "alice laptop", "alice.p77@other.example",
    "malice.p7", "isp.example", "alice-laptops.example", "alice\u2011laptops", "&#50;03.0.113.7",
    "77:113:203:example", b64("203.0.113.7"), "bounce-malice.p7", "2002:cb00:714e::1",
    "alice-laptop.example",
])  # fmt: skip
def test_somebody_elses(value: str) -> None:
    assert not CLIENT.told_by(value.encode())


@pytest.mark.parametrize("name, value, comes", [
    ("message-id", "<bounce-alice.p7@example.org>", "<bounce-x@example.org>"),
    ("message-id", "<alice.p7.20261120@example.org>", "<x.20261120@example.org>"),
    ("message-id", "<alice-laptop.1@example.org>", "<x.1@example.org>"),
    ("message-id", '<"alice.p7"@example.org>', '<"x"@example.org>'),
    ("message-id", "1.alice-laptop.lan", "1.x"),
    ("message-id", "<1@example.org> (alice-laptop.lan)", "<1@example.org> (x)"),
    ("resent-message-id", "(203.0.113.77) <1@example.org>", "(x) <1@example.org>"),
    ("in-reply-to", "Your message of Friday on alice-laptop.lan", "Your message of Friday on x"),
    ("in-reply-to", "<1@a.example> from alice.p7", "<1@a.example> from x"),
    ("message-id", "<10.4.7.11@x.example>", f"<{hashed('10.4.7.11')}@x.example>"),
    ("message-id", "<1.192.168.0.9.squirrel@x.example>",
     f"<{hashed('1.192.168.0.9.squirrel')}@x.example>"),
    ("message-id", "<1.10.2.3.4@x.example>", "<1.10.2.3.4@x.example>"),
    ("references", "<1.192.168.0.9.squirrel@x.example>", "<1.192.168.0.9.squirrel@x.example>"),
    ("message-id", "<alice-laptop>", "<x>"), ("supersedes", "<1@alice-laptop.lan>", "<1@mx>"),
    ("obsoletes", "<1@desk.fritz.box>", "<1@mx>"),
    # An id of the client's own is masked as the message was that had it.
    ("references", "<1.203.0.113.77.a@x.example> <2@b.example>", "<1.x.a@x.example> <2@b.example>"),
    ("references", "<alice-laptop.lan.1@x.example>", "<x.1@x.example>"),
    ("references", "<alice.p7.1@alice-laptop.lan>", "<x.1@mx>"),
    ("in-reply-to", "Message from alice.p7@home.example <1@x.example>",
     "Message from x@home.example <1@x.example>"),
    # Other people's ids stay, and so does what says nothing of the client.
    ("in-reply-to", "<alice.p7.1@list.example>", "<alice.p7.1@list.example>"),
    ("references", "<alice-laptop.1> <2@bob-laptop.lan>", "<alice-laptop.1> <2@bob-laptop.lan>"),
    ("message-id", "<alice.p77.1@example.org>", "<alice.p77.1@example.org>"),
    ("message-id", "<QUJDREVGR0hJSktMTU5PUA==@example.org>",
     "<QUJDREVGR0hJSktMTU5PUA==@example.org>"),
])  # fmt: skip
def test_ids(name: str, value: str, comes: str) -> None:
    assert mask_host.mask_hosts(value.encode(), b"mx", name, CLIENT).decode() == comes
    assert (mask_host.telling(value.encode(), name, CLIENT) is None) is (value == comes)


def test_a_name_in_base64_within_an_id() -> None:
    """The same mask for the same id, and nothing of the name."""
    value = f"<{b64('alice-laptop.lan')}@example.org>".encode()
    once = mask_host.mask_hosts(value, b"mx", "message-id", CLIENT)
    assert once == mask_host.mask_hosts(value, b"mx", "message-id", CLIENT) != value
    assert not CLIENT.told_by(once)


PIECES = (b"203.0.113.", b"a*0=", b"\\u0032", b"[ . ", b" dot ", b"bounce-", b"&#1", b"%25", b"41",
          "\u2010".encode())  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_long_values_are_read_in_linear_time(piece: bytes) -> None:
    """Twice as much takes no four times as long."""

    def seconds(octets: int) -> float:
        value = piece * (octets // len(piece))
        start = time.process_time()
        CLIENT.told_by(value)
        return time.process_time() - start

    assert seconds(40_000) < 6 * seconds(20_000) + 0.05
