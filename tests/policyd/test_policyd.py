"""gatepost-policyd as a process: both protocols, limits, signals, and what it leaves behind."""

import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from daemons import BIN, Daemon, Process, read_everything
from policy_client import PolicyClient, eventually, milterctl, postfix_request
from ports import free_port

pytestmark = pytest.mark.slow

CONFIG = """
policy.listen = ["inet:{policy_port}@127.0.0.1", "unix:{dir}/policy.sock"]
policy.inet_verdicts = true
policy.max_connections = 40
policy.max_request_bytes = 8192
store.url = "sqlite:///{dir}/gatepost.sqlite"
sender.action = "tempfail"
submission.trusted_relays = ["198.51.100.9/32"]
log.format = "json"
"""
DUNNO = "DUNNO"
LATER = "451 4.7.1 Please try again later"
TRAP = "trap@home.example"


class Policyd(Daemon):
    """A policy service with one trap."""

    def __enter__(self) -> "Policyd":
        return self

    def milterctl(self, *words: str) -> str:
        return milterctl(self.config, *words)

    def client(self) -> PolicyClient:
        return PolicyClient(self.policy_port)

    def sql(self, query: str) -> list[tuple[Any, ...]]:
        connection = sqlite3.connect(f"file:{self.home}/gatepost.sqlite?mode=ro", uri=True)
        try:
            return connection.execute(query).fetchall()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def policyd() -> Iterator[Policyd]:
    with Policyd(CONFIG, "gatepost-policyd") as daemon:
        daemon.milterctl("trap", "add", TRAP)
        with daemon.client() as client:
            eventually(lambda: bool(_sees_trap(daemon, client)))
        yield daemon


def _sees_trap(daemon: Policyd, client: PolicyClient) -> bool:
    # A client that is never listed asks: this wait must leave no traces for the tests.
    client.postfix(TRAP, client_address="198.51.100.9")
    return '"traps": 1' in daemon.text()


def test_listing_story(policyd: Policyd) -> None:
    """A trap hit is recorded and waved through; the next real recipient is refused."""
    with policyd.client() as client:
        assert client.postfix("user@home.example") == DUNNO
        assert client.postfix("Trap+x@HOME.example", instance="1") == DUNNO
        took = eventually(lambda: client.postfix("user@home.example") == LATER)
        assert took < 30
        assert client.postfix("abuse@home.example") == DUNNO
        assert client.postfix("user@home.example", client_address="192.0.2.8") == DUNNO
        assert client.postfix("user@home.example", sasl_username="joe") == DUNNO
        policyd.milterctl("sender", "forgive", "192.0.2.7")
        eventually(lambda: client.postfix("user@home.example") == DUNNO)
        policyd.milterctl("sender", "punish", "192.0.2.7", "--for", "1h")
        eventually(lambda: client.postfix("user@home.example") == LATER)
        policyd.milterctl("sender", "forgive", "192.0.2.7")


def test_v6_neighbours(policyd: Policyd) -> None:
    with policyd.client() as client:
        client.postfix(TRAP, client_address="2001:db8:1:2::5")
        eventually(
            lambda: client.postfix("u@home.example", client_address="2001:db8:1:2:ffff::9") == LATER
        )
        assert client.postfix("u@home.example", client_address="2001:db8:1:3::5") == DUNNO


def test_who_is_not_listed(policyd: Policyd) -> None:
    cases = [
        {"client_address": "203.0.113.1", "sender": ""},
        {"client_address": "203.0.113.2", "sender": "SRS0=a=b=c.example=d@fwd.example"},
        {"client_address": "203.0.113.3", "client_name": "mail-1.google.com"},
        {"client_address": "198.51.100.9"},
        {"client_address": "203.0.113.4", "sasl_username": "joe"},
    ]
    with policyd.client() as client:
        for values in cases:
            assert client.postfix(TRAP, **values) == DUNNO, values
        # One that is listed, after them: when it is there, they would have been.
        client.postfix(TRAP, client_address="203.0.113.99")
        eventually(lambda: client.postfix("u@home.example", client_address="203.0.113.99") == LATER)
        for values in cases:
            assert client.postfix("u@home.example", **values) == DUNNO, values


def test_exim_message(policyd: Policyd) -> None:
    """Stages of one message become one record, with its signatures and who is to blame."""
    inbound = {
        "client_address": "203.0.113.50",
        "client_port": "2525",
        "helo": "h.example",
        "sender": "a@signed.example",
    }
    dkim = {
        "domain": "signed.example",
        "selector": "s",
        "status": "pass",
        "key_bits": "2048",
        "algorithm": "rsa-sha256",
        "canon_headers": "relaxed",
        "canon_body": "relaxed",
    }
    with policyd.client() as client:
        assert client.exim("rcpt", **inbound, recipient=TRAP) == "OK"
        assert client.exim("dkim", id="1xA-1", **dkim) == "OK"
        answer = client.exim("data", id="1xA-1", **inbound, recipients=TRAP, size="99",
                             **{"from": "a@signed.example"})  # fmt: skip
        assert answer == "550 5.7.1 Message refused by policy"
        # Another client: the prefix of this one is listed until the recorder has read on.
        other = {**inbound, "client_address": "203.0.113.52"}
        mixed = client.exim("data", id="1xA-2", **other, recipients=f"{TRAP}, u@home.example")
        assert mixed == "OK drop=dHJhcEBob21lLmV4YW1wbGU="
        assert client.exim("data", id="1xA-3", client_address="203.0.113.51",
                           sender="x@y.example", recipients="u@home.example") == "OK"  # fmt: skip
        query = (
            "SELECT m.action, m.reason, s.domain, s.result FROM message m "
            "LEFT JOIN signature s ON s.message_id = m.id WHERE queue_id = '1xA-{}'"
        )
        eventually(lambda: len(policyd.sql(query.format(3))) == 1)
        assert policyd.sql(query.format(1)) == [("reject", "one-witness", "signed.example", "pass")]
        assert policyd.sql(query.format(3)) == [("accept", "no-bad-signal", None, None)]
        # A signature alone is one witness: nobody is listed, and the client that RCPT TO had named
        # is let go. Unsigned mail that came later lists its client.
        listed = "SELECT 1 FROM listing WHERE value LIKE '{}%'"
        eventually(lambda: bool(policyd.sql(listed.format("203.0.113.52"))))
        assert policyd.sql(listed.format("signed.example")) == []
        eventually(lambda: policyd.sql(listed.format("203.0.113.50")) == [])


def test_pipelining(policyd: Policyd) -> None:
    with policyd.client() as client:
        client.send(b"".join(postfix_request(f"u{n}@home.example") for n in range(200)))
        assert [client.until(b"\n\n") for _ in range(200)] == [b"action=DUNNO"] * 200
        # Trap hits ask the store: those behind them wait their turn, and none is lost.
        names = [TRAP if n % 3 == 0 else "u@home.example" for n in range(60)]
        client.send(b"".join(postfix_request(n, client_address="203.0.113.77") for n in names))
        got = [client.until(b"\n\n") for _ in names]
        assert set(got[0::3]) == {b"action=DUNNO"}
        assert set(got) <= {b"action=DUNNO", f"action={LATER}".encode()}


DOUBTFUL = [
    b"request=other\nprotocol_state=RCPT\nrecipient=trap@home.example\n\n",
    postfix_request(TRAP)[:-1] + b"sender=twice@x.example\n\n",
    postfix_request(TRAP).replace(b"protocol_state=RCPT", b"protocol_state=DATA"),
    postfix_request("").replace(b"recipient=\n", b""),
    postfix_request(TRAP).replace(b"recipient=", b"recipient=\0"),
]


@pytest.mark.parametrize("data", DOUBTFUL)
def test_doubt_is_dunno_and_goes_on(policyd: Policyd, data: bytes) -> None:
    with policyd.client() as client:
        client.send(data)
        assert client.until(b"\n\n") == b"action=DUNNO"
        assert client.postfix("user@home.example", client_address="203.0.113.200") == DUNNO


@pytest.mark.parametrize("data", [
    b"nonsense\n\n", postfix_request(TRAP).replace(b"sender=", b"sender"),
])  # fmt: skip
def test_a_line_that_is_no_attribute_is_dunno_and_the_end(policyd: Policyd, data: bytes) -> None:
    """Whoever sends one is no Postfix: the rest of what he sends is not read."""
    with policyd.client() as client:
        client.send(data)
        assert client.until(b"\n\n") == b"action=DUNNO"
        assert client.closed()


@pytest.mark.parametrize("data", [b"x" * 1_000_000, b"a=" + b"x" * 9_000 + b"\n", b"a=b\n" * 5_000])
def test_too_much_is_dunno_and_the_end(policyd: Policyd, data: bytes) -> None:
    with policyd.client() as client:
        try:
            client.send(data)
            got = client.until(b"\n\n")
        except (BrokenPipeError, ConnectionResetError):
            return  # closed while we still wrote
        assert got in (b"action=DUNNO", b"")


def test_idle_connections_make_room(policyd: Policyd) -> None:
    """Over max_connections the one silent longest is closed; the new one is served."""
    crowd = [policyd.client() for _ in range(40)]
    try:
        for client in (*crowd, crowd[0]):
            assert client.postfix("u@home.example", client_address="203.0.113.201") == DUNNO
        with policyd.client() as late:
            assert late.postfix("u@home.example", client_address="203.0.113.201") == DUNNO
            assert crowd[0].postfix("u@home.example", client_address="203.0.113.201") == DUNNO
        assert crowd[1].closed()
    finally:
        for client in crowd:
            client.socket.close()


def test_unix_socket(policyd: Policyd) -> None:
    path = policyd.home / "policy.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    with PolicyClient(str(path)) as client:
        assert client.postfix("u@home.example", client_address="203.0.113.202") == DUNNO


def test_nothing_of_a_submission(policyd: Policyd) -> None:
    """Canaries in every attribute of a submission; nothing that was written holds one."""
    canaries = {
        "sasl_username": "canary-login", "client_address": "203.0.113.111",
        "client_name": "canary-name.example", "helo_name": "canary-helo",
        "reverse_client_name": "canary-reverse", "client_port": "61234",
        "sender": "canary-sender@x.example", "queue_id": "QOWN",
    }  # fmt: skip
    with policyd.client() as client:
        client.postfix(TRAP, client_address="203.0.113.112")
        for recipient in (TRAP, "u@home.example"):
            assert client.postfix(recipient, **canaries) == DUNNO
            for stage, key in (("rcpt", "recipient"), ("data", "recipients")):
                client.exim(
                    stage, id="1xB-1", login="canary-login", client_address="203.0.113.111",
                    client_name="canary-name.example", helo="canary-helo", client_port="61234",
                    sender="canary-sender@x.example", **{key: recipient},
                )  # fmt: skip
        eventually(lambda: bool(policyd.sql("SELECT 1 FROM submission_count")))
    assert '"event": "own-user-trap", "id": "QOWN"' in policyd.text()
    for path, data in read_everything(policyd.home).items():
        for secret in (b"canary", b"203.0.113.111", b"61234"):
            assert secret not in data, path
    # The proof can fail: an inbound client's address is there.
    assert b"203.0.113.112" in b"".join(read_everything(policyd.home).values())


def test_a_trap_that_is_used_is_flagged(policyd: Policyd) -> None:
    """As a login or as the sender of a submission; what an inbound sender claims comes second."""
    policyd.milterctl("trap", "add", "login@home.example", "sender@home.example")
    query = "SELECT key, live_as, live_at FROM trap WHERE live_at IS NOT NULL ORDER BY key"
    with policyd.client() as client:

        def told() -> bool:
            client.postfix("u@x.example", sasl_username="login@home.example")
            client.postfix("u@x.example", sasl_username="joe", sender="Sender@home.example")
            return len(policyd.sql(query)) == 2

        eventually(told)
    flagged = policyd.sql(query)
    assert [row[:2] for row in flagged] == [
        ("login@home.example", "login"), ("sender@home.example", "submission-sender"),
    ]  # fmt: skip
    assert all(at % 86_400 == 0 for *_, at in flagged)


def test_reload(policyd: Policyd) -> None:
    good = policyd.config.read_text()
    try:
        policyd.config.write_text(good + "\npolicy.nonsense = 1\n")
        policyd.child.send_signal(signal.SIGHUP)
        eventually(lambda: '"reload-refused"' in policyd.text())
        policyd.config.write_text(
            good + '\ntrap.policy_answer = "reject"\nsender.listing_first = "3h"\n'
        )
        policyd.child.send_signal(signal.SIGHUP)
        eventually(lambda: '"reloaded"' in policyd.text())
        with policyd.client() as client:
            got = client.postfix(TRAP, client_address="203.0.113.203")
            assert got == "550 5.1.1 User unknown"
        # So does the recorder, once the one with the old settings has let go of its lock.
        numbers = iter(range(204, 255))
        query = "SELECT count(*) FROM listing WHERE seconds = 10800"

        def recorded() -> bool:
            with policyd.client() as client:
                client.postfix(TRAP, client_address=f"203.0.113.{next(numbers)}")
            time.sleep(0.5)
            return policyd.sql(query) != [(0,)]

        eventually(recorded)
    finally:
        print(policyd.text()[-4000:])
        policyd.config.write_text(good)
        policyd.child.send_signal(signal.SIGHUP)
        eventually(lambda: policyd.text().count('"reloaded"') == 2, seconds=30)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stops_at_once_and_starts_again(number: int, tmp_path: Path) -> None:
    """With open connections; what it recorded is in the store; a stale socket is no obstacle."""
    with Policyd(CONFIG, "gatepost-policyd", home=tmp_path) as daemon:
        idle = daemon.client()
        idle.postfix("u@home.example")
        begun = time.monotonic()
        daemon.child.send_signal(number)
        assert daemon.child.wait(30) == 0
        assert time.monotonic() - begun < 15  # 5 s on an idle machine
        assert idle.closed()
        assert "Traceback" not in daemon.text()
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(tmp_path / "policy.sock"))
        stale.close()
        daemon.start_again()
        with daemon.client() as client:
            assert client.postfix("u@home.example") == DUNNO


def test_a_taken_port_is_one_line(tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'policy.listen = "inet:{port}@127.0.0.1"\nstore.url = "sqlite:///{tmp_path}/g.sqlite"\n'
    )
    with socket.create_server(("127.0.0.1", port)):
        done = Process([BIN / "gatepost-policyd", "--config", config], tmp_path / "log")
        assert done.child.wait(60) == 3
    (line,) = done.text().splitlines()
    assert "in use" in line and "policy" in line


def test_a_file_in_the_place_of_the_socket_is_named_and_stays(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    config = tmp_path / "gatepost.toml"
    config.write_text(
        f'[policy]\nlisten = "unix:{tmp_path}/file"\n[store]\nurl = "{tmp_path}/g.sqlite"\n'
    )
    done = subprocess.run(
        [BIN / "gatepost-policyd", "--config", config], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 3
    assert f"cannot start: unix:{tmp_path}/file: Address already in use" in done.stderr
    assert (tmp_path / "file").read_text() == "precious"
