"""What the milter makes of recipients at a real Postfix: traps without a mailbox, mixed mail."""

import json
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import mta_unpack
from daemons import BIN, Daemon, Process
from mta_modes import BASE_CONFIG
from postfix_instance import PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

MESSAGE = b"From: a@y.example\nSubject: x\n\nx\n"


@pytest.fixture(scope="module")
def stack(
    milter_engine: str, postfix_programs: mta_unpack.Programs
) -> Iterator[tuple[PostfixInstance, Daemon]]:
    """Postfix with gatepost in its plain place, on a store with traps."""
    with Daemon(BASE_CONFIG) as daemon:
        for trap in ("nobody-here@local.test", "carol@local.test"):
            done = Process(
                [BIN / "milterctl", "--config", daemon.config, "trap", "add", trap],
                daemon.home / "trap.log",
            )
            assert done.child.wait(60) == 0, done.text()
        setup = Setup(main={"smtpd_milters": daemon.socket})
        with PostfixInstance(postfix_programs, setup) as postfix:
            yield postfix, daemon


def rows(daemon: Daemon, sender: str) -> list[tuple[object, ...]]:
    """(reason, action, recipient, trap, accepted) of the messages of `sender`."""
    (path,) = Path(daemon.home).rglob("gatepost.sqlite")
    end = time.monotonic() + 30
    while True:
        with sqlite3.connect(path) as connection:
            found = connection.execute(
                "SELECT m.reason, m.action, r.address, r.trap, r.accepted FROM message m "
                "JOIN recipient r ON r.message_id = m.id WHERE m.sender = ? ORDER BY r.position",
                (sender,),
            ).fetchall()
        if found or time.monotonic() > end:
            return found
        time.sleep(0.1)


def test_trap_without_a_mailbox(stack: tuple[PostfixInstance, Daemon]) -> None:
    """Postfix refuses the recipient (5.1.1) and shows it to us: a hit, without a policy service."""
    postfix, daemon = stack
    sent = postfix.inbound().send(MESSAGE, "one@y.example", ["nobody-here@local.test"])
    assert sent.code == 550, sent
    # This test's client is this host, and nobody is listed for that.
    hit = ("own-host", "reject", "nobody-here@local.test", 1, 0)
    assert rows(daemon, "one@y.example") == [hit], daemon.text()


def test_relay_denied_is_no_hit(stack: tuple[PostfixInstance, Daemon]) -> None:
    """Other refusals (5.7.1) say nothing about the sender."""
    postfix, daemon = stack
    sent = postfix.inbound().send(MESSAGE, "two@y.example", ["x@elsewhere.example"])
    assert sent.code in (454, 554), sent
    sent = postfix.inbound().send(MESSAGE, "three@y.example", ["bob@local.test"])
    assert sent.code == 250
    assert rows(daemon, "three@y.example")
    assert "two@y.example" not in daemon.text()
    postfix.collect()


def test_real_recipient_beside_a_trap(stack: tuple[PostfixInstance, Daemon]) -> None:
    """The trap gets no copy, the real recipient does; one message, one row for each recipient."""
    postfix, daemon = stack
    to = ["bob@local.test", "carol@local.test"]
    sent = postfix.inbound().send(MESSAGE, "four@y.example", to)
    if sent.code != 250:
        pytest.fail(json.dumps([str(sent), daemon.text()]))
    assert len(postfix.collect()) == 1
    got = rows(daemon, "four@y.example")
    assert [x[2] for x in got] == to
    assert {x[0] for x in got} == {"trap-mixed"}
