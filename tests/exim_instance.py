"""A throw-away Exim on loopback with the shipped configuration of conf/exim.

`EximInstance(programs, policy)`, where policy is the unix socket of gatepost-policyd, or its port
as in older instructions, starts one in the foreground as our child, on free ports, as the
user Debian-exim that is compiled into Debian's package. Mail to local.test lands in `inbox`, all
other mail in `outbound`. With `dns` it runs in a mount namespace of its own, in which resolv.conf
names our server: the machine's file is not touched.
"""

import os
import pwd
import subprocess
from pathlib import Path

from mta_common import LOGIN, PASSWORD, Mta, certificate
from mta_unpack import Programs

CONF = Path(__file__).parents[1] / "conf/exim"
SHIPPED = "/run/gatepost/exim/policy.sock"
FILES = ("gatepost-main.conf", "gatepost-acl.conf", "gatepost-routers.conf")

# An operator's own configuration, with gatepost's lines where docs/exim.md says.
CONFIGURATION = """\
primary_hostname = mx.local.test
exim_path = {exim}
exim_user = Debian-exim
exim_group = Debian-exim
spool_directory = {root}/spool
log_file_path = {root}/log/%slog
log_selector = +smtp_protocol_error +smtp_syntax_error
local_interfaces = <; 127.0.0.1 ; ::1
deliver_drop_privilege
host_lookup =
rfc1413_hosts =
never_users =
local_from_check = false
local_sender_retain = true
trusted_users = root
keep_environment = LD_LIBRARY_PATH
add_environment =
tls_advertise_hosts = *
tls_certificate = {root}/tls.pem
domainlist local_domains = local.test
acl_smtp_rcpt = acl_rcpt
acl_smtp_data = acl_data
timezone = UTC
bounce_return_size_limit = 100K
queue_run_in_order
{main}
begin acl
{acl}
acl_rcpt:
  deny    condition = ${{if eq{{$received_port}}{{{submission}}}}}
          !authenticated = *
          message = authentication required
{rcpt}
  accept  authenticated = *
  accept  domains = +local_domains
          condition = ${{if !match{{$local_part}}{{^nobody}}}}
  deny    domains = +local_domains
          message = 550 5.1.1 User unknown
  deny    message = relay not permitted
acl_data:
{data}
  accept

begin routers
{routers}
fail_r:
  driver = redirect
  domains = fail.test
  allow_fail
  data = :fail: no such user
local_r:
  driver = accept
  domains = +local_domains
  transport = inbox
out_r:
  driver = accept
  transport = outbound

begin transports
inbox:
  driver = appendfile
  directory = {root}/mail/inbox
  maildir_format
  create_directory
  envelope_to_add
  return_path_add
outbound:
  driver = appendfile
  directory = {root}/mail/outbound
  maildir_format
  create_directory
  envelope_to_add
  return_path_add

begin retry
* * F,1h,1m

begin rewrite

begin authenticators
plain:
  driver = plaintext
  public_name = PLAIN
  server_advertise_condition = ${{if eq{{$received_port}}{{{submission}}}}}
  server_prompts = :
  server_condition = ${{if and{{ {{eq{{$auth2}}{{{login}}}}} {{eq{{$auth3}}{{{password}}}}} }}}}
  server_set_id = $auth2
"""


class EximInstance(Mta):
    """One running Exim. `policy` is where gatepost-policyd listens; `gatepost=False`: without it;
    `run=False`: only the configuration."""

    def __init__(
        self, programs: Programs, policy: int | Path, *, dns: str = "", gatepost: bool = True,
        replace: tuple[tuple[str, str], ...] = (), run: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(programs, "Exim")
        self.policy, self.gatepost, self.dns, self.replace = policy, gatepost, dns, replace
        self.exim = programs.root / "usr/sbin/exim4"
        self.config = self.root / "exim.conf"
        try:
            self._lay_out()
            if run:
                self._start()
        except BaseException:
            self.stop()
            raise

    def _lay_out(self) -> None:
        user = pwd.getpwnam("Debian-exim")
        for name in ("spool", "log", "mail"):
            (self.root / name).mkdir()
            os.chown(self.root / name, user.pw_uid, user.pw_gid)
        for name in FILES:
            text = (CONF / name).read_text()
            asks = str(self.policy) if isinstance(self.policy, Path) else (
                f"inet:127.0.0.1:{self.policy}"
            )  # fmt: skip
            if name == "gatepost-main.conf":
                assert text.count(SHIPPED) == 2, "the line for gatepost.toml, and the macro"
            text = text.replace(SHIPPED, asks)
            text = text.replace("587 : 465", f"{self.submission_port} : 465")
            for old, new in self.replace:
                text = text.replace(old, new)
            (self.root / name).write_text(text)
        (self.root / "tls.pem").write_bytes(certificate())
        os.chown(self.root / "tls.pem", user.pw_uid, user.pw_gid)
        (self.root / "tls.pem").chmod(0o600)

        def included(name: str) -> str:
            return f".include {self.root}/{name}" if self.gatepost else ""

        self.config.write_text(
            CONFIGURATION.format(
                exim=self.exim, root=self.root, submission=self.submission_port,
                login=LOGIN, password=PASSWORD,
                main=included("gatepost-main.conf"), acl=included("gatepost-acl.conf"),
                routers=included("gatepost-routers.conf"),
                rcpt="  require acl = gatepost_rcpt" if self.gatepost else "",
                data="  require acl = gatepost_data" if self.gatepost else "",
            )
        )  # fmt: skip

    def _start(self) -> None:
        ports = " ; ".join(
            f"[{host}]:{port}"
            for host in ("127.0.0.1", "::1")
            for port in (self.inbound_port, self.submission_port)
        )
        command = [str(self.exim), "-C", str(self.config), "-bdf", "-oX", f"<; {ports}",
                   "-oP", str(self.root / "exim.pid")]  # fmt: skip
        if self.dns:
            resolv = self.root / "resolv.conf"
            resolv.write_text(f"nameserver {self.dns}\noptions timeout:1 attempts:1\n")
            mount = f'mount --bind {resolv} "$(readlink -f /etc/resolv.conf)" && exec "$@"'
            command = ["unshare", "--mount", "sh", "-c", mount, "sh", *command]
        self.launch(command, self.programs.environment(), self.root / "output")

    def run(self, *args: str, stdin: bytes = b"") -> str:
        """Run exim itself on this configuration: -bP, -be, or hand it a message."""
        done = subprocess.run(
            [self.exim, "-C", self.config, *args], env=self.programs.environment(), input=stdin,
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        return (done.stdout + done.stderr).decode(errors="replace")

    def log_text(self) -> str:
        logs = [*sorted((self.root / "log").glob("*log")), self.root / "output"]
        return "".join(p.read_text(errors="replace") for p in logs if p.exists())
