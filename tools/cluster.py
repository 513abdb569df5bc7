"""Two PostgreSQL nodes under Patroni, etcd, two gatepost hosts, mail; then the leader is killed.

    python tools/cluster.py [--kills 20] [--rate 500] [--not-strict]

Everything on loopback, in a directory that is removed afterwards. What it counts: messages lost or
doubled, answers to the MTA later than 250 ms, seconds from a kill until records flow again.

Wanted: `etcd` (Debian: etcd-server), PostgreSQL's server programs, `patroni` (Debian's, or from the
package index with [etcd3,psycopg3]); $ETCD and $PATRONI name them where they are elsewhere. As root
it runs PostgreSQL as the user postgres; systemd is not needed. Exit code 1 where something was
lost or doubled, or an answer came late.
"""

import argparse
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from contextlib import suppress
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import postgresql_server  # noqa: E402
from crash_driver import Books, Feeder, Milter  # noqa: E402
from gatepost_policy import recorder, store, traps  # noqa: E402
from gatepost_policy.config.settings import Settings, Store  # noqa: E402
from gatepost_policy.store import migrate  # noqa: E402
from ports import free_port  # noqa: E402

NODES = ("n1", "n2")
HOSTS = 2
FEEDERS = 4  # connections to each host
LATE_S = 0.25
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
            until(lambda name=name: self.leader() or self._is(name, "replica"), f"node {name}")
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


def until(what: "object", say: str) -> None:
    """Wait for `what()`."""
    end = time.monotonic() + PATIENCE_S
    while not what():  # type: ignore[operator]
        if time.monotonic() > end:
            raise SystemExit(f"cluster: waited {PATIENCE_S:.0f} s in vain for {say}")
        time.sleep(0.1)


class Rows(threading.Thread):
    """Looks how many messages the store has, and when that grew."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.settings, self.stop = settings, threading.Event()
        self.count, self.grew = 0, time.monotonic()

    def run(self) -> None:
        while not self.stop.wait(0.1):
            with suppress(store.StoreError):
                engine = store.open_engine(self.settings, ensure=False)
                try:
                    with store.reading(engine) as connection:
                        sql = "SELECT count(*) FROM message"
                        count = connection.exec_driver_sql(sql).scalar_one()
                finally:
                    engine.dispose()
                if count > self.count:
                    self.count, self.grew = count, time.monotonic()


def flows_again(rows: Rows, since: float) -> float:
    """Seconds from `since` until a row came that was not there before."""
    begin = rows.count
    until(lambda: rows.count > begin and rows.grew > since + 0.5, "records to flow")
    return rows.grew - since


def hosts(home: Path, url: str) -> list[Milter]:
    """Two mail hosts, each with a journal and a state directory of its own."""
    found = []
    for number in range(HOSTS):
        place = home / f"host{number}"
        place.mkdir()
        os.environ["XDG_STATE_HOME"] = str(place)
        milter = Milter(place, f'[store]\nurl = "{url}"\njournal = "{place}/journal"\n')
        milter.start()
        found.append(milter)
    return found


def main() -> int:
    """The exit status: 1 where something was lost or doubled, or an answer came late."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=int, default=500, help="messages a second, of both hosts")
    parser.add_argument("--not-strict", action="store_true", help="commit without a standby, too")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gatepost-cluster-"))
    home.chmod(0o755)
    cluster = Cluster(home, strict=not options.not_strict)
    milters: list[Milter] = []
    try:
        cluster.start()
        settings = Settings(store=Store(url=cluster.url, journal=str(home / "journal")))
        engine = store.open_engine(settings, ensure=False)
        migrate.upgrade(engine)
        with store.writing(engine) as connection:
            traps.add(connection, "trap@home.example", at=0)
        engine.dispose()
        milters = hosts(home, cluster.url)
        return measure(cluster, settings, milters, options.kills, options.rate)
    finally:
        for milter in milters:
            milter.end()
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)


def measure(
    cluster: Cluster, settings: Settings, milters: list[Milter], kills: int, rate: int
) -> int:
    """Mail, kills, a switchover; then the books."""
    books = Books()
    feeders = [
        Feeder(f"h{n}c{c}", milter.socket, books)
        for n, milter in enumerate(milters)
        for c in range(FEEDERS)
    ]
    rows = Rows(settings)
    rows.start()
    for feeder in feeders:
        feeder.pause = len(feeders) / rate
        feeder.start()
    gaps = []
    until(lambda: rows.count > 0, "records to flow")
    print(f"before: slowest answer {slowest_of(feeders) * 1e3:.0f} ms")
    for feeder in feeders:
        feeder.slowest = 0.0
    for number in range(kills + 1):
        until(cluster.streams, "a leader and its standby")
        begin = time.monotonic()
        if number == kills:
            cluster.switchover()
            how = "switchover"
        else:
            old = cluster.leader()
            assert old is not None
            cluster.kill(old)
            # What systemd would do.
            threading.Timer(1.0, cluster.start_node, (old,)).start()
            how = f"kill -9 of {old}"
        gap = flows_again(rows, begin)
        gaps.append(gap)
        slowest = slowest_of(feeders)
        print(f"{how}: records flow after {gap:.1f} s; slowest answer {slowest * 1e3:.0f} ms")
        sys.stdout.flush()
    for feeder in feeders:
        feeder.stop.set()
    for feeder in feeders:
        feeder.join()
    until(lambda: not any(waiting(milter) for milter in milters), "the journals to be taken in")
    for milter in milters:
        milter.stop()
    rows.stop.set()
    engine = store.open_engine(settings)
    with store.reading(engine) as connection:
        ids = connection.exec_driver_sql("SELECT queue_id FROM message").scalars().all()
    engine.dispose()
    seen = Counter(map(str, ids))
    lost = books.answered - set(seen)
    doubled = [name for name, count in seen.items() if count > 1]
    slowest = slowest_of(feeders)
    print(
        f"{kills} kills, 1 switchover: {len(books.answered)} answered, {len(lost)} lost, "
        f"{len(doubled)} doubled; longest gap {max(gaps):.1f} s; slowest answer "
        f"{slowest * 1e3:.0f} ms"
    )
    return 1 if lost or doubled or slowest > LATE_S else 0


def slowest_of(feeders: list[Feeder]) -> float:
    """The longest wait for an answer to an end of message, seconds."""
    return max(feeder.slowest for feeder in feeders)


def waiting(milter: Milter) -> bool:
    """True while a record of this host is not in the store."""
    os.environ["XDG_STATE_HOME"] = str(milter.home)
    from gatepost_policy import config

    settings = config.load(milter.config)
    try:
        return not recorder.wait_until_ingested(settings, timeout=5)
    except store.StoreError:
        return True


if __name__ == "__main__":
    sys.exit(main())
