"""A spammer's week in a minute: the story of greytrapping, told to the running services.

Real processes, real DKIM with a real DNS server, and the real clock: a first listing lasts two
seconds here instead of a day.
"""

import json
import socketserver
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dkimkit
import dns_server
from daemons import BIN, Daemon, Process
from gatepost_milter.mta import client as harness
from gatepost_milter.mta.envelope import Envelope
from policy_client import PolicyClient, eventually, milterctl

pytestmark = [pytest.mark.milter, pytest.mark.slow]

TRAP, USER = "never-given@home.example", "user@home.example"
SLOW, OTHER = "slow.example", "other.example"
HOST4, HOST6 = "192.0.2.10", "2001:db8:a::10"
CONFIG = """
milter.socket = "inet:{port}@127.0.0.1"
milter.workers = 3
policy.listen = "inet:{policy_port}@127.0.0.1"
store.url = "sqlite:///{dir}/gatepost.sqlite"
sender.action = "tempfail"
sender.listing_first = "2s"
trap.capture = "{dir}/captured"
log.format = "json"
"""


class Dns(socketserver.ThreadingUDPServer):
    """A name server on a free port: the key of every domain in the story."""

    daemon_threads = True
    records = {
        f"s1._domainkey.{domain}": dkimkit.RSA.record for domain in (SLOW, OTHER, "x.example")
    }

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            data, sock = self.request
            sock.sendto(dns_server.answer(data, Dns.records), self.client_address)

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), self.Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Services:
    """Milter and policy service on one store."""

    def __init__(self, dns_port: int) -> None:
        config = f'{CONFIG}dkim.nameservers = ["127.0.0.1:{dns_port}"]\n'
        self.milter = Daemon(config)
        self.home = self.milter.home
        self.policyd = Process(
            [BIN / "gatepost-policyd", "--config", self.milter.config], self.home / "policyd.log"
        )
        self.policyd.wait_for("ready")
        self.socket = f"inet:{self.milter.port}@127.0.0.1"
        self.number = 0

    def stop(self) -> None:
        self.policyd.stop()
        self.milter.__exit__()

    def milterctl(self, *words: str) -> Any:
        said = milterctl(self.milter.config, *words)
        return json.loads(said) if "json" in words else said

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.home}/gatepost.sqlite?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()

    def age(self, client: str) -> None:
        """Each message of `client` came a day earlier than the one after it, the last yesterday."""
        with sqlite3.connect(self.home / "gatepost.sqlite", timeout=30) as connection:
            connection.execute(
                "UPDATE message SET at = at - 86400 * (SELECT count(*) FROM message AS later "
                "WHERE later.address = message.address AND later.id >= message.id) "
                "WHERE address = ?",
                (client,),
            )
        connection.close()

    def send(
        self, *to: str, client: str, domain: str | None = None, sender: str | None = None,
        login: str | None = None,
    ) -> str:  # fmt: skip
        """The SMTP reply to one message; signed where `domain` is given."""
        self.number += 1
        author = sender if sender else f"offers@{domain or 'unsigned.example'}"
        header = [
            (b"From", f" {author}".encode()),
            (b"To", f" {to[0]}".encode()),
            (b"Subject", f" an offer {self.number}".encode()),  # else the same b= comes again
            (b"Date", b" Fri, 20 Nov 2026 10:00:00 +0000"),
            (b"Message-ID", f" <{self.number}@{domain or 'unsigned.example'}>".encode()),
        ]
        if domain is not None:
            header.insert(0, dkimkit.signature(header, dkimkit.BODY, tags={"d": domain}))
        envelope = Envelope(
            client=client, port=20_000 + self.number, sender=author if sender is None else sender,
            recipients=to, login=login, daemon_name="ORIGINATING" if login else None,
        )  # fmt: skip
        with harness.Session(self.socket, envelope) as session:
            return session.send(dkimkit.join(header, dkimkit.BODY)).reply

    def until(self, code: str, *to: str, **values: Any) -> float:
        """Send until the reply has this code; how long it took."""
        return eventually(lambda: self.send(*to, **values).startswith(code))


@pytest.fixture(scope="module")
def services(milter_engine: str) -> Iterator[Services]:
    server = Dns()
    running = Services(server.server_address[1])
    try:
        running.milterctl("trap", "add", TRAP)
        probe = {"client": "198.51.100.250", "sender": ""}
        running.until("550", TRAP, **probe)
        yield running
    finally:
        running.stop()
        server.shutdown()
        server.server_close()


def test_the_proven_domain_is_punished_wherever_it_comes_from(services: Services) -> None:
    """Signed to a trap over IPv4; 451 for it over both families; its pool neighbour is fine."""
    assert services.send(TRAP, client=HOST4, domain=SLOW).startswith("550 5.7.1")
    begun = time.monotonic()
    services.until("451", USER, client=HOST4, domain=SLOW)
    # On another family, at another worker: the same signature is the same sender.
    replies = [services.send(USER, client=HOST6, domain=SLOW) for _ in range(4)]
    if time.monotonic() - begun < 1.5:
        assert {r[:3] for r in replies} == {"451"}
    assert services.send(USER, client=HOST4, domain=OTHER).startswith("250")
    assert services.send("abuse@home.example", client=HOST4, domain=SLOW).startswith("250")
    # Past its end the listing is over, by itself.
    services.until("250", USER, client=HOST4, domain=SLOW)
    assert time.monotonic() - begun > 1.5
    # The next hit counts double.
    assert services.send(TRAP, client=HOST6, domain=SLOW).startswith("550")
    services.until("451", USER, client=HOST6, domain=SLOW)
    kinds = services.sql("SELECT kind, value, seconds FROM listing ORDER BY since")
    assert kinds == [("dkim", SLOW, 2), ("dkim", SLOW, 4)]
    services.until("250", USER, client=HOST6, domain=SLOW)


def test_an_unsigned_host_is_its_prefix(services: Services) -> None:
    services.send(TRAP, client="2001:db8:b:1::5")
    services.until("451", USER, client="2001:db8:b:1:ffff::99")
    assert services.send(USER, client="2001:db8:b:2::5").startswith("250")
    eventually(lambda: ("prefix", "2001:db8:b:1::/64") in services.sql(
        "SELECT kind, value FROM listing"))  # fmt: skip


def test_the_policy_service_knows_what_the_milter_learned(services: Services) -> None:
    """And the other way round: a trap that has no mailbox is hit at RCPT TO."""
    values = {"client_port": "25111", "sender": "offers@unsigned.example"}
    port = services.milter.policy_port
    with PolicyClient(port) as policy:
        services.send(TRAP, client="192.0.2.40")
        eventually(
            lambda: policy.postfix(USER, client_address="192.0.2.40", **values).startswith("451")
        )
        assert policy.postfix(USER, client_address="192.0.2.41", **values) == "DUNNO"
        assert policy.postfix(TRAP, client_address="192.0.2.42", **values) == "DUNNO"
        services.until("451", USER, client="192.0.2.42")


def test_both_doors_see_one_hit(services: Services) -> None:
    """RCPT TO at the policy service, then DATA at the milter: the domain, once, and no prefix."""
    client, domain = "192.0.2.60", "x.example"
    with PolicyClient(services.milter.policy_port) as policy:
        answer = policy.postfix(
            TRAP, client_address=client, client_port=str(20_001 + services.number),
            sender=f"offers@{domain}", instance="one",
        )  # fmt: skip
    assert answer == "DUNNO"
    assert services.send(TRAP, client=client, domain=domain).startswith("550")
    query = "SELECT kind, hits FROM listing WHERE value IN ('x.example', '192.0.2.60/32')"
    eventually(lambda: services.sql(query) == [("dkim", 1)])
    messages = f"SELECT source, traps FROM message WHERE address = '{client}'"
    assert services.sql(messages) == [("milter", 1)]


def test_a_shared_client_is_not_listed(services: Services) -> None:
    client = "192.0.2.30"
    for _ in range(5):
        assert services.send(USER, client=client).startswith("250")
    good = f"SELECT count(*) FROM message WHERE address = '{client}' AND action = 'accept'"
    eventually(lambda: services.sql(good) == [(5,)])
    # What came within the hour, or on one day, is no good mail yet: it came on five days.
    services.age(client)
    assert services.send(TRAP, client=client).startswith("550")
    reason = f"SELECT reason FROM message WHERE address = '{client}' AND traps > 0"
    eventually(lambda: services.sql(reason) == [("shared-client",)])
    assert services.send(USER, client=client).startswith("250")
    assert services.sql(f"SELECT * FROM listing WHERE value = '{client}/32'") == []


def test_bounces_and_own_users_are_not_listed(services: Services) -> None:
    bounce, own = "192.0.2.50", "192.0.2.51"
    assert services.send(TRAP, client=bounce, sender="").startswith("550")
    assert services.send(TRAP, client=own, login="joe").startswith("250")
    reason = f"SELECT reason FROM message WHERE address = '{bounce}'"
    eventually(lambda: services.sql(reason) == [("backscatter",)])
    eventually(lambda: "own-user-trap" in services.milter.text())
    for client in (bounce, own):
        assert services.send(USER, client=client).startswith("250")
    found = services.sql("SELECT value FROM listing")
    assert not {f"{bounce}/32", f"{own}/32"} & {value for (value,) in found}


def test_the_report_tells_it(services: Services) -> None:
    """Runs last: the history of the signed sender, and the evidence for its listings."""
    told = services.milterctl("report", "--sender", SLOW, "--limit", "10000", "--format", "json")
    summary = told["summary"]
    assert summary["trap_hits"] == 2
    assert summary["families"]["ipv4"] and summary["families"]["ipv6"]
    assert summary["dkim"]["pass"] == summary["messages"]
    reasons = {m["decision"]["reason"] for m in told["messages"]}
    assert reasons == {"trap", "listed", "no-bad-signal", "open-recipient"}
    shown = services.milterctl("sender", "show", SLOW, "--format", "json")
    lengths = [listing["hits"] for listing in shown["listings"]]
    assert len(lengths) == 2 and all(listing["evidence"] for listing in shown["listings"])
    assert {p["trap"] for x in shown["listings"] for p in x["evidence"]} == {TRAP}


def test_what_was_captured_can_be_replayed(services: Services) -> None:
    """Bit for bit: the same signature passes again, with the DNS answers of then."""
    captured = Path(services.home / "captured")
    sidecars = [json.loads(f.read_text()) for f in sorted(captured.glob("*.json"))]
    signed = [s for s in sidecars if s["client"]["address"] == HOST6]
    assert len(signed) == 1
    assert signed[0]["dns"][f"s1._domainkey.{SLOW}"] == dkimkit.RSA.record
    replayed = subprocess.run(
        [BIN / "milterctl", "--config", services.milter.config, "replay", captured,
         "--format", "json"],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    lines = replayed.stdout.splitlines()
    outcomes = [json.loads(line) for line in lines]
    assert [o["error"] for o in outcomes] == [None] * len(outcomes)
    passed = [o for o in outcomes if [s["result"] for s in o["signatures"]] == ["pass"]]
    assert len(passed) == sum(1 for s in sidecars if "_domainkey" in str(s["dns"]))
    assert {o["family"] for o in passed} == {"ipv4", "ipv6"}
