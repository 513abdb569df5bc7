"""The words that name a client, found as whole words in whatever spelling; message ids masked."""

import base64
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatepost_policy.scrub import mask_host
from gatepost_policy.scrub.client_words import NOBODY, ClientWords

CLIENT = ClientWords.of(
    ip_address("2001:db8::4d"), ("Alice-Laptop.lan.", "[192.168.7.7]", "mx.example.net"), "alice7",
    ("mx.example.net", "example.org"),
)  # fmt: skip


@pytest.mark.parametrize("value", [
    b"2001:db8::4d", b"[2001:DB8:0::4D]", b"x=IPv6:2001:0db8:0:0:0:0:0:4d;", b"192.168.7.7",
    b"(192.168.7.7)", b"by ALICE-LAPTOP.LAN ", b"x.alice-laptop.lan", b"alice7@example.net",
    b"<alice7>", b"a\n\talice7", b"192.168.7.7:52012", b"ip:192.168.7.7", b"a:b:192.168.7.7",
    b"::ffff:192.168.7.7", b"on_alice-laptop.lan_1",
])  # fmt: skip
def test_found(value: bytes) -> None:
    assert CLIENT.within(value)
    assert not CLIENT.within(CLIENT.without(value)), CLIENT.without(value)


@pytest.mark.parametrize("value", [
    b"2001:db8:0:1::4d", b"2001:db8:4::4d", b"192.168.7.70", b"1.192.168.7.7", b"alice-laptop.lanx",
    b"my-alice-laptop.lan", b"alice77", b"malice7", b"mx.example.net", b"localhost", b"",
])  # fmt: skip
def test_not_found(value: bytes) -> None:
    assert not CLIENT.within(value)
    if value != b"1.192.168.7.7":  # between the dots of an id an address is one
        assert CLIENT.without(value) == value


@pytest.mark.parametrize("value", [
    b"=?utf-8?b?b24gQWxpY2UtTGFwdG9wLmxhbg==?=", b"=?utf-8?Q?on=20alice7?=",
    b"=?utf-8?q?alice-?= =?utf-8?q?laptop=2Elan?=", b"imap://alice%37@mx/", b"?ip=192%2E168.7.7",
    b"alice-laptop.\r\n\tlan", b"on ALICE-LAPTOP now", b"alice-laptop.", b"alice-laptop.local",
    b"=?utf-8*en?q?on_alice-laptop?=", b"=?utf-16?b?YQBsAGkAYwBlADcA?=", b"al\\ice7",
    b"id=YWxpY2U3",
    b"x; bG9naW4gYWxpY2U3IGF0IHdvcms.", b"c0a80707", b"0xC0A80707", b"3232237319",
    b"dsl-192-168-7-7.isp.example", b"7.7.168.192.in-addr.arpa", b"192.168.007.007",
    b"v_192.168.7.7",
    b"64:ff9b::c0a8:707", b"2001:db8::4d:55012", b"2001-db8-0-0-0-0-0-4d.dyn.isp.example",
    b"20010db800000000000000000000004d",
])  # fmt: skip
def test_told_by_what_a_reader_undoes(value: bytes) -> None:
    assert CLIENT.told_by(value)


def test_no_word_is_found_in_what_is_no_text() -> None:
    """A signature in base64 holds any short word somewhere."""
    words = ClientWords.of(None, ("pc",), None)
    noise = b"".join(bytes((n, 0xFF)) + b"-pc-" for n in range(0x80, 0x90))
    assert not words.told_by(b"sig=" + base64.b64encode(noise))
    assert words.told_by(b"on=" + base64.b64encode(b"made on pc at home"))


def test_a_login_without_its_domain() -> None:
    """Not where it is a word of everybody's language; nor is a machine's name then."""
    words = ClientWords.of(None, ("www.home.example",), "alice.p@home.example")
    assert words.told_by(b"by alice.p") and words.told_by(b"by Alice.P@elsewhere.example")
    assert not words.told_by(b"by malice.p") and not words.told_by(b"see www.example.net")
    assert not ClientWords.of(None, (), "info@home.example").told_by(b"info")
    assert not CLIENT.told_by(b"alice-laptop.lancaster.example")
    assert not NOBODY.told_by(b"=?utf-8?b?!!!?= %zz \n x")


@given(value=st.binary(max_size=80))
def test_any_value_is_read(value: bytes) -> None:
    assert CLIENT.told_by(value) or not CLIENT.within(value)


def test_a_login_that_from_holds() -> None:
    assert CLIENT.beside([b"Alice <alice7@home.example>"]).login is None
    assert CLIENT.beside([b"Alice <alice77@home.example>", b"malice7"]) == CLIENT
    assert CLIENT.beside([]) == CLIENT and NOBODY.beside([b"alice7"]) == NOBODY


@pytest.mark.timeout(20)
def test_one_long_name_is_read_once() -> None:
    """Each label is the client's machine, of another domain: a header of 300 kB, as one may be."""
    words = ClientWords.of(None, ("laptop-7.lan",), None, ())
    assert not words.told_by(b"laptop-7." * 33_000 + b"example")
    assert words.told_by(b"laptop-7." * 3 + b"lan")


@pytest.mark.timeout(20)
def test_a_long_word_that_is_no_id_is_read_once() -> None:
    word = b"x" * 300_000
    assert mask_host.mask_hosts(word, b"mask", "references", CLIENT) == word
    assert mask_host.mask_hosts(b"a@b@[192.168.7.7]", b"m", "references", CLIENT) == b"a@b@m"


def test_what_tells_nothing_is_no_word() -> None:
    words = ClientWords.of(None, ("localhost", "", None, "-", "Example.org."), "", ("example.org",))
    assert words == NOBODY


@given(value=st.binary(max_size=200), name=st.sampled_from((*mask_host.OWN_IDS, "references")))
def test_masking_twice_changes_nothing_more(value: bytes, name: str) -> None:
    once = mask_host.mask_hosts(value, b"mx.example.net", name, CLIENT)
    assert mask_host.mask_hosts(once, b"mx.example.net", name, CLIENT) == once


@given(value=st.binary(max_size=60))
def test_the_audit_says_what_the_masker_does(value: bytes) -> None:
    """`telling` names something exactly where `mask_hosts` changes something."""
    value = b"<1@" + value + b">"
    for name in (*mask_host.OWN_IDS, *mask_host.OTHER_IDS):
        masked = mask_host.mask_hosts(value, b"\xff.invalid", name, CLIENT)
        assert (mask_host.telling(value, name, CLIENT) is not None) == (masked != value)


HOSTS = {
    "laptop": True, "localhost": False, "LOCALHOST": False, "pc.local": True, "pc.lan": True,
    "pc.home": True, "pc.box": True, "pc.fritz.box": True, "pc.arpa": True, "pc.home.arpa": True,
    "pc.corp": True, "pc.private": True, "pc.localhost": True, "[192.0.2.1]": True,
    "192.0.2.1": True, "[IPv6:2001:db8::1]": True, "mail.example.com": False,
    "local.example.com": False, "A.LAN.": True, "host.internal": True,
}  # fmt: skip


@pytest.mark.parametrize(("host", "want"), HOSTS.items())
def test_private_hosts(host: str, want: bool) -> None:
    """Address literals, names without a dot, and names no public DNS knows; not localhost."""
    assert mask_host.is_private(host.encode()) is want
    value = b" <1@" + host.encode() + b">"
    masked = mask_host.mask_hosts(value, b"mx.example.net", "message-id")
    assert (masked != value) is want
