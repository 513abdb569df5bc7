"""Exim with gatepost-policyd: the configuration, submissions, and what was recorded."""

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any

import mta_modes
from canary import Canaries
from daemons import BIN, Daemon
from exim_instance import EximInstance
from mta_common import LOGIN
from mta_modes import Case

CONFIG = """\
[milter]
socket = "inet:{port}@127.0.0.1"
[policy]
listen = "inet:{policy_port}@127.0.0.1"
inet_verdicts = true
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
[trap]
policy_answer = "reject"
[sender]
action = "reject"
"""
TRAP, TRAP_2 = "trap@local.test", "old.customer@local.test"


def milterctl(daemon: Daemon, *args: str) -> str:
    return subprocess.run(
        [BIN / "milterctl", "--config", daemon.config, *args],
        check=True, capture_output=True, text=True, cwd=daemon.home,
    ).stdout  # fmt: skip


def recorded(daemon: Daemon, wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """The newest message of the report for which `wanted` holds; waits for it."""
    end = time.monotonic() + 30
    while True:
        answer = json.loads(milterctl(daemon, "report", "--format", "json"))
        for message in answer["messages"]:
            if wanted(message):
                found: dict[str, Any] = message
                return found
        assert time.monotonic() < end, answer["messages"]
        time.sleep(0.2)


def by_id(sent_final: str) -> Callable[[dict[str, Any]], bool]:
    queue_id = sent_final.partition("id=")[2]
    return lambda message: bool(message["queue_id"] == queue_id)


def submit(exim: EximInstance, case: Case) -> tuple[Canaries, list[bytes]]:
    """One column of the matrix. Exim has no XCLIENT as Postfix has: the client is a real one."""
    fresh = Canaries.fresh("ipv4", LOGIN)
    source = "" if case.family == "ipv6" else f"127.{fresh.port % 250}.77.9"
    client = exim.submission("::1" if case.family == "ipv6" else "127.0.0.1", helo=fresh.helo,
                             tls=case.tls, source=source, options=case.options)  # fmt: skip
    canaries = Canaries(source or "192.168.7.7", fresh.name, fresh.helo, LOGIN, 1)
    sent = client.send(mta_modes.message(canaries), case.sender, case.recipients)
    assert sent.code == 250, (case.name, sent, client.transcript, exim.log_text())
    return Canaries(canaries.address, fresh.name, fresh.helo, LOGIN, sent.port), exim.collect(
        case.copies
    )
