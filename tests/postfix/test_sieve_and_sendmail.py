"""Dovecot's Sieve beside a real Postfix, and Sendmail in Postfix's place, with the lines of
docs/neighbours.md."""

import os
import pwd
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dovecot
import mta_unpack
from daemons import Daemon, Process
from mta_modes import BASE_CONFIG
from neighbours import CANARIES, MESSAGE, listening, mail_server, shown, unpacked
from ports import free_port
from smtp_client import Client

pytestmark = [
    pytest.mark.postfix, pytest.mark.neighbours, pytest.mark.one_engine, pytest.mark.timeout(300),
]  # fmt: skip
STRANGER = (
    b"Received: from desk.stranger.example (desk [192.0.2.44])\r\n\tby out.stranger.example with"
    b" ESMTPSA id x; Fri, 20 Nov 2026 09:59:58 +0000\r\nX-Mailer: Carols Mailer\r\n"
    b"From: carol@stranger.example\r\nTo: alice@local.test\r\nSubject: x\r\n"
    b"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <2@stranger.example>\r\n\r\nx\r\n"
)
TRACE = (
    b"192.0.2.7",
    b"192.0.2.44",
    b"Carols Mailer",
    b"X-Sieve-Redirected-From: alice@local.test",
)


@contextmanager
def lmtp(files: mta_unpack.Programs, folder: Path, port: int, lines: str) -> Iterator[None]:
    """Dovecot's LMTP on `port`; alice has a Sieve rule that hands everything on."""
    nobody = pwd.getpwnam("nobody")
    home = folder / "home/alice"
    home.mkdir(parents=True)
    (home / ".dovecot.sieve").write_text('redirect "bob@example.org";\n')
    for path in (home.parent, home, home / ".dovecot.sieve"):
        os.chown(path, nobody.pw_uid, nobody.pw_gid)
    with dovecot.running(files, folder, "lmtp", port, lines):
        yield


@pytest.mark.parametrize("what", ["as documented", "on the port for strangers"])
def test_sieve(what: str, postfix_programs: mta_unpack.Programs, folder: Path) -> None:
    files = unpacked("sieve", "usr/sbin/dovecot", "neighbours")
    services, lines, config = shown("Dovecot Sieve")[:3]
    back, port = free_port(), free_port()
    services = services.replace("10028", str(back))
    main = {"transport_maps": f"inline:{{alice@local.test=lmtp:inet:127.0.0.1:{port}}}"}
    documented = what == "as documented"
    if not documented:
        main["mynetworks"] = "127.0.0.0/8"
        main["smtpd_relay_restrictions"] = "permit_mynetworks, reject_unauth_destination"
        config = ""
    with mail_server(postfix_programs, services, config, main) as stack:
        listener = back if documented else stack.postfix.inbound_port
        with lmtp(files, folder, port, lines.replace("10028", str(listener))):
            client = stack.postfix.inbound(
                helo="stranger.example", xclient="NAME=stranger.example ADDR=192.0.2.7"
            )
            sent = client.send(STRANGER, "carol@stranger.example", ["alice@local.test"])
            assert sent.code == 250, (sent, client.transcript)
            (data,) = stack.postfix.collect()
            log = stack.gatepost.text()
            said = (log, (folder / "dovecot.log").read_text(), data.decode())
            assert [t for t in TRACE if t not in data] == [], said
            assert data.count(b"Authentication-Results: mx.local.test;") == 1, said
            # Alice's own mail to herself: the scrub was done when she handed it in.
            user = stack.postfix.submission(helo="canary-laptop.example", source="127.0.0.77")
            message = MESSAGE.replace(b"To: bob", b"To: alice")
            assert user.send(message, "alice@local.test", ["alice@local.test"]).code == 250
            (data,) = stack.postfix.collect()
            assert [c for c in CANARIES if c in data] == [], data.decode(errors="replace")
        log = stack.gatepost.text()
        seen = re.findall(r"direction=(\S+).* reason=(\S+)", log)
        assert seen == [("inbound", "no-bad-signal"), ("submission", "scrubbed")], log
        assert log.count("event=second-pass") == 2, log


RECIPIENT = "nobody@local.test"  # Sendmail wants a user of this machine
SENDMAIL_MC = """\
divert(-1)
define(`_CF_DIR_', `{root}/usr/share/sendmail/cf/')dnl
divert(0)dnl
include(`{root}/usr/share/sendmail/cf/m4/cf.m4')dnl
VERSIONID(`test')dnl
OSTYPE(`linux')dnl
define(`confDOMAIN_NAME', `mx.local.test')dnl
define(`QUEUE_DIR', `{home}/queue')dnl
define(`confPID_FILE', `{home}/pid')dnl
define(`ALIAS_FILE', `text:{home}/aliases')dnl
define(`STATUS_FILE', `{home}/statistics')dnl
define(`confCONTROL_SOCKET_NAME', `')dnl
define(`confHOST_STATUS_DIRECTORY', `')dnl
define(`confDONT_BLAME_SENDMAIL', `GroupWritableDirPathSafe,TrustStickyBit')dnl
define(`confCW_FILE', `{home}/names')dnl
define(`confBIND_OPTS', `-DNSRCH -DEFNAMES')dnl
define(`confTO_IDENT', `0')dnl
define(`confDELIVERY_MODE', `queueonly')dnl
define(`confREFUSE_LA', `900')dnl
FEATURE(`use_cw_file')dnl
FEATURE(`no_default_msa')dnl
FEATURE(`nocanonify')dnl
FEATURE(`accept_unresolvable_domains')dnl
DAEMON_OPTIONS(`Family=inet, Name=MTA, Port={port}, Addr=127.0.0.1')dnl
DAEMON_OPTIONS(`Family=inet, Name=ORIGINATING, Port={submission}, Addr=127.0.0.1, M=E')dnl
{filter}
MAILER(`local')dnl
MAILER(`smtp')dnl
"""  # fmt: skip


@contextmanager
def sendmail(
    files: mta_unpack.Programs, folder: Path, port: int, submission: int, line: str
) -> Iterator[Process]:
    """Sendmail with this INPUT_MAIL_FILTER; what it takes stays in its queue."""
    home = folder / "sendmail"
    (home / "queue").mkdir(parents=True, mode=0o700)
    (home / "names").write_text("local.test\n")
    (home / "aliases").touch()
    text = SENDMAIL_MC.format(root=files.root, home=home, port=port, submission=submission,
                              filter=line)  # fmt: skip
    (home / "sendmail.mc").write_text(text)
    environ = files.environment()
    made = subprocess.run([files.root / "usr/bin/m4", home / "sendmail.mc"], check=True,
                          capture_output=True, env=environ)  # fmt: skip
    (home / "sendmail.cf").write_bytes(made.stdout)
    program_file = files.root / "usr/libexec/sendmail/sendmail"
    # It waits a minute for a machine whose name it cannot look up.
    (home / "hosts").write_text("127.0.0.1 mx.local.test localhost\n")
    put = f"hostname mx.local.test; mount --bind {home}/hosts /etc/hosts"
    command: list[str | Path] = [
        "unshare", "--mount", "--uts", "sh", "-ec", f'{put}; exec "$0" -C "$1" -bD', program_file,
        home / "sendmail.cf",
    ]  # fmt: skip
    with listening(command, files, folder / "output", port) as running:
        yield running


@pytest.mark.parametrize("mode", ["milter", "mta", "proxy"])
def test_sendmail(mode: str, folder: Path) -> None:
    """Strangers' mail gets its results; what users hand in gets 451, whatever is configured."""
    files = unpacked("sendmail", "usr/libexec/sendmail/sendmail", "neighbours")
    (line,) = shown("Sendmail")
    port, submission = free_port(), free_port()
    with Daemon(f'{BASE_CONFIG}[submission]\nown_received = "{mode}"\n') as daemon:
        line = line.replace("inet:8894@127.0.0.1", f"inet:{daemon.port}@127.0.0.1")
        with sendmail(files, folder, port, submission, line):
            stranger = Client("127.0.0.1", port, helo="stranger.example", source="127.0.0.99")
            sent = stranger.send(STRANGER, "carol@stranger.example", [RECIPIENT])
            assert sent.code == 250, (sent, stranger.transcript)
            queue = folder / "sendmail/queue"
            (path,) = queue.glob("qf*")
            header = path.read_bytes()  # RFC 5322 fields behind "H??", among other lines
            assert re.search(rb"Authentication-Results: mx\.local\.test;\s+dkim=none", header), (
                header
            )
            assert b"127.0.0.99" in header and b"192.0.2.44" in header, header
            user = Client("127.0.0.1", submission, helo="canary-laptop.example",
                          source="127.0.0.77")  # fmt: skip
            sent = user.send(MESSAGE, "alice@local.test", [RECIPIENT])
            assert sent.code == 451, (sent, user.transcript, daemon.text())
            wait_until(lambda: "reason=unverified-mta" in daemon.text())
        assert list(queue.glob("qf*")) == [path]


def wait_until(done: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not done():
        assert time.monotonic() < end
        time.sleep(0.05)
