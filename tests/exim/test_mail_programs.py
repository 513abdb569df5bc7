"""What mail programs write about their users, through a real Exim on the shipped configuration.

Nothing of the client is left in the header but in the fields that README names (message ids); the
body arrives octet for octet. The same mail without gatepost tells all of it.
"""

import re
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest

import mta_unpack
from canary import Canaries
from exim_instance import CONF, EximInstance
from gatepost_policy.config.field_lists import (
    DEFAULT_KEEP,
    IN_THE_FAMILIES,
    KNOWN_FIELDS,
    PROGRAM_ADDRESSES,
    PROGRAM_FAMILIES,
    PROGRAM_TEXT,
)
from gatepost_policy.scrub.private_names import PRIVATE
from mail_programs import BODY, PROGRAMS, message
from mta_common import HOST, LOGIN
from ports import free_port

pytestmark = [pytest.mark.exim, pytest.mark.timeout(300)]

MASK = "GATEPOST_MASK_HOST"
# README: message ids and the time zone stay.
STAYS = re.compile(
    rb"^(?:Message-ID|Resent-Message-ID|Content-ID|Supersedes|In-Reply-To|References|Date|Return-path|Envelope-to):"
    rb".*\n(?:[ \t].*\n)*",
    re.I | re.M,
)


@pytest.fixture(scope="module")
def running(exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    """Scrubbing is Exim's own work: nobody answers behind the policy port."""
    with EximInstance(exim_programs, free_port()) as exim:
        yield exim


@pytest.fixture(scope="module")
def bare(exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    with EximInstance(exim_programs, free_port(), gatepost=False) as exim:
        yield exim


@pytest.fixture(scope="module")
def masking(exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    """With what `message_id = "mask-host"` asks for."""
    told = ((f"{MASK} = no", f"{MASK} = yes"),)
    with EximInstance(exim_programs, free_port(), replace=told) as exim:
        yield exim


def through(exim: EximInstance, program: str) -> tuple[Canaries, bytes]:
    fresh = Canaries.fresh("ipv4", LOGIN)
    address = f"127.{fresh.port % 250}.77.9"  # Exim has no XCLIENT: the client is a real one
    client = exim.submission(helo=fresh.helo, source=address)
    canaries = Canaries(address, fresh.name, fresh.helo, LOGIN, 1)
    sent = client.send(message(program, canaries), "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, (program, sent, exim.log_text())
    (data,) = exim.collect()
    return Canaries(address, fresh.name, fresh.helo, LOGIN, sent.port), data


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_left(running: EximInstance, bare: EximInstance, program: str) -> None:
    canaries, data = through(running, program)
    header, _, body = data.partition(b"\n\n")
    header = STAYS.sub(b"", header + b"\n")
    # No PTR name: loopback has none here, so it is a word like any other.
    left = set(canaries.found(header)) - {"host name"}
    assert left == set(), header.decode(errors="replace")
    assert not re.search(rb"de-AT|Outlook|Mutt|Alpine", header)
    assert body == BODY

    canaries, data = through(bare, program)
    assert len(canaries.found(STAYS.sub(b"", data))) >= 2, data.decode(errors="replace")
    assert data.partition(b"\n\n")[2] == BODY


@pytest.mark.parametrize("program", PROGRAMS)
def test_nothing_is_left_in_message_ids(masking: EximInstance, program: str) -> None:
    canaries, data = through(masking, program)
    header, _, body = data.partition(b"\n\n")
    header = re.sub(rb"^(?:Date|Return-path|Envelope-to):.*\n", b"", header + b"\n", flags=re.M)
    left = set(canaries.found(header)) - {"host name"}
    assert left == set(), header.decode(errors="replace")
    assert canaries.helo.partition(".")[0].encode() not in header and body == BODY


HOME = f"@{HOST}"
IDS = (
    ("Message-ID", "<a@{helo}>", f"<a{HOME}>"), ("Message-ID", "<a@{label}>", f"<a{HOME}>"),
    ("Message-ID", "<a@[192.168.0.3]>", f"<a{HOME}>"), ("Message-ID", "<a@localhost>", None),
    ("Message-ID", "<a@desk.fritz.box>", f"<a{HOME}>"), ("Message-ID", "<a@example.net>", None),
    ("Message-ID", "<a.{address}.1@example.net>", "<a.x.1@example.net>"),
    ("Message-ID", "<{label}@post.test> ({helo})", "<x@post.test>\n\t(x)"),
    ("Message-ID", "<a@{label}.example.net>", f"<a{HOME}>"),
    ("Message-ID", "<{label}.20261120@example.net>", "<x.20261120@example.net>"),
    ("Message-ID", "<10.4.7.11@example.net>", "<x@example.net>"),
    ("Resent-Message-ID", "<a@{helo}>", f"<a{HOME}>"), ("Content-ID", "<a@{helo}>", f"<a{HOME}>"),
    ("In-Reply-To", "<1@desk.lan> <2@{helo}> <3@localhost>",
     f"<1@desk.lan>\n\t<2{HOME}>\n\t<3@localhost>"),
    ("References", "<1@desk.lan>\n <2@[10.0.0.1]>\n <3@{label}.x.example>",
     f"<1@desk.lan>\n\t<2{HOME}>\n\t<3@{{label}}.x.example>"),
    ("References", "<1@desk.lan>\n <2@x.example>", None),
    ("References", "<1.{address}.a@example.net> <2@desk.lan>",
     "<1.x.a@example.net>\n\t<2@desk.lan>"),
    ("In-Reply-To", "<{label}.1@{helo}>", f"<x.1{HOME}>"),
    ("In-Reply-To", "<alice.login.1@{helo}>", f"<x.1{HOME}>"),
    ("In-Reply-To", "<alice.login.1@example.net>", None),
    ("Supersedes", "<a@{helo}>", f"<a{HOME}>"), ("Obsoletes", "<a@{label}>", f"<a{HOME}>"),
)  # fmt: skip


def test_ids(masking: EximInstance) -> None:
    """Own ids lose what tells of the client; other people's lose what is the client's own."""
    for name, value, want in IDS:
        fresh = Canaries.fresh("ipv4", LOGIN)
        address = f"127.{fresh.port % 250}.77.9"
        words = {"helo": fresh.helo, "label": fresh.helo.partition(".")[0], "address": address}
        told = f"{name}: {value.format(**words)}\nFrom: alice@local.test\n\nx\n"
        sent = masking.submission(helo=fresh.helo, source=address).send(
            told.encode(), "alice@local.test", ["bob@local.test"]
        )
        assert sent.code == 250, (sent, masking.log_text())
        (data,) = masking.collect()
        line = f"{name}: {(value if want is None else want).format(**words)}\n"
        assert line.encode() in data, (value, data.decode())


def test_a_blank_before_the_colon_hides_nothing(masking: EximInstance) -> None:
    """RFC 5322 4.5: it is a field all the same; Exim's $h_ does not see it."""
    told = (
        "Message-ID : <a@ehlo-x1.example>\nContent-ID\t:\n <b@ehlo-x1.example>\n"
        "References : <1@ehlo-x1.example>\n <2@y.example>\nX-After: stays\n"
        "MIME-Version : 1.0\n (Canary Mail 1)\nX-Mailer : Canary Mail 1\nSubject: x\n"
    )
    sent = masking.submission(helo="ehlo-x1.example").send(
        f"{told}From: alice@local.test\n\nx\n".encode(), "alice@local.test", ["bob@local.test"]
    )
    assert sent.code == 250, (sent, masking.log_text())
    (data,) = masking.collect()
    assert b"ehlo-x1" not in data and b"Canary" not in data, data.decode()
    for line in (f"Message-ID: <a{HOME}>", f"Content-ID: <b{HOME}>", "MIME-Version: 1.0",
                 f"References: <1{HOME}>\n\t<2@y.example>", "X-After: stays"):  # fmt: skip
        assert f"\n{line}\n".encode() in data, data.decode()


def test_more_ids_than_exim_can_add(masking: EximInstance) -> None:
    """Exim breaks off over an added field of more than 32 kB: the rest of it is cut off."""
    many = "\n ".join(f"<{n}@ehlo-many.example>" for n in range(1600))
    sent = masking.submission(helo="ehlo-many.example").send(
        f"References: {many}\nFrom: alice@local.test\n\nx\n".encode(), "alice@local.test",
        ["bob@local.test"],
    )  # fmt: skip
    assert sent.code == 250, (sent, masking.log_text())
    (data,) = masking.collect()
    assert b"ehlo-many" not in data and data.count(HOME.encode()) > 1000


def test_the_known_fields_are_the_known_fields() -> None:
    """conf/exim knows what the milter knows, no more and no less."""
    text = (CONF / "gatepost-main.conf").read_text().replace("\\\n", "")
    private = re.search(r"^GATEPOST_PRIVATE = (.*)$", text, re.M)
    assert private is not None
    names = private[1].replace(" ", "").replace("[.]", ".").split("|")
    assert names == [name.decode().removeprefix(".") for name in PRIVATE]
    odd = re.search(r"^GATEPOST_ODD = \(\?!\(\?:(.*)\)\[ \\t\]\*:\)\(\?:(.*)\)$", text, re.M)
    assert odd is not None and tuple(odd[2].split("|")) == PROGRAM_FAMILIES
    families = {n for n in PROGRAM_TEXT if n.startswith(PROGRAM_FAMILIES)}
    assert {n.strip() for n in odd[1].split("|")} == {*IN_THE_FAMILIES, *families}
    lists = {"KNOWN": KNOWN_FIELDS, "PROGRAM_TEXT": PROGRAM_TEXT,
             "PROGRAM_ADDRESSES": PROGRAM_ADDRESSES}  # fmt: skip
    for name, want in lists.items():
        known = re.search(rf"^GATEPOST_{name} = (.*)$", text, re.M)
        assert known is not None
        got = {n.strip().replace("[!-9;-~]*", "*") for n in known.group(1).split("|")}
        assert got == set(want), name


# An unknown field with this value goes (True) or stays; {other} is a name near the client's.
VALUES = (
    ("{helo}", True), ("<{upper}>", True), ("on {helo}:25", True), ("x\n\t{helo}", True),
    ("[{address}]", True), ("host={address};", True), ("{login}", True),
    ("user {login}, desk", True), ("{address}:52012", True), ("on_{helo}_", True),
    ("{label}", True), ("alice.login", True), ("at {label}.fritz.box", True),
    ("{label}.lan", True),
    ("{reverse}.in-addr.arpa", True), ("{number}", True), ("0x{hexa}", True), ("{hexa}:25", True),
    ("2002:{pairs}::1", True), ("{number}7", False), ("a{hexa}", False),
    ("{label}.lan.example", False),
    ("{fanged}", True), ("ip{address}", True), ("{address}x", True), ("{hyphen}", True),
    ("{underscored}", True), ("{spaced}", True),
    ("on [192.168.178.33]:25", True), ("10.4.7.11", True), ("[IPv6:fd12:3456::7]", True),
    ("fe80::1c2d:3e4f", True), ("172.32.0.9", False), ("10.0.19041.1", False),
    ("on 100.64.3.9", True), ("100.127.255.1", True), ("100.63.3.9", False),
    ("ip-192-168-178-44.compute.example", True), ("host10_1_2_3", True),
    ("192-168-1-2-3", False), ("2026-10-11-12-13", False), ("172-32-0-1", False),
     ("100.128.0.1", False),
    ("v10.1.2.3", False), ("10.1.2.3.4", False), ("fade: on", False), ("127.0.0.1", False),
    ("x{helo}", False), ("{label}.x.example", False), ("7{address}", False),
    ("1{address}", False), ("{address}0", False),
    ("my-{login}", False), ("local.test", False), ("localhost", False), ("nothing", False),
)  # fmt: skip


@pytest.mark.parametrize(
    "name", ["X-Gadget", "x-gadget", "List-Gadget", "X-Face", "X-MS-TNEF-Correlator"]
)
def test_whole_words(running: EximInstance, name: str) -> None:
    """A word of the client's in a field that nobody knows; known fields are the author's own, but
    for those that programs write (test_nothing_is_left)."""
    fresh = Canaries.fresh("ipv4", LOGIN)
    address = f"127.{fresh.port % 250}.78.9"
    told, goes = "", []
    for number, (value, gone) in enumerate(VALUES):
        text = value.format(
            label=fresh.helo.partition(".")[0], helo=fresh.helo, upper=fresh.helo.upper(),
            address=address, login=LOGIN, fanged=address.replace(".", "[.]"),
            hyphen=fresh.helo.replace("-", "\u2010"), underscored=fresh.helo.replace("-", "_"),
            spaced=address.replace(".", " . "), number=int(IPv4Address(address)),
            reverse=".".join(address.split(".")[::-1]), hexa=IPv4Address(address).packed.hex(),
            pairs=IPv4Address(address).packed.hex(":", 2),
        )  # fmt: skip
        told += f"{name}-{number}: {text}\nSubject: {number}\n"
        goes.append(gone)
    known = name in ("X-Face", *DEFAULT_KEEP)
    told = re.sub(rf"^({name})-\d+:", r"\1:", told, flags=re.M) if known else told
    client = running.submission(helo=fresh.helo, source=address)
    sent = client.send(f"{told}From: alice@local.test\n\nx\n".encode(), "alice@local.test",
                       ["bob@local.test"])  # fmt: skip
    assert sent.code == 250, (sent, running.log_text())
    (data,) = running.collect()
    if known:
        assert data.lower().count(f"\n{name}:".lower().encode()) == len(VALUES), data.decode()
        return
    stays = [f"\n{name}-{k}:".encode() in data for k in range(len(VALUES))]
    assert stays == [not gone for gone in goes], data.decode()


@pytest.mark.parametrize("helo", ["[IPv6:::1]", "laptop", "a.|.*", "localhost", "mx.local.test"])
def test_odd_helo_names(running: EximInstance, helo: str) -> None:
    """Nothing in an EHLO name makes more go than the field that has it."""
    told = f"X-One: {helo}\nX-Two: two\nX-Three: 0:0:0:0:0:0:0:1 (::1)\n"
    client = running.submission("::1", helo=helo)
    sent = client.send(f"{told}From: alice@local.test\n\nx\n".encode(), "alice@local.test",
                       ["bob@local.test"])  # fmt: skip
    if sent.code != 250:
        assert "|" in helo, sent  # helo_allow_chars
        return
    (data,) = running.collect()
    assert b"\nX-Two: two\n" in data and b"\nX-Three:" not in data, data.decode()
    assert (b"\nX-One:" in data) is (helo in ("localhost", "mx.local.test")), data.decode()


@pytest.mark.parametrize(("sender", "stays"), [
    (LOGIN, False), ("alice@local.test", True), ("<root@{helo}>", False), ("x@y.example", True),
    (f'"{LOGIN}" <post@local.test>', False),
])  # fmt: skip
def test_addresses_that_programs_put_in(running: EximInstance, sender: str, stays: bool) -> None:
    """They go where they tell more of who handed the mail in than From does."""
    fresh = Canaries.fresh("ipv4", LOGIN)
    value = sender.format(helo=fresh.helo)
    told = f"Sender: {value}\nDisposition-Notification-To: {value}\nErrors-To: {value}\n"
    sent = running.submission(helo=fresh.helo).send(
        f"{told}From: Alice <alice@local.test>\n\nx\n".encode(), "alice@local.test",
        ["bob@local.test"],
    )  # fmt: skip
    assert sent.code == 250, (sent, running.log_text())
    (data,) = running.collect()
    for line in told.splitlines():
        assert (line.encode() in data) is stays, data.decode()
