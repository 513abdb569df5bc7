"""The milters that are compared, each started on its own socket and ended by its own pid.

A peer whose program is not here is left out, and the table says so. All of them verify DKIM
and add Authentication-Results, ask the same name server on loopback, and do nothing else;
gatepost does all that it does by default: it verifies, looks up traps and listings, judges, counts,
logs and writes every message to its journal and its store.
"""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
DNS_PORT = 5365

UNBOUND = """server:
  directory: "{run}"
  chroot: ""
  username: ""
  pidfile: "{run}/unbound.pid"
  interface: 127.0.0.1
  port: {dns_port}
  do-daemonize: no
  use-syslog: no
  verbosity: 0
  num-threads: 1
  access-control: 127.0.0.0/8 allow
  do-not-query-localhost: no
  module-config: "iterator"
  include: "{corpus}/zone.conf"
remote-control:
  control-enable: no
"""

OPENDKIM = """Mode v
Syslog no
Background no
AutoRestart no
Socket {opendkim_socket}
PidFile {run}/opendkim.pid
UMask 002
Nameservers 127.0.0.1@{dns_port}
AuthservID opendkim.example.net
On-BadSignature accept
On-Default accept
InternalHosts 203.0.113.1
"""

RSPAMD = """options {{
  pidfile = "{run}/rspamd.pid"; filters = "dkim"; tempdir = "{run}"; rrd = "";
  dns {{ nameserver = ["127.0.0.1:{dns_port}:1"]; timeout = 5s; }}
  cache_file = "{run}/rspamd.cache"; hs_cache_dir = "{run}"; history_file = "{run}/rspamd.history";
  stats_file = "{run}/rspamd.stats"; control_socket = "{run}/rspamd.control mode=0600";
  dynamic_conf = ""; task_timeout = 60s; max_message = 50Mb; check_all_filters = true;
  url_tld = "/usr/share/rspamd/effective_tld_names.dat"; local_addrs = "203.0.113.1/32";
}}
logging {{ type = "file"; filename = "{run}/rspamd.log"; level = "error"; }}
worker "rspamd_proxy" {{
  bind_socket = "{rspamd_socket}"; milter = yes; timeout = 120s; count = 1;
  upstream "local" {{ default = yes; self_scan = yes; }}
}}
actions {{ reject = 1000; add_header = 900; greylist = 800; }}
dkim {{ dkim_cache_size = 2k; dkim_cache_expire = 1d; trusted_only = false; max_sigs = 5; }}
milter_headers {{
  use = ["authentication-results"]; skip_local = false; skip_authenticated = false;
  routines {{ authentication-results {{
    remove = 0; spf_symbols {{}} dmarc_symbols {{}} arc_symbols {{}}
  }} }}
}}
modules {{ path = "/usr/share/rspamd/plugins/milter_headers.lua"; }}
lua = "{run}/rspamd.lua";
"""
RSPAMD_LUA = 'require "global_functions" ()\nconfig["regexp"] = {}\nrspamd_maps = {}\n'

DKIMPY = """Syslog no
Mode v
UserID {user}
AuthservID dkimpy.example.net
PidFile {run}/dkimpy-milter.pid
Socket {socket}
InternalHosts 203.0.113.1
UMask 007
"""
# dkimpy-milter asks dnspython's default resolver: only that is changed.
DKIMPY_START = """import sys, dns.resolver
dns.resolver.default_resolver = dns.resolver.Resolver(configure=False)
dns.resolver.default_resolver.nameservers = ["127.0.0.1"]
dns.resolver.default_resolver.port = {dns_port}
import dkimpy_milter
sys.argv = ["dkimpy-milter", sys.argv[1]]
dkimpy_milter.main()
"""

GATEPOST = """[milter]
socket = "{socket}"
{workers}
[dkim]
nameservers = ["127.0.0.1:{dns_port}"]
[store]
url = "{store}"
"""


@dataclass
class Peer:
    """One running milter. `pids` lists its processes, workers included."""

    name: str
    socket: str
    process: subprocess.Popen[bytes]
    run: Path
    notes: dict[str, str] = field(default_factory=dict)

    def pids(self) -> list[int]:
        return list(tree(self.process.pid))

    def stop(self) -> None:
        """End this peer and what it started, by pid."""
        mine = self.pids()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(8)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)
        for pid in mine:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def tree(pid: int) -> Iterator[int]:
    """`pid` and all its descendants that live."""
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found = children.read_text().split()
        except OSError:  # the thread has ended meanwhile
            continue
        for child in found:
            yield from tree(int(child))


def answering(where: str) -> bool:
    """True once somebody accepts connections at `where` (libmilter notation)."""
    kind, _, rest = where.partition(":")
    if kind == "unix":
        with socket.socket(socket.AF_UNIX) as probe:
            return probe.connect_ex(rest) == 0
    port, _, host = rest.partition("@")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def start(
    name: str,
    run: Path,
    corpus: Path,
    transport: str = "unix",
    port: int = 0,
    workers: int | None = None,
    store: str | None = None,
    extra: str = "",
) -> Peer | None:
    """Start one peer, or return None where its program is missing."""
    run = run / f"{name}-{transport}"
    shutil.rmtree(run, ignore_errors=True)  # a store of an earlier run is none of ours
    run.mkdir(parents=True)
    where = f"unix:{run}/socket" if transport == "unix" else f"inet:{port}@127.0.0.1"
    # OpenDKIM and rspamd write sockets in ways of their own.
    words = {
        "run": str(run),
        "corpus": str(corpus),
        "socket": where,
        "opendkim_socket": where.replace("unix:", "local:"),
        "rspamd_socket": f"{run}/socket mode=0666" if transport == "unix" else f"127.0.0.1:{port}",
        "dns_port": str(DNS_PORT),
        "user": "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody"),
        "workers": "" if workers is None else f"workers = {workers}",
        "store": store or f"sqlite:///{run}/gatepost.sqlite",
    }
    command = COMMANDS[name](run, words)
    if command is None:
        return None
    if extra:
        with (run / "gatepost.toml").open("a") as config:
            config.write(extra)
    (run / "socket").unlink(missing_ok=True)
    (run / "dkimpy-milter.pid").unlink(missing_ok=True)  # it leaves this and then refuses to start
    log = (run / "log").open("wb")
    process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    peer = Peer(name, where, process, run)
    for _ in range(300):
        if name == "dns" or (process.poll() is None and answering(where)):
            time.sleep(0.5)  # workers fork behind an open socket
            return peer
        if process.poll() is not None:
            break
        time.sleep(0.1)
    peer.stop()
    sys.exit(f"bench: {name} did not start; its output is in {run}/log")


def _write(path: Path, template: str, words: dict[str, str]) -> str:
    path.write_text(template.format(**words))
    return str(path)


def _dns(run: Path, words: dict[str, str]) -> list[str] | None:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind(("127.0.0.1", DNS_PORT))
        except OSError as error:
            # Another name server's answers would turn every signature of the corpus into `fail`.
            where = f"127.0.0.1:{DNS_PORT} (UDP), where the keys are served"
            sys.exit(f"bench: {where}: {error.strerror}")
    program = shutil.which("unbound", path=os.environ["PATH"] + ":/usr/sbin")
    return program and [program, "-d", "-c", _write(run / "conf", UNBOUND, words)] or None


def _opendkim(run: Path, words: dict[str, str]) -> list[str] | None:
    program = shutil.which("opendkim", path=os.environ["PATH"] + ":/usr/sbin")
    return program and [program, "-f", "-x", _write(run / "conf", OPENDKIM, words)] or None


def _rspamd(run: Path, words: dict[str, str]) -> list[str] | None:
    program = shutil.which("rspamd")
    if program is None:
        return None
    (run / "rspamd.lua").write_text(RSPAMD_LUA)
    return [program, "-f", "-i", "-c", _write(run / "conf", RSPAMD, words)]


def _dkimpy(run: Path, words: dict[str, str]) -> list[str] | None:
    python = os.environ.get("BENCH_DKIMPY_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import dkimpy_milter"], capture_output=True).returncode:
        return None
    script = _write(run / "start.py", DKIMPY_START, words)
    return [python, script, _write(run / "conf", DKIMPY, words)]


def _empty(run: Path, words: dict[str, str]) -> list[str] | None:
    return [sys.executable, str(HERE / "empty_milter.py"), words["socket"]]


def _gatepost(run: Path, words: dict[str, str]) -> list[str] | None:
    program = Path(sys.executable).with_name("gatepost-milter")
    return [str(program), "--config", _write(run / "gatepost.toml", GATEPOST, words)]


def _native(run: Path, words: dict[str, str]) -> list[str] | None:
    template = GATEPOST.replace("[milter]\n", '[milter]\nengine = "native"\n')
    program = Path(sys.executable).with_name("gatepost-milter")
    return [str(program), "--config", _write(run / "gatepost.toml", template, words)]


Command = Callable[[Path, dict[str, str]], list[str] | None]
COMMANDS: dict[str, Command] = {
    "dns": _dns,
    "opendkim": _opendkim,
    "rspamd": _rspamd,
    "dkimpy-milter": _dkimpy,
    "empty-pymilter": _empty,
    "gatepost": _gatepost,
    "gatepost-native": _native,
}
