"""Exim with gatepost-policyd: the configuration, submissions, and what was recorded."""

import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
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
listen = ["inet:{policy_port}@127.0.0.1", "unix:{dir}/exim/policy.sock"]
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
[trap]
policy_answer = "reject"
[sender]
action = "reject"
"""
TRAP, TRAP_2 = "trap@local.test", "old.customer@local.test"


# Loopback is never listed: clients on 127.44.0.0/16 are told of as strangers on 203.0.113.0/24.
STRANGERS = ((
    "b64.client_address=${base64:$sender_host_address}",
    "b64.client_address=${base64:"
    r"${sg{$sender_host_address}{\N^127\.44\.\d+\N}{203.0.113}}}",
),)  # fmt: skip
TMPFILES = Path(__file__).parents[1] / "conf/systemd/gatepost.tmpfiles"


class EximPolicyd(Daemon):
    """gatepost-policyd with a socket in the directory that the shipped tmpfiles make for Exim."""

    def __init__(self, config: str = CONFIG) -> None:
        home = Path(tempfile.mkdtemp(prefix="gatepost-daemon-"))
        home.chmod(0o711)
        line = re.search(r"^#d /run/gatepost/exim (\d+) gatepost (\S+) -$", TMPFILES.read_text(),
                         re.MULTILINE)  # fmt: skip
        assert line is not None, "conf/systemd/gatepost.tmpfiles has no directory for Exim"
        folder = home / "exim"
        folder.mkdir()
        shutil.chown(folder, group=line[2])
        folder.chmod(int(line[1], 8))
        self.exim_socket = folder / "policy.sock"
        super().__init__(config, "gatepost-policyd", home=home)
        self.owned = True

    def __enter__(self) -> "EximPolicyd":
        return self


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
