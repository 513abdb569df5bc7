"""What `check postfix` says beside its findings: milters behind ours, sockets open to everybody."""

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import mta_unpack
from broken_postfix import Broken, Sockets, instance, settings
from daemons import BIN
from gatepost_milter.doctor import postfix_config, postfix_warnings
from gatepost_policy.system.socket_address import SocketAddress
from postfix_instance import PostfixInstance

pytestmark = [pytest.mark.postfix, pytest.mark.timeout(120)]

SOCKETS = Sockets("18894", 18040, 9)


def notes(made: PostfixInstance, sockets: Sockets = SOCKETS) -> tuple[str, ...]:
    config = postfix_config.read(made.etc, made.commands_for_check())
    return postfix_warnings.notes(config, settings("milter", sockets))


def test_milters_behind_ours_are_named(postfix_programs: mta_unpack.Programs) -> None:
    chain = "@MILTER@, inet:127.0.0.1:11332, { unix:spamass/spamass.sock, default_action=accept }"
    with instance(
        postfix_programs, Broken("x", "", main={"smtpd_milters": chain}), SOCKETS
    ) as made:
        found = [one for one in notes(made) if "stands behind gatepost" in one]
    assert [one.split()[2] for one in found] == [
        "inet:127.0.0.1:11332", "unix:spamass/spamass.sock",
    ]  # fmt: skip
    assert all("good_messages" in one for one in found)


def test_what_stands_before_or_alone_is_not(postfix_programs: mta_unpack.Programs) -> None:
    """The counter-proof. A signer behind ours on submission meets no stranger's mail."""
    for chain in ("@MILTER@", "inet:127.0.0.1:8891, @MILTER@"):
        fault = Broken("x", "", main={"smtpd_milters": chain},
                       submission={"smtpd_milters": "@MILTER@, inet:127.0.0.1:8891"})  # fmt: skip
        with instance(postfix_programs, fault, SOCKETS) as made:
            assert not [one for one in notes(made) if "stands behind" in one]


@pytest.mark.parametrize("listener", ["main.cf", "submission"])
def test_certificates_are_no_logins(listener: str, postfix_programs: mta_unpack.Programs) -> None:
    """On a listener for strangers; on one of our own users' all mail is theirs."""
    value = {"smtpd_relay_restrictions": "permit_tls_clientcerts, reject_unauth_destination"}
    own = listener == "submission"
    fault = Broken("x", "", main={} if own else value, submission=value if own else {})
    with instance(postfix_programs, fault, SOCKETS) as made:
        found = [one for one in notes(made) if "permit_tls_clientcerts" in one]
        assert bool(found) is (listener == "main.cf")


def test_tcp_is_warned_of_and_unix_is_not(
    postfix_programs: mta_unpack.Programs, tmp_path: Path
) -> None:
    with instance(postfix_programs, Broken("x", ""), SOCKETS) as made:
        (one,) = notes(made)
        assert f'[milter] socket = "unix:{made.spool}/gatepost/milter.sock"' in one
        assert f'[policy] listen = "unix:{made.spool}/gatepost/policy.sock"' in one
        file = tmp_path / "gatepost.toml"
        file.write_text(f'[milter]\nsocket = "inet:{SOCKETS.milter}@127.0.0.1"\n'
                          f'[policy]\nlisten = "inet:{SOCKETS.policy}@127.0.0.1"\n')  # fmt: skip
        command: list[str | Path] = [
            BIN / "milterctl", "--config", file, "check", "postfix", "-c", made.etc,
            "--command-directory", made.commands_for_check(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert "warning  Postfix asks gatepost over TCP" in done.stdout
        done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True)
        assert "over TCP" not in done.stdout and "over TCP" in done.stderr
    there = replace(SOCKETS, milter="unix:@SPOOL@/gatepost/m.sock")
    with instance(postfix_programs, Broken("x", ""), there) as made:
        for name in ("main.cf", "master.cf"):
            path = made.etc / name
            text = path.read_text().replace("@SPOOL@", str(made.spool))
            path.write_text(text.replace("inet:127.0.0.1:18040", "unix:gatepost/p.sock"))
        live = settings("milter", replace(there, milter=f"unix:{made.spool}/gatepost/m.sock"))
        policy = replace(
            live.policy, listen=(SocketAddress("unix", path=f"{made.spool}/gatepost/p.sock"),)
        )
        live = replace(live, policy=policy)
        config = postfix_config.read(made.etc, made.commands_for_check())
        assert postfix_warnings.notes(config, live) == ()
