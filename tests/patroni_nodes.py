"""etcd and two PostgreSQL nodes under Patroni on loopback ports, for `tools/cluster.py`.

Patroni's settings are those of docs/cluster.md, as far as one machine allows.
"""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import postgresql_server
from ports import free_port

NODES = ("n1", "n2")
PATIENCE_S = 120.0


class Cluster:
    """etcd and two Patroni nodes, each with its PostgreSQL."""

    def __init__(self, home: Path, strict: bool) -> None:
        self.home = home
        self.etcd, self.patroni = _program("ETCD", "etcd"), _program("PATRONI", "patroni")
        self.bin = postgresql_server.programs()
        self.user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self.port = {name: free_port() for name in NODES}
        self.api = {name: free_port() for name in NODES}
        self.client = free_port()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        if self.user is not None:
            os.chown(home, self.user.pw_uid, self.user.pw_gid)
        for name in NODES:
            (home / f"{name}.yml").write_text(json.dumps(self._settings(name, strict)))
            if self.user is not None:
                os.chown(home / f"{name}.yml", self.user.pw_uid, self.user.pw_gid)

    def _settings(self, name: str, strict: bool) -> dict[str, object]:
        # JSON is YAML.
        here = "127.0.0.1"
        return {
            "scope": "gatepost",
            "name": name,
            "restapi": {
                "listen": f"{here}:{self.api[name]}", "connect_address": f"{here}:{self.api[name]}"
            },
            "etcd3": {"host": f"{here}:{self.client}"},
            "bootstrap": {
                "dcs": {
                    "ttl": 20, "loop_wait": 2, "retry_timeout": 4,
                    "synchronous_mode": True, "synchronous_mode_strict": strict,
                    "postgresql": {
                        "use_pg_rewind": True,
                        "parameters": {"max_connections": 40, "shared_buffers": "32MB"},
                    },
                },
                "initdb": [{"encoding": "UTF8"}, {"locale": "C.UTF-8"}, "data-checksums"],
            },
            "postgresql": {
                "listen": f"{here}:{self.port[name]}",
                "connect_address": f"{here}:{self.port[name]}",
                "data_dir": f"{self.home}/{name}",
                "bin_dir": str(self.bin),
                "pgpass": f"{self.home}/pgpass-{name}",
                "authentication": {
                    "superuser": {"username": "postgres", "password": "postgres"},
                    "replication": {"username": "replica", "password": "replica"},
                    "rewind": {"username": "rewind", "password": "rewind"},
                },
                "parameters": {"unix_socket_directories": str(self.home)},
                "pg_hba": [
                    "local all all trust",
                    f"host all all {here}/32 trust",
                    f"host replication all {here}/32 trust",
                ],
            },
            "watchdog": {"mode": "off"},
        }  # fmt: skip

    @property
    def url(self) -> str:
        """Both nodes, and whichever takes writes."""
        hosts = ",".join(f"127.0.0.1:{self.port[name]}" for name in NODES)
        return (
            f"postgresql://postgres@{hosts}/postgres"
            "?target_session_attrs=read-write&connect_timeout=2&tcp_user_timeout=3000"
        )

    def start(self) -> None:
        """etcd, the first leader, the replica, and streaming."""
        here = f"http://127.0.0.1:{self.client}"
        peer = f"http://127.0.0.1:{free_port()}"
        self._run(
            "etcd", self.etcd, "--data-dir", f"{self.home}/etcd",
            "--listen-client-urls", here, "--advertise-client-urls", here,
            "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
            "--initial-cluster", f"default={peer}",
        )  # fmt: skip
        until(lambda: self._asks(self.client, "/health") is not None, "etcd")
        for name in NODES:
            self.start_node(name)
            until(partial(self._serves, name), f"node {name}")
        until(self.streams, "streaming")

    def start_node(self, name: str) -> None:
        """Patroni, which starts its PostgreSQL."""
        self._run(name, self.patroni, f"{self.home}/{name}.yml")

    def kill(self, name: str) -> None:
        """kill -9 of Patroni and of every PostgreSQL process of the node."""
        patroni = self.processes.pop(name)
        victims = [patroni.pid]
        with suppress(OSError, ValueError):
            postmaster = int((self.home / name / "postmaster.pid").read_text().splitlines()[0])
            victims.append(postmaster)
            text = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text()
            victims += map(int, text.split())
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        patroni.wait()

    def switchover(self) -> None:
        """An ordered change of the leader."""
        leader = self.leader()
        assert leader is not None
        body = json.dumps({"leader": leader}).encode()
        with suppress(OSError):
            urllib.request.urlopen(
                f"http://127.0.0.1:{self.api[leader]}/switchover", data=body, timeout=60
            ).close()

    def leader(self) -> str | None:
        """Who takes writes now."""
        return next((name for name in NODES if self._is(name, "primary")), None)

    def streams(self) -> bool:
        """True where there is a leader, and a standby that each commit waits for."""
        leader = self.leader()
        text = None if leader is None else self._asks(self.api[leader], "/cluster")
        if text is None:
            return False
        return any(m["role"] == "sync_standby" for m in json.loads(text)["members"])

    def _serves(self, name: str) -> bool:
        return self.leader() is not None or self._is(name, "replica")

    def _is(self, name: str, role: str) -> bool:
        return self._asks(self.api[name], f"/{role}") is not None

    def _asks(self, port: int, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=2) as got:
                return str(got.read(), "utf-8")
        except (OSError, urllib.error.URLError):
            return None

    def _run(self, name: str, *command: str) -> None:
        user = self.user
        with (self.home / f"{name}.log").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [*command], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=self.home,
                start_new_session=True, env={**os.environ, "HOME": str(self.home)},
                user=None if user is None else user.pw_uid,
                group=None if user is None else user.pw_gid,
                extra_groups=None if user is None else [],
            )  # fmt: skip

    def stop(self) -> None:
        """All of it, the hard way: nothing of it is kept."""
        for name in NODES:
            if name in self.processes:
                self.kill(name)
        for process in self.processes.values():
            process.kill()
            process.wait()


def _program(variable: str, name: str) -> str:
    found = os.environ.get(variable) or shutil.which(name)
    if not found:
        sys.exit(f"cluster: no {name} here: install it, or name it in ${variable}")
    return found


def until(what: Callable[[], object], say: str) -> None:
    """Wait for `what()`."""
    end = time.monotonic() + PATIENCE_S
    while not what():
        if time.monotonic() > end:
            raise SystemExit(f"cluster: waited {PATIENCE_S:.0f} s in vain for {say}")
        time.sleep(0.1)
