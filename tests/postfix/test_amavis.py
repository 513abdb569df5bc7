"""amavis beside gatepost and a real Postfix, with the lines of docs/neighbours.md."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import mta_unpack
from gatepost_milter.doctor import postfix_around, postfix_config
from gatepost_milter.doctor.finding import Live
from gatepost_policy.config.settings import Settings
from mta_common import Mta
from neighbours import CANARIES, MESSAGE, mail_server, program, shown, unpacked
from ports import free_port
from postfix_instance import PostfixInstance
from postfix_recipes import main_cf
from signed_mail import nameserver, new_key, signed

pytestmark = [
    pytest.mark.postfix, pytest.mark.neighbours, pytest.mark.one_engine, pytest.mark.timeout(300),
]  # fmt: skip
WAS_HERE = re.compile(rb"^Received: from .*\n(?:\s.*\n)*?.*\(amavis", re.M)
CONFIG = """\
use strict;
$max_servers = 1; $daemon_user = 'nobody'; $daemon_group = 'nogroup';
$MYHOME = '{home}'; $TEMPBASE = "$MYHOME/tmp"; $db_home = "$MYHOME/db"; $QUARANTINEDIR = undef;
$pid_file = "$MYHOME/pid"; $lock_file = "$MYHOME/lock";
$enable_db = 0; $enable_zmq = 0; $unix_socketname = undef; $do_syslog = 0; $log_level = 1;
$myhostname = 'mx.local.test'; $mydomain = 'local.test'; @local_domains_acl = ('.local.test');
@mynetworks = qw(127.0.0.0/8); @inet_acl = qw(127.0.0.1); $inet_socket_bind = '127.0.0.1';
$inet_socket_port = {port}; $forward_method = 'smtp:[127.0.0.1]:{back}';
$notify_method = $forward_method; $smtp_connection_cache_enable = 0;  # Postfix is restarted
@bypass_virus_checks_maps = @bypass_spam_checks_maps = (1);
@bypass_banned_checks_maps = @bypass_header_checks_maps = (1);
$enable_dkim_signing = 0; $enable_dkim_verification = 0;
1;
"""


@pytest.fixture(scope="module")
def amavis_files() -> mta_unpack.Programs:
    return unpacked("amavis", "usr/sbin/amavisd", "neighbours")


@contextmanager
def amavis(
    files: mta_unpack.Programs, folder: Path, port: int, back: int, more: str = "", dns: str = ""
) -> Iterator[None]:
    """One amavis that listens on `port` and hands mail back to `back`. `more`: lines of its
    configuration, after the others; `dns`: the address of the resolver that it asks."""
    home = folder / "home"
    folder.chmod(0o755)  # amavis reads here as another user
    home.mkdir()
    for name in ("tmp", "db"):
        (home / name).mkdir()
    for path in (home, *home.iterdir()):
        os.chown(path, 65534, 65534)  # nobody
    config = folder / "amavisd.conf"
    config.write_text(CONFIG.format(home=home, port=port, back=back) + more + "1;\n")
    # It starts itself again and looks for its modules in /usr: there they are, in a namespace.
    put = f"mount -t overlay overlay -o lowerdir={files.root}/usr:/usr /usr"
    if dns:
        (folder / "resolv.conf").write_text(f"nameserver {dns}\n")
        put += f"; mount --bind {folder}/resolv.conf /etc/resolv.conf"
    command: list[str | Path] = [
        "unshare", "--mount", "sh", "-ec", f'{put}; exec /usr/sbin/amavisd -c "$0" foreground',
        config,
    ]  # fmt: skip
    with program(command, files, folder / "output", port):
        yield


def send(postfix: Mta, *, login: bool, to: str = "bob@local.test") -> bytes:
    """MESSAGE by a user, or by a stranger; what arrives."""
    if login:
        client = postfix.submission(helo="canary-laptop.example", source="127.0.0.77")
    else:
        client = postfix.inbound(helo="stranger.example", source="127.0.0.99")
    sent = client.send(MESSAGE, "alice@local.test" if login else "x@y.example", [to])
    assert sent.code == 250, (sent, client.transcript, postfix.log_text())
    (data,) = postfix.collect()
    return data


@pytest.mark.parametrize("what", ["as documented", "gatepost on the way back"])
def test_after_the_queue(
    what: str,
    amavis_files: mta_unpack.Programs,
    postfix_programs: mta_unpack.Programs,
    folder: Path,
) -> None:
    """What amavis gets is scrubbed, and no message is recorded twice."""
    main, services = shown("amavis after the queue")[:2]
    port, back = free_port(), free_port()
    services = services.replace("10025", str(back))
    if what != "as documented":
        services = services.replace("  -o smtpd_milters=\n", "")
    with (
        mail_server(
            postfix_programs, services, main=main_cf(main.replace("10024", str(port)))
        ) as stack,
        amavis(amavis_files, folder, port, back),
    ):
        for to in ("bob@local.test", "carol@example.org"):
            data = send(stack.postfix, login=True, to=to)
            assert WAS_HERE.search(data), data.decode()
            assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")
        data = send(stack.postfix, login=False)
        # The stranger's message has our results, and keeps what is its own.
        assert WAS_HERE.search(data) and b"Canary Mail" in data and b"127.0.0.99" in data
        assert b"Authentication-Results: mx.local.test;" in data, data.decode()
        log = stack.gatepost.text()
        recorded = re.findall(r"direction=.* reason=(\S+)", log)
        assert recorded == ["scrubbed", "scrubbed", "no-bad-signal"], log
        assert log.count("event=second-pass") == (0 if what == "as documented" else 3), log


def test_before_the_queue(
    amavis_files: mta_unpack.Programs, postfix_programs: mta_unpack.Programs, folder: Path
) -> None:
    """Everything leaves; what `check postfix` then says to type mends it."""
    _, services = shown("amavis after the queue")[:2]
    port, back = free_port(), free_port()
    services = services.replace("10025", str(back))
    with (
        mail_server(postfix_programs, services) as stack,
        amavis(amavis_files, folder, port, back),
    ):
        postfix = stack.postfix
        assert isinstance(postfix, PostfixInstance)
        name = "smtpd_proxy_filter"
        postfix.restart(replace(postfix.setup, submission={name: f"127.0.0.1:{port}"}))
        data = send(postfix, login=True)
        assert WAS_HERE.search(data) and all(c in data for c in CANARIES), data.decode()

        config = postfix_config.read(postfix.etc, postfix.commands_for_check())
        live = Live(config, Settings())
        for service in config.submissions(("ORIGINATING",)):
            for finding in postfix_around.proxy_filter(live, service):
                for edit in finding.edits:
                    postfix.command("postconf", edit.option, edit.value)
        mended = postfix_config.read(postfix.etc, postfix.commands_for_check())
        assert {mended.get(name, s) for s in mended.submissions(("ORIGINATING",))} == {""}
        postfix.end_process()
        postfix.start()
        data = send(postfix, login=True)
        assert WAS_HERE.search(data), data.decode()
        assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")


@pytest.mark.parametrize("what", ["as Debian has it", "another name", "no field"])
def test_its_verifier(
    what: str,
    amavis_files: mta_unpack.Programs,
    postfix_programs: mta_unpack.Programs,
    folder: Path,
) -> None:
    """amavis deletes results with its own name, ours where the names are the same; not with either
    of the documented lines."""
    main, services, name, no_field = shown("amavis after the queue")[:4]
    port, back, key = free_port(), free_port(), new_key()
    services = services.replace("10025", str(back))
    lines = {"another name": name, "no field": no_field}.get(what, "")
    lines = "$enable_dkim_verification = 1;\n" + lines.replace("example.org", "local.test")
    message = signed(MESSAGE.replace(b"alice@local.test", b"x@stranger.example"), key)
    with (
        nameserver(key) as dns,
        mail_server(
            postfix_programs, services, main=main_cf(main.replace("10024", str(port))), dns=dns
        ) as stack,
        amavis(amavis_files, folder, port, back, lines, dns),
    ):
        client = stack.postfix.inbound(
            helo="stranger.example", xclient="NAME=stranger.example ADDR=192.0.2.7"
        )
        sent = client.send(message, "x@stranger.example", ["bob@local.test"])
        assert sent.code == 250, (sent, client.transcript)
        (data,) = stack.postfix.collect()
        found = re.findall(rb"^Authentication-Results: ([\w.]+)( \(amavis\))?;\s+dkim=(\w+)", data,
                           re.M)  # fmt: skip
        ours, theirs = (b"mx.local.test", b"", b"pass"), (b" (amavis)", b"pass")
        assert (
            found
            == {
                "as Debian has it": [(b"mx.local.test", *theirs)],
                "another name": [(b"amavis.local.test", *theirs), ours],
                "no field": [ours],
            }[what]
        ), data.decode()
