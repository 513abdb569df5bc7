"""Exim's answers at DATA under other settings, and while gatepost-policyd is down or hangs."""

import socket
import time

import pytest

import mta_unpack
from exim_instance import EximInstance
from exim_stack import CONFIG, STRANGERS, TRAP, EximPolicyd, by_id, milterctl, recorded, submit
from mta_modes import COLUMNS
from ports import free_port

pytestmark = [pytest.mark.exim, pytest.mark.timeout(300)]


def verdicts(more: str, tag: bool = False) -> EximPolicyd:
    config = CONFIG.replace('policy_answer = "reject"\n', "").replace("[trap]\n", "[trap]\n" + more)
    # A trap at RCPT may list the client before DATA of the same message: not this test's matter.
    sender = 'action = "tag"\n' if tag else 'action = "shadow"\n'
    config = config.replace('action = "reject"\n', sender)
    daemon = EximPolicyd(config)
    milterctl(daemon, "trap", "add", TRAP)
    time.sleep(2.5)
    return daemon


def test_verdict_at_data(exim_programs: mta_unpack.Programs) -> None:
    """reject-after-data; a trap beside a real recipient gets no copy; then discard."""
    message = b"Subject: x\nFrom: x@y.example\n\nx\n"
    with (
        verdicts("") as daemon,
        EximInstance(exim_programs, daemon.exim_socket) as exim,
    ):
        sent = exim.inbound(source="127.50.0.1").send(message, "x@y.example", [TRAP])
        assert sent.rcpt[TRAP].startswith("250"), sent
        assert sent.final.strip() == "550 5.7.1 Message refused by policy", sent
        sent = exim.inbound(source="127.50.0.2").send(
            message, "x@y.example", [TRAP, "bob@local.test"]
        )
        assert sent.code == 250, (sent, exim.log_text())
        (data,) = exim.collect()
        assert b"Envelope-to: bob@local.test" in data
        time.sleep(0.5)
        assert exim.delivered() == [], "the trap got a copy"
    with (
        verdicts("", tag=True) as daemon,
        EximInstance(exim_programs, daemon.exim_socket, replace=STRANGERS) as exim,
    ):
        exim.inbound(source="127.44.0.4").send(message, "x@y.example", [TRAP])
        end = time.monotonic() + 20
        data = b""
        while b"X-Gatepost: listed" not in data and time.monotonic() < end:
            exim.inbound(source="127.44.0.4").send(message, "x@y.example", ["bob@local.test"])
            (data,) = exim.collect()
        assert b"X-Gatepost: listed" in data, data.decode()
    with (
        verdicts('action = "discard"\n') as daemon,
        EximInstance(exim_programs, daemon.exim_socket) as exim,
    ):
        sent = exim.inbound(source="127.50.0.3").send(message, "x@y.example", [TRAP])
        assert sent.code == 250, sent
        time.sleep(0.5)
        assert exim.delivered() == []
        assert "<= x@y.example" in exim.log_text()


def test_an_upgrade_that_still_asks_over_inet(exim_programs: mta_unpack.Programs) -> None:
    """Mail flows and is recorded; that Exim's verdicts are lost is said, once."""
    message = b"DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d=a.test; s=s1; h=From;\n" \
        b" bh=2jmj7l5rSw0yVb/vlWAYkK/YBwk=; b=AAAA\nFrom: x@a.test\n\nx\n"  # fmt: skip
    with EximPolicyd() as daemon:
        found = {}
        for policy in (daemon.policy_port, daemon.exim_socket):
            with EximInstance(exim_programs, policy) as exim:
                finals = []
                for _ in range(2):
                    sent = exim.inbound().send(message, "x@a.test", ["bob@local.test"])
                    assert sent.code == 250, (sent, exim.log_text())
                    exim.collect()
                    finals.append(sent.final)
                found[policy] = recorded(daemon, by_id(finals[-1]))["signatures"][0]
        said = [line for line in daemon.text().splitlines() if "event=not-believed" in line]
    by_inet, by_unix = found.values()
    assert (by_inet["result"], by_inet["reason"]) == ("neutral", "not-believed")
    assert by_unix["result"] in ("fail", "permerror", "temperror"), by_unix
    assert len(said) == 1 and "policy.inet_verdicts" in said[0]


@pytest.mark.parametrize("stance, code", [("OK", 250), ("451 4.3.0 Try again later", 451)])
def test_daemon_down(exim_programs: mta_unpack.Programs, stance: str, code: int) -> None:
    """What GATEPOST_DOWN says holds for strangers; the scrub needs no daemon at all."""
    replace = (("GATEPOST_DOWN = OK", f"GATEPOST_DOWN = {stance}"),)
    with EximInstance(exim_programs, free_port(), replace=replace) as exim:
        sent = exim.inbound().send(b"Subject: x\n\nx\n", "x@y.example", ["bob@local.test"])
        assert sent.code == code, sent
        if code == 250:
            exim.collect()
            canaries, delivered = submit(exim, COLUMNS[0])
            assert canaries.found(delivered[0]) == ()


def test_daemon_hangs(exim_programs: mta_unpack.Programs) -> None:
    """A socket that accepts and says nothing costs three seconds a question, and mail flows."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with EximInstance(exim_programs, silent.getsockname()[1]) as exim:
            sent = exim.inbound().send(b"Subject: x\n\nx\n", "x@y.example", ["bob@local.test"])
            assert sent.code == 250, sent
