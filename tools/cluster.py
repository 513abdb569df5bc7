"""Two PostgreSQL nodes under Patroni, etcd, two gatepost hosts, mail; then the leader is killed.

    python tools/cluster.py [--kills 20] [--rate 500] [--not-strict]

Everything on loopback, in a directory that is removed afterwards. What it counts: messages lost or
doubled, answers to the MTA later than 250 ms, seconds from a kill until records flow again.

Beside the two hosts runs a third one with a SQLite store, which knows nothing of the cluster: the
yardstick of answers. Where that one answers late, too, it is the machine, which carries both
databases, etcd, Patroni, all three hosts and whoever sends the mail.

Wanted: `etcd` (Debian: etcd-server), PostgreSQL's server programs, `patroni` (Debian's, or from the
package index with [etcd3,psycopg3]); $ETCD and $PATRONI name them where they are elsewhere. As root
it runs PostgreSQL as the user postgres; systemd is not needed. Exit code 1 where something was
lost or doubled, or an answer came late and none did beside the cluster; 2 where the machine is too
slow to tell.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from sqlalchemy import Engine  # noqa: E402

from crash_driver import Books, Feeder, Milter  # noqa: E402
from gatepost_policy import config, recorder, store, traps  # noqa: E402
from gatepost_policy.config.settings import Settings, Store  # noqa: E402
from gatepost_policy.store import migrate  # noqa: E402
from patroni_nodes import Cluster, until  # noqa: E402

HOSTS = 2
FEEDERS = 4  # connections to each host
LATE_S = 0.25
# Two in a hundred for traps, from one client: a storm, and not so many that one small machine that
# carries all of this cannot record them in the third of the time in which the cluster stands.
TRAP_EVERY = 50


class Rows(threading.Thread):
    """Looks how many messages the store has, and when that grew."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.settings, self.stop = settings, threading.Event()
        self.count, self.grew = 0, time.monotonic()

    def run(self) -> None:
        while not self.stop.is_set():
            with suppress(store.StoreError):
                engine = store.open_engine(self.settings, ensure=False)
                try:
                    self._look(engine)
                finally:
                    engine.dispose()
            self.stop.wait(0.1)

    def _look(self, engine: Engine) -> None:
        """Until `stop`, or StoreError: the leader is gone."""
        while not self.stop.wait(0.1):
            with store.reading(engine) as connection:
                sql = "SELECT count(*) FROM message"
                count = connection.exec_driver_sql(sql).scalar_one()
            if count > self.count:
                self.count, self.grew = count, time.monotonic()


def flows_again(cluster: Cluster, rows: Rows, since: float) -> tuple[float, float]:
    """Seconds from `since` until a row came that was not there before, and of these, how many the
    cluster itself was without a leader that has a standby: strict mode commits nothing then."""
    begin = rows.count
    streams = since

    def flow() -> bool:
        nonlocal streams
        if rows.count > begin and rows.grew > since + 0.5:
            return True
        if not cluster.streams():
            streams = time.monotonic()
        return False

    until(flow, "records to flow")
    return rows.grew - since, min(streams, rows.grew) - since


def host(place: Path, url: str) -> Milter:
    """A mail host, with a journal and a state directory of its own."""
    place.mkdir()
    os.environ["XDG_STATE_HOME"] = str(place)
    milter = Milter(place, f'[store]\nurl = "{url}"\njournal = "{place}/journal"\n')
    milter.start()
    return milter


def beside(place: Path) -> Milter:
    """The host that knows nothing of the cluster."""
    settings = Settings(store=Store(url=f"sqlite:///{place}/gatepost.db"))
    milter = host(place, config.store_url(settings))
    set_trap(store.open_engine(settings))
    return milter


def set_trap(engine: Engine) -> None:
    """The address that every fifth message goes to."""
    with store.writing(engine) as connection:
        traps.add(connection, "trap@home.example", at=0)
    engine.dispose()


class Waits:
    """How long the answers to ends of messages took, since the last look."""

    def __init__(self, feeders: list[Feeder]) -> None:
        self.feeders = feeders
        self.slowest = 0.0  # seconds, of all looks
        self.late = 0
        self.count = 0
        self.said = ""
        for feeder in feeders:
            feeder.waits = []

    def look(self) -> None:
        """Take in what came since; `said` tells of it."""
        found: list[float] = []
        for feeder in self.feeders:
            waits, feeder.waits = feeder.waits or [], []
            found += [seconds for _, seconds in waits]
        found.sort()
        if not found:
            self.said = "no answer"
            return
        late = sum(seconds > LATE_S for seconds in found)
        self.slowest = max(self.slowest, found[-1])
        self.late, self.count = self.late + late, self.count + len(found)
        p99 = found[int(len(found) * 0.99)]
        self.said = (
            f"{len(found)} answers, 99 % within {p99 * 1e3:.0f} ms, "
            f"slowest {found[-1] * 1e3:.0f} ms, {late} late"
        )


def main() -> int:
    """The exit status: 1 where something was lost or doubled, or an answer came late."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=int, default=500, help="messages a second, of both hosts")
    parser.add_argument("--not-strict", action="store_true", help="commit without a standby, too")
    options = parser.parse_args()
    # However it ends, nothing of it stays behind.
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: sys.exit(130))
    home = Path(tempfile.mkdtemp(prefix="gatepost-cluster-"))
    home.chmod(0o755)
    cluster = Cluster(home, strict=not options.not_strict)
    milters: list[Milter] = []
    try:
        cluster.start()
        settings = Settings(store=Store(url=cluster.url, journal=str(home / "journal")))
        engine = store.open_engine(settings, ensure=False)
        migrate.upgrade(engine)
        set_trap(engine)
        for number in range(HOSTS):
            milters.append(host(home / f"host{number}", cluster.url))
        milters.append(beside(home / "beside"))
        return measure(cluster, settings, milters, options.kills, options.rate)
    finally:
        for milter in milters:
            milter.end()
        cluster.stop()
        shutil.rmtree(home, ignore_errors=True)


def measure(
    cluster: Cluster, settings: Settings, milters: list[Milter], kills: int, rate: int
) -> int:
    """Mail, kills, a switchover; then the books. `milters`: the hosts, and the one beside."""
    books, others = Books(), Books()
    *milters, alone = milters
    feeders = [
        Feeder(f"h{n}c{c}", milter.socket, books)
        for n, milter in enumerate(milters)
        for c in range(FEEDERS)
    ]
    beside = Feeder("beside", alone.socket, others)
    answers, yardstick = Waits(feeders), Waits([beside])
    rows = Rows(settings)
    rows.start()
    begun = time.monotonic()
    for feeder in [*feeders, beside]:
        feeder.pause, feeder.trap_every = len(feeders) / rate, TRAP_EVERY
        feeder.start()
    gaps = []

    def tell(what: str) -> None:
        answers.look()
        yardstick.look()
        print(f"{what}: {answers.said}; beside the cluster {yardstick.said}", flush=True)

    until(lambda: rows.count > 0, "records to flow")
    # Each worker's first trap hit makes it read a part of the program.
    until(lambda: min(f.sent for f in feeders) > TRAP_EVERY + 5, "a trap hit on each connection")
    tell("before")
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
        gap, broken = flows_again(cluster, rows, begin)
        gaps.append(gap)
        tell(f"{how}: records flow after {gap:.1f} s, the cluster stood still for {broken:.1f} s")
    for feeder in [*feeders, beside]:
        feeder.stop.set()
    for feeder in [*feeders, beside]:
        feeder.join()
    seconds = time.monotonic() - begun
    backlog = len(books.answered) - rows.count
    drained = time.monotonic()
    while any(waiting(milter) for milter in milters):
        until(partial(_further, rows, milters, rows.count), "the journals to be taken in")
    drained = time.monotonic() - drained
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
    answers.look()
    yardstick.look()
    print(
        f"{kills} kills, 1 switchover: {len(books.answered)} answered "
        f"({len(books.answered) / seconds:.0f} a second), "
        f"{len(lost)} lost, {len(doubled)} doubled; "
        f"longest gap {max(gaps):.1f} s; slowest answer {answers.slowest * 1e3:.0f} ms, "
        f"{answers.late} of {answers.count} later than {LATE_S * 1e3:.0f} ms; "
        f"beside the cluster {yardstick.slowest * 1e3:.0f} ms, "
        f"{yardstick.late} of {yardstick.count}"
    )
    print(f"at the end {backlog} records waited, for {drained:.0f} s")
    if lost or doubled:
        return 1
    if answers.slowest > LATE_S:
        return 2 if yardstick.slowest > LATE_S else 1
    return 0


def _further(rows: Rows, milters: list[Milter], before: int) -> bool:
    """True where the store has more than `before`, or nothing waits any more."""
    return rows.count > before or not any(waiting(milter) for milter in milters)


def waiting(milter: Milter) -> bool:
    """True while a record of this host is not in the store."""
    os.environ["XDG_STATE_HOME"] = str(milter.home)
    settings = config.load(milter.config)
    try:
        return not recorder.wait_until_ingested(settings, timeout=5)
    except store.StoreError:
        return True


if __name__ == "__main__":
    sys.exit(main())
