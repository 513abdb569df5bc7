"""A throw-away Postfix on loopback: inbound and submission listeners, mail delivered to Maildirs.

`PostfixInstance(programs, setup)` starts one; `stop()` ends it and leaves nothing behind. Ports are
free ones, `master` is our own child. What the recipes in conf/postfix say is put in through
`Setup`: main.cf lines, options of the two listeners and further services. Mail to local.test lands
in `inbox`, all other mail in `outbound`; nothing ever leaves the machine.
"""

import grp
import os
import pwd
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mta_common import DELIVERY_TIMEOUT, HOST, LOGIN, PASSWORD, START_TIMEOUT, Mta, certificate
from mta_unpack import Programs
from postfix_recipes import entries
from sasl_stub import SaslStub

__all__ = ["HOST", "LOGIN", "PASSWORD", "START_TIMEOUT", "PostfixInstance", "Setup", "version"]

VIRTUAL = """\
# nobody...@local.test is unknown at RCPT, everything at fail.test only at delivery: a bounce
if !/^nobody[^@]*@local\\.test$|@fail\\.test$/
/@local\\.test$/  inbox/
/@/               outbound/
endif
"""
MASTER = """\
pickup unix n - n 60 1 pickup
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
tlsmgr unix - - n 1000? 1 tlsmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
verify unix - - n - 1 verify
flush unix n - n 1000? 0 flush
proxymap unix - - n - - proxymap
proxywrite unix - - n - 1 proxymap
smtp unix - - n - - smtp
relay unix - - n - - smtp
showq unix n - n - - showq
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
local unix - n n - - local
virtual unix - n n - - virtual
lmtp unix - - n - - lmtp
anvil unix - - n - 1 anvil
scache unix - - n - 1 scache
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(slots=True)
class Setup:
    """What one instance is told beyond its bones. Values are Postfix's own syntax."""

    main: Mapping[str, str] = field(default_factory=dict)
    submission: Mapping[str, str] = field(default_factory=dict)
    inbound: Mapping[str, str] = field(default_factory=dict)
    recipe: str = ""  # a submission entry of conf/postfix; {etc} and so on already put in
    services: str = ""
    files: Mapping[str, str] = field(default_factory=dict)  # in the configuration directory
    sasl: bool = True


class PostfixInstance(Mta):
    """One running Postfix, or with `run=False` only its configuration. A context manager."""

    def __init__(self, programs: Programs, setup: Setup, *, run: bool = True) -> None:
        super().__init__(programs, "Postfix")
        self.setup = setup
        self.etc, self.spool = self.root / "etc", self.root / "spool"
        self.log = self.root / "maillog"
        self.sasl: SaslStub | None = None
        try:
            self._lay_out()
            self.write_config()
            if run:
                self.start()
        except BaseException:
            self.stop()
            raise

    # -- life ---------------------------------------------------------------------------------

    @property
    def sbin(self) -> Path:
        return self.programs.root / "usr/lib/postfix/sbin"

    @property
    def commands(self) -> Path:
        return self.programs.root / "usr/sbin"

    def environment(self) -> dict[str, str]:
        return {**self.programs.environment(), "MAIL_CONFIG": str(self.etc), "TZ": "UTC"}

    def _lay_out(self) -> None:
        postfix, nobody = pwd.getpwnam("postfix"), pwd.getpwnam("nobody")
        postdrop = grp.getgrnam("postdrop").gr_gid
        for path in (self.etc, self.spool, self.mail, self.root / "data", self.root / "sasl"):
            path.mkdir()
        os.chown(self.mail, nobody.pw_uid, nobody.pw_gid)
        os.chown(self.root / "data", postfix.pw_uid, postfix.pw_gid)
        (self.spool / "pid").mkdir()
        for name in ("active", "bounce", "corrupt", "defer", "deferred", "flush", "hold",
                     "incoming", "private", "saved", "trace"):  # fmt: skip
            (self.spool / name).mkdir(mode=0o700)
            os.chown(self.spool / name, postfix.pw_uid, 0)
        for name, mode in (("maildrop", 0o1730), ("public", 0o2710)):
            (self.spool / name).mkdir()
            os.chown(self.spool / name, postfix.pw_uid, postdrop)
            (self.spool / name).chmod(mode)

    def main_cf(self) -> dict[str, str]:
        """The bones; `Setup.main` is laid over them."""
        nobody = pwd.getpwnam("nobody")
        lib = self.programs.root / "usr/lib/postfix"
        return {
            "compatibility_level": "3.6" if version(self.programs) >= (3, 6) else "2",
            "myhostname": HOST,
            "mydestination": "",
            "alias_maps": "",
            "alias_database": "",
            "local_recipient_maps": "",
            "mynetworks": "",
            "inet_interfaces": "127.0.0.1, ::1",
            "inet_protocols": "ipv4, ipv6",
            "queue_directory": str(self.spool),
            "data_directory": str(self.root / "data"),
            "daemon_directory": str(self.sbin),
            "command_directory": str(self.commands),
            "shlib_directory": str(lib),
            "meta_directory": str(self.etc),
            "import_environment": "MAIL_CONFIG LD_LIBRARY_PATH TZ",
            "export_environment": "MAIL_CONFIG LD_LIBRARY_PATH TZ",
            "maillog_file": str(self.log),
            "maillog_file_prefixes": str(self.root),
            "syslog_name": "test",
            "virtual_mailbox_domains": "local.test",
            "virtual_mailbox_base": str(self.mail),
            "virtual_mailbox_maps": f"regexp:{self.etc}/mailboxes",
            "virtual_uid_maps": f"static:{nobody.pw_uid}",
            "virtual_gid_maps": f"static:{nobody.pw_gid}",
            "default_transport": "virtual",
            "relay_transport": "virtual",
            "local_transport": "error:no local mail",
            "smtpd_peername_lookup": "no",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject_unauth_destination",
            "smtpd_recipient_restrictions": "permit",
            # Loopback clients must look like strangers: nothing is completed in their headers.
            "local_header_rewrite_clients": "",
            "smtpd_sasl_type": "dovecot",
            "smtpd_sasl_path": str(self.root / "sasl/auth"),
            "smtpd_tls_security_level": "may",
            "smtpd_tls_chain_files": f"{self.etc}/tls.pem",
            "smtp_tls_security_level": "none",
            # Not all machines that run tests have entropy daemons or a slow random device.
            "tls_random_source": "dev:/dev/urandom",
            "smtpd_client_connection_rate_limit": "0",
            "smtpd_client_event_limit_exceptions": "127.0.0.0/8, [::1]",
            "milter_connect_timeout": "20s",
            "in_flow_delay": "0",
            # Postmaster's transcripts of failed sessions would land among the delivered mail.
            "notify_classes": "",
            "queue_run_delay": "300s",
            "enable_long_queue_ids": "no",
            **self.setup.main,
        }

    def write_config(self) -> None:
        """(Re)write the configuration; `reload` or `restart` makes it count."""
        lines = [f"{k} = {v}" for k, v in self.main_cf().items()]
        (self.etc / "main.cf").write_text("\n".join(lines).replace("@ETC@", str(self.etc)) + "\n")
        (self.etc / "mailboxes").write_text(VIRTUAL)
        (self.etc / "tls.pem").write_bytes(certificate())
        (self.etc / "tls.pem").chmod(0o600)
        system = Path("/etc/postfix/dynamicmaps.cf")
        (self.etc / "dynamicmaps.cf").write_text(system.read_text() if system.exists() else "")
        for name, text in self.setup.files.items():
            (self.etc / name).write_text(text.replace("@ETC@", str(self.etc)))
        (self.etc / "master.cf").write_text(self.master_cf().replace("@ETC@", str(self.etc)))
        for path in self.etc.iterdir():
            # Postfix waits until a configuration file is older than a second.
            os.utime(path, (time.time() - 60, time.time() - 60))

    def master_cf(self) -> str:
        inbound = {
            "smtpd_authorized_xclient_hosts": "127.0.0.0/8, [::1]",
            **self.setup.inbound,
        }
        submission = {
            "smtpd_tls_security_level": "may",
            "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
            "smtpd_authorized_xclient_hosts": "127.0.0.0/8, [::1]",
            **self.setup.submission,
        }
        text = MASTER
        if self.setup.recipe:
            entry, services = self._recipe()
            text += services
        else:
            entry = listener("submission", {"smtpd_sasl_auth_enable": "yes"})
        for name, value in submission.items():
            entry += f"  -o {{ {name} = {value} }}\n"
        for host in ("127.0.0.1", "[::1]"):
            text += listener(f"{host}:{self.inbound_port}", inbound)
            if self.setup.sasl:
                text += f"{host}:{self.submission_port}" + entry.removeprefix("submission")
        return text + self.setup.services

    def _recipe(self) -> tuple[str, str]:
        """The submission entry of the recipe, and the other services that it brings."""
        found = entries(self.setup.recipe.replace("@ETC@", str(self.etc)))
        return found.pop("submission"), "".join(found.values())

    def start(self) -> None:
        if self.setup.sasl and self.sasl is None:
            self.sasl = SaslStub(self.root / "sasl/auth", LOGIN, PASSWORD)
        self.log.touch()
        self.launch(
            [self.sbin / "master", "-c", self.etc, "-d"], self.environment(), self.root / "stderr"
        )

    def stop(self) -> None:
        """End it, the authentication server too, and leave nothing behind."""
        self.end_process()
        if self.sasl is not None:
            self.sasl.stop()
            self.sasl = None
        super().stop()

    def restart(self, setup: Setup | None = None) -> None:
        """Take another configuration, from a stand-still.

        What is in a mailbox may still be in the queue for a moment: ended then, Postfix would
        deliver it once more after the start.
        """
        end = time.monotonic() + 5
        while self._on_its_way() and time.monotonic() < end:
            time.sleep(0.02)
        self.end_process()
        if setup is not None:
            self.setup = setup
        self.write_config()
        self.start()

    # -- use ----------------------------------------------------------------------------------

    def command(self, name: str, *args: str, stdin: bytes | None = None) -> bytes:
        """Run one of Postfix's own commands on this instance; its output."""
        done = subprocess.run(
            [self.commands / name, *args], env=self.environment(), input=stdin,
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        return done.stdout + done.stderr

    def commands_for_check(self) -> Path:
        """A directory with Postfix's commands that find their libraries by themselves."""
        folder = self.root / "bin"
        folder.mkdir(exist_ok=True)
        libraries = self.environment().get("LD_LIBRARY_PATH", "")
        for name in ("postconf", "postmap", "postfix"):
            path = folder / name
            path.write_text(
                f'#!/bin/sh\nLD_LIBRARY_PATH={libraries} exec {self.commands / name} "$@"\n'
            )
            path.chmod(0o755)
        return folder

    def log_text(self) -> str:
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def queue_is_empty(self) -> bool:
        """True where no message waits or is on its way."""
        return not self._on_its_way("incoming", "active", "deferred", "maildrop")

    def _on_its_way(self, *queues: str) -> bool:
        names = queues or ("incoming", "active")
        return any(path.is_file() for name in names for path in (self.spool / name).rglob("*"))

    def settle(self) -> None:
        """Wait until the queue is empty."""
        end = time.monotonic() + DELIVERY_TIMEOUT
        while not self.queue_is_empty():
            if time.monotonic() > end:
                raise AssertionError(f"the queue does not empty:\n{self.log_text()}")
            time.sleep(0.02)


def version(programs: Programs) -> tuple[int, ...]:
    """(3, 7, 11) for Postfix 3.7.11."""
    done = subprocess.run(
        [programs.root / "usr/sbin/postconf", "-dh", "mail_version"], check=True,
        capture_output=True, env=programs.environment(),
    )  # fmt: skip
    return tuple(int(n) for n in re.findall(r"\d+", done.stdout.decode().partition("-")[0]))


def listener(where: str, options: Mapping[str, str]) -> str:
    """One smtpd listener of master.cf. Values with spaces or commas go into braces."""
    lines = [f"{where} inet n - n - - smtpd"]
    lines += [f"  -o {{ {name} = {value} }}" for name, value in options.items()]
    return "\n".join(lines) + "\n"
