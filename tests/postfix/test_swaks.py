"""The five-minute set-up: plain Postfix, one smtpd_milters line, a message sent by swaks."""

import shutil
import subprocess

import pytest

import mta_unpack
import rings
from canary import Canaries
from daemons import Daemon
from gatepost_policy.scrub import audit
from mta_modes import BASE_CONFIG, TALKATIVE
from postfix_instance import LOGIN, PASSWORD, PostfixInstance, Setup

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(300)]

TELLING = {
    "X-Mailer": "Canary Mail 1", "User-Agent": "Canary/1", "X-Enigmail": "2",
    "X-Originating-IP": "[192.168.7.7]",
}  # fmt: skip


def swaks(postfix: PostfixInstance, canaries: Canaries, *more: str) -> None:
    program = shutil.which("swaks")
    if program is None:
        rings.missing("postfix", "no swaks here (tests/mta_packages.txt, section tools)")
    command = [
        program, "--server", "127.0.0.1", "--port", str(postfix.submission_port),
        "--local-interface", canaries.address, "--helo", canaries.helo,
        "--auth", "PLAIN", "--auth-user", LOGIN, "--auth-password", PASSWORD,
        "--from", "alice@local.test", "--to", "bob@local.test",
        "--header", "Message-Id: <1@local.test>", *more,
    ]  # fmt: skip
    for name, value in TELLING.items():
        command += ["--add-header" if name != "X-Mailer" else "--header", f"{name}: {value}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("more", [(), ("--tls",)], ids=["plain", "tls"])
def test_one_line(
    more: tuple[str, ...], postfix_programs: mta_unpack.Programs, shown: list[str]
) -> None:
    fresh = Canaries.fresh("ipv4", LOGIN)
    canaries = Canaries("127.88.21.7", fresh.name, fresh.helo, LOGIN, 10**9)
    with (
        Daemon(BASE_CONFIG) as daemon,
        PostfixInstance(
            postfix_programs, Setup(main={**TALKATIVE, "smtpd_milters": daemon.socket})
        ) as postfix,
    ):
        swaks(postfix, canaries, *more)
        (data,) = postfix.collect()
        assert canaries.found(data) == (), data.decode(errors="replace")
        assert [f for f in audit.find(data) if f.weight is audit.Weight.LEAK] == []
        for name in TELLING:
            assert name.encode() + b":" not in data, data.decode(errors="replace")
        header = data.partition(b"\n\n")[0].decode(errors="replace")
        shown += ["-- swaks, one smtpd_milters line, delivered header:",
                  *("   " + line for line in header.split("\n"))]  # fmt: skip

        # The counter-proof: the same Postfix without that line.
        postfix.restart(Setup(main=TALKATIVE))
        swaks(postfix, canaries, *more)
        (data,) = postfix.collect()
        assert {"address", "EHLO", "login"} <= set(canaries.found(data))
        assert all(f"{name}: {value}".encode() in data for name, value in TELLING.items())
