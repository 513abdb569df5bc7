"""Exim with gatepost-policyd, end to end, on the shipped configuration.

Scrub, traps and listings at RCPT, DKIM outcomes with their family, the verdict at DATA, the stance
while the daemon is down, and attributes with everything a client may put into an address.
"""

import base64
import json
import re
import time
from collections.abc import Iterator

import dkim
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import mta_modes
import mta_unpack
import rings
from canary import Canaries
from daemons import Daemon, read_everything
from dns_server import DnsServer
from exim_instance import CONF, EximInstance
from exim_stack import STRANGERS, TRAP, TRAP_2, EximPolicyd, by_id, milterctl, recorded, submit
from gatepost_policy.config.field_lists import DEFAULT_REMOVE
from gatepost_policy.scrub import audit
from mta_modes import COLUMNS, TELLING, Case
from ports import free_port
from postfix_instance import LOGIN

pytestmark = [pytest.mark.exim, pytest.mark.timeout(300)]


class Keys:
    """One RSA key as DNS record and as what dkimpy signs with."""

    def __init__(self) -> None:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )  # fmt: skip
        der = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self.record = "v=DKIM1; k=rsa; p=" + base64.b64encode(der).decode()

    def sign(self, message: bytes, domain: str, canonical: str = "relaxed") -> bytes:
        mode = canonical.encode()
        data = message.replace(b"\n", b"\r\n")
        signature = dkim.sign(data, b"s1", domain.encode(), self.private, canonicalize=(mode, mode))
        return bytes(signature.replace(b"\r\n", b"\n")) + message


@pytest.fixture(scope="module")
def keys() -> Keys:
    return Keys()


@pytest.fixture(scope="module")
def dns(keys: Keys) -> Iterator[DnsServer]:
    try:
        server = DnsServer({f"s1._domainkey.{d}": keys.record for d in ("a.test", "b.test")})
    except OSError as error:
        rings.missing("exim", f"no DNS on port 53 of a loopback address: {error}")
    yield server
    server.stop()


@pytest.fixture(scope="module")
def policyd(exim_programs: mta_unpack.Programs) -> Iterator[EximPolicyd]:
    with EximPolicyd() as running:
        for trap in (TRAP, TRAP_2):
            milterctl(running, "trap", "add", trap)
        time.sleep(2.5)  # what was made by hand holds within two seconds
        yield running


@pytest.fixture(scope="module")
def exim(
    policyd: EximPolicyd, dns: DnsServer, exim_programs: mta_unpack.Programs
) -> Iterator[EximInstance]:
    with EximInstance(
        exim_programs, policyd.exim_socket, dns=dns.address, replace=STRANGERS
    ) as running:
        yield running


@pytest.fixture(scope="module")
def bare(exim_programs: mta_unpack.Programs) -> Iterator[EximInstance]:
    """Exim without a word of gatepost: the counter-proof."""
    with EximInstance(exim_programs, free_port(), gatepost=False) as running:
        yield running


EXIM_COLUMNS = tuple(c for c in COLUMNS if c.name != "SMTPUTF8")


def test_matrix(exim: EximInstance, shown: list[str]) -> None:
    row = []
    for case in EXIM_COLUMNS:
        canaries, delivered = submit(exim, case)
        for data in delivered:
            assert canaries.found(data) == (), (case.name, data.decode(errors="replace"))
            found = audit.find(data, {k: v for k, v in canaries.words().items() if k != "port"})
            assert [f for f in found if f.weight is audit.Weight.LEAK] == []
            for line in TELLING.splitlines():
                if not line.startswith("X-Enigmail-Version"):
                    assert line.encode() not in data, (case.name, line)
        if case.name != "bounce":
            hops = [f for f in audit.fields(delivered[0]) if f.name.lower() == "received"]
            assert len(hops) == 3, delivered[0].decode(errors="replace")
        if case.name == "v4":
            text = delivered[0].partition(b"\n\n")[0].decode(errors="replace")
            shown += ["-- Exim, delivered header:", *("   " + x for x in text.split("\n"))]
        row.append(f"{case.name} clean")
    shown.append("== Exim        : " + ", ".join(row))


@pytest.mark.parametrize("case", EXIM_COLUMNS, ids=lambda case: case.name)
def test_counter_proof(bare: EximInstance, case: Case) -> None:
    canaries, delivered = submit(bare, case)
    for data in delivered:
        assert {"address", "EHLO"} <= set(canaries.found(data)), data.decode(errors="replace")


def test_wildcards_and_odd_fields(exim: EximInstance) -> None:
    """Each name of the default list, in odd case and folding, is gone; what is kept is kept."""
    names = [g.replace("*", "Probe").swapcase() for g in DEFAULT_REMOVE]
    told = "".join(f"{n}: secret\n\tsecret\n" for n in names)
    kept = "Autocrypt: addr=x\nX-Mail: kept\nList-Unsubscribe: <mailto:x@y>\n"
    message = (told + kept + "Subject: x\nFrom: alice@local.test\nMIME-Version: 1.0 (Apple)\n"
               f"Sender: {LOGIN}\n\nx\n").encode()  # fmt: skip
    sent = exim.submission().send(message, "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, sent
    (data,) = exim.collect()
    assert b"secret" not in data, data.decode()
    assert LOGIN.encode() not in data and b"Apple" not in data, data.decode()
    assert b"\nMIME-Version: 1.0\n" in data
    for line in kept.splitlines():
        assert line.encode() in data


def test_the_list_is_the_default_list() -> None:
    """conf/exim removes what the milter removes, no more and no less."""
    text = (CONF / "gatepost-main.conf").read_text().replace("\\\n", " ")
    exact = re.search(r"^GATEPOST_REMOVE = (.*)$", text, re.M)
    families = re.search(r"^GATEPOST_FAMILIES = (.*)$", text, re.M)
    assert exact and families
    got = {n.strip() for n in exact.group(1).split(":")}
    got |= {n.strip().replace("[!-9;-~]*", "*") + "*" for n in families.group(1).split("|")}
    assert got == set(DEFAULT_REMOVE)


def test_relayed_mail_keeps_what_others_wrote(exim: EximInstance) -> None:
    message = (b"Received: from a by b; Fri, 20 Nov 2026 09:00:00 +0000\nX-Mailer: Author's 1\n"
               b"List-Id: <l.example>\nSubject: x\n\nx\n")  # fmt: skip
    sent = exim.submission().send(message, "alice@local.test", ["bob@local.test"])
    assert sent.code == 250, sent
    (data,) = exim.collect()
    assert message.partition(b"Subject")[0] in data
    assert b"from [127.0.0.1]" not in data


def test_inbound_is_left_alone(exim: EximInstance) -> None:
    message = (
        b"Received: from a.example by b.example with ESMTPSA id 1;\n\tFri, 20 Nov 2026 09:00:00"
        b" +0100\nReceived: from c by d; Fri, 20 Nov 2026 08:00:00 +0000\nReceived: from e by f;"
        b" Fri, 20 Nov 2026 07:00:00 +0000\nReceived: from g by h; Fri, 20 Nov 2026 06:00:00 +0000"
        b"\nX-Mailer: Stranger 1\nX-Originating-IP: [10.0.0.1]\nSubject: in\n\nhello\n"
    )
    sent = exim.inbound().send(message, "x@fine.example", ["bob@local.test"])
    assert sent.code == 250, sent
    assert message in exim.collect()[0]


def test_sendmail_program(exim: EximInstance) -> None:
    """Mail handed to the exim program on this host loses its own hop and the fields as well."""
    message = b"X-Mailer: cron 1\nFrom: alice@local.test\nSubject: x\n\nx\n"
    exim.run("-f", "alice@local.test", "bob@local.test", stdin=message)
    (data,) = exim.collect()
    assert b"cron 1" not in data and b"root" not in data, data.decode()


DKIM_MESSAGE = (
    b"From: Sender <x@a.test>\nTo: bob@local.test\nSubject: signed\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\nMessage-ID: <1@a.test>\n\nbody\n"
)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("canonical", ["relaxed", "simple"])
def test_dkim_pass_with_family(
    exim: EximInstance, policyd: Daemon, keys: Keys, host: str, canonical: str
) -> None:
    signed = keys.sign(DKIM_MESSAGE, "a.test", canonical)
    sent = exim.inbound(host).send(signed, "x@a.test", ["bob@local.test"])
    assert sent.code == 250, (sent, exim.log_text())
    exim.collect()
    got = recorded(policyd, by_id(sent.final))
    assert got["family"] == ("ipv6" if ":" in host else "ipv4")
    assert got["source"] == "policy" and got["direction"] == "inbound"
    (signature,) = got["signatures"]
    assert (signature["domain"], signature["selector"], signature["result"]) == (
        "a.test", "s1", "pass",
    ), signature  # fmt: skip
    assert signature["canonicalization"] == f"{canonical}/{canonical}"
    assert (signature["algorithm"], signature["key_bits"]) == ("rsa-sha256", 2048)


def test_each_signature_is_recorded(exim: EximInstance, policyd: Daemon, keys: Keys) -> None:
    """Two that pass, one of a changed message, one without a key: four outcomes."""
    good = keys.sign(keys.sign(DKIM_MESSAGE, "a.test"), "b.test")
    missing = keys.sign(DKIM_MESSAGE, "nokey.test").partition(b"From:")[0]
    sent = exim.inbound().send(missing + good, "x@a.test", ["bob@local.test"])
    assert sent.code == 250, sent
    exim.collect()
    got = recorded(policyd, by_id(sent.final))
    outcome = {s["domain"]: s["result"] for s in got["signatures"]}
    assert (outcome["a.test"], outcome["b.test"]) == ("pass", "pass"), outcome
    assert outcome["nokey.test"] in ("permerror", "temperror"), outcome

    spoilt = keys.sign(DKIM_MESSAGE, "a.test").replace(b"\n\nbody", b"\n\nBODY")
    sent = exim.inbound("::1").send(spoilt, "x@a.test", ["bob@local.test"])
    exim.collect()
    (signature,) = recorded(policyd, by_id(sent.final))["signatures"]
    assert (signature["result"], signature["crypto"]) == ("fail", "fail"), signature


def test_unsigned_mail_is_recorded_as_such(exim: EximInstance, policyd: Daemon) -> None:
    sent = exim.inbound().send(b"Subject: x\n\nx\n", "x@fine.example", ["bob@local.test"])
    exim.collect()
    got = recorded(policyd, by_id(sent.final))
    assert got["signatures"] == []
    answer = json.loads(milterctl(policyd, "report", "--sender", "fine.example",
                                  "--format", "json"))  # fmt: skip
    assert answer["summary"]["dkim"].get("none", 0) >= 1


@pytest.mark.parametrize("sender", [
    "plain@odd.example", '"a b=c"@odd.example', "x=y@odd.example", "o'hara+tag@odd.example",
    '"quote\\"d"@odd.example', "",
])  # fmt: skip
def test_attributes_survive(exim: EximInstance, policyd: Daemon, sender: str) -> None:
    recipient = '"Bob x=1 b64.login=eA=="@local.test'
    sent = exim.inbound(source="127.9.9.9", helo="odd-helo.example").send(
        b'Subject: caf\xe9 = "x"\nFrom: "a=b" <x@odd.example>\n\nx\n', sender, [recipient]
    )
    assert sent.code == 250, (sent, exim.log_text())
    exim.collect()
    got = recorded(policyd, by_id(sent.final))
    assert got["sender"] == sender, got
    assert [r["address"] for r in got["recipients"]] == [recipient], got
    assert got["client"] == {"address": "127.9.9.9", "name": None, "helo": "odd-helo.example"}
    assert got["direction"] == "inbound"  # no attribute could be smuggled in


def test_eight_bit_address(exim: EximInstance, policyd: Daemon) -> None:
    sent = exim.inbound(source="127.9.9.8").send(
        b"Subject: x\n\nx\n", "caf\u00e9@odd.example", ["b\u00f8b@local.test"]
    )
    assert sent.code == 250, (sent, exim.log_text())
    exim.collect()
    got = recorded(policyd, by_id(sent.final))
    assert got["sender"] == "caf\u00e9@odd.example"
    assert [r["address"] for r in got["recipients"]] == ["b\u00f8b@local.test"]


def test_trap_at_rcpt_then_listed(exim: EximInstance, policyd: Daemon) -> None:
    """The trap is refused like an unknown user; the client is then listed at RCPT."""
    stranger = exim.inbound(source="127.44.5.6")
    sent = stranger.send(b"Subject: x\n\nx\n", "x@spam.example", ["Trap+Tag@local.test"])
    assert sent.final.strip() == "550 5.1.1 User unknown", sent
    end = time.monotonic() + 20
    while True:
        sent = exim.inbound(source="127.44.5.6").send(
            b"Subject: x\n\nx\n", "x@spam.example", ["bob@local.test"]
        )
        if sent.code == 550 or time.monotonic() > end:
            break
    assert sent.final.strip() == "550 5.7.1 Message refused by policy", sent
    # Another client is still welcome, and postmaster@ is open to everybody.
    other = exim.inbound(source="127.44.5.7")
    assert other.send(b"S: x\n\nx\n", "x@fine.example", ["bob@local.test"]).code == 250
    still = exim.inbound(source="127.44.5.6")
    assert still.send(b"S: x\n\nx\n", "x@spam.example", ["postmaster@local.test"]).code == 250
    exim.collect(2)
    got = recorded(policyd, lambda m: bool(m["client"]["address"] == "203.0.113.6"
                                           and m["decision"]["reason"] == "trap"))  # fmt: skip
    assert got["recipients"] == [{"address": "Trap+Tag@local.test", "trap": True}]


def test_nobody_is_told_of_a_submission(exim: EximInstance, policyd: Daemon) -> None:
    """Canaries of a submission are in nothing that policyd wrote."""
    fresh = Canaries.fresh("ipv4", LOGIN)
    canaries = Canaries("127.201.7.66", fresh.name, fresh.helo, LOGIN, 1)
    client = exim.submission(source=canaries.address, helo=canaries.helo)
    for recipient in ("bob@local.test", TRAP_2):
        client.send(mta_modes.message(canaries), "alice@local.test", [recipient])
    for left in exim.delivered():
        left.unlink()
    time.sleep(1.5)
    words = Canaries(canaries.address, fresh.name, fresh.helo, LOGIN, 10**9)
    for path, data in read_everything(policyd.home).items():
        assert words.found(data) == (), path
    # The counter-proof: a stranger's EHLO is found.
    exim.inbound(source="127.9.9.7", helo=fresh.helo).send(b"S: x\n\nx\n", "x@y.example", [TRAP])
    time.sleep(1.5)
    assert any("EHLO" in words.found(d) for d in read_everything(policyd.home).values())
