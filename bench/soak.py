"""Half an hour of mixed traffic, aborts, reloads and killed workers: nothing lost, nothing grows.

    python bench/soak.py [--work DIRECTORY] [--minutes N]

Runs `milterctl run` with a metrics endpoint and feeds it, all at once: signed mail of three
sizes from the load generator, mail with queue ids that are looked for afterwards, submissions,
sessions that are dropped at every stage, policy requests, scrapes, a HUP every minute, and every
thirteen seconds a kill -9 of one of the milter's children: a worker, at times the recorder. Every
ten seconds the memory (PSS) and the descriptors of all processes are noted. In the end:

* every message that was answered is in the store, once; one whose connection broke (a killed
  worker) is there at most once;
* of submissions there is a count, and neither client, host name, HELO, login nor sender in any
  file: store, journal, log;
* memory and descriptors of the last third are those of the middle third;
* the services ended well, and no traceback is in the log.

Exits 1 with a line for each promise that was not kept. Parts: `soak_clients.py` is the traffic,
`soak_checks.py` the books and their audit.
"""

import argparse
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import peers
import soak_checks
from run import build_load, prepare
from soak_clients import Clients

# No multiples: a reload whose new worker is killed is refused, and that is not what is soaked.
RELOAD_S, KILL_S, SAMPLE_S = 60, 13, 10
STOP_S = 15
CONFIG = """[milter]
engine = "{engine}"
socket = "unix:{run}/milter"
[policy]
listen = "unix:{run}/policy"
[metrics]
listen = "inet:{metrics}@127.0.0.1"
[dkim]
nameservers = ["127.0.0.1:{dns}"]
[store]
url = "sqlite:///{run}/gatepost.sqlite"
"""


class Service:
    """`milterctl run` in the directory `run`, and the trouble that is made for it."""

    def __init__(self, run: Path, books: soak_checks.Books, engine: str) -> None:
        self.run, self.books = run, books
        self.stop = threading.Event()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.metrics = int(probe.getsockname()[1])
        config = run / "gatepost.toml"
        config.write_text(
            CONFIG.format(run=run, engine=engine, metrics=self.metrics, dns=peers.DNS_PORT)
        )
        program = Path(sys.executable).with_name("milterctl")
        with (run / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(config), "run"], stdout=log, stderr=log
            )
        for _ in range(300):
            if b"ready" in (run / "log").read_bytes():
                return
            time.sleep(0.1)
        self.process.kill()
        sys.exit(f"soak: not ready; see {run}/log")

    def trouble(self) -> list[threading.Thread]:
        """Reload and kill until `stop`."""
        threads = [threading.Thread(target=actor) for actor in (self.reloads, self.kills)]
        for thread in threads:
            thread.start()
        return threads

    def reloads(self) -> None:
        """A HUP a minute to each service."""
        while not self.stop.wait(RELOAD_S):
            for pid in children(self.process.pid):
                os.kill(pid, signal.SIGHUP)
                self.books.add("reloads")

    def kills(self) -> None:
        """kill -9 of a child of the milter; its parent starts another one."""
        dice = random.Random(4)
        while not self.stop.wait(KILL_S):
            for pid in children(self.process.pid):
                if b"gatepost_milter" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    try:
                        os.kill(dice.choice(children(pid)), signal.SIGKILL)
                        self.books.add("kills")
                    except ProcessLookupError:
                        continue  # retired by a reload meanwhile

    def sample(self) -> tuple[int, int]:
        """(PSS in KB, open descriptors) of all processes."""
        memory = descriptors = 0
        for pid in peers.tree(self.process.pid):
            try:
                for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                    if line.startswith("Pss:"):
                        memory += int(line.split()[1])
                descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            except OSError:
                continue
        return memory, descriptors

    def end(self) -> list[str]:
        """TERM; what is wrong with how it ended."""
        if self.process.poll() is not None:
            return [f"the service ended by itself, status {self.process.returncode}"]
        self.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        try:
            code = self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            for pid in list(peers.tree(self.process.pid)):
                os.kill(pid, signal.SIGKILL)
            return [f"the service did not end within {STOP_S} s"]
        print(f"exit status {code} after {time.monotonic() - begin:.1f} s")
        return [f"the service ended with status {code}"] if code else []


def children(pid: int) -> list[int]:
    """The children of `pid`'s only thread that forks."""
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def main() -> None:
    """Soak, then judge."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--minutes", type=float, default=30)
    arguments.add_argument("--engine", choices=("libmilter", "native"), default="libmilter")
    given = arguments.parse_args()
    work = prepare(given.work)
    run = work / f"soak-{os.getpid()}"
    run.mkdir()
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("soak: unbound is missing; install it (Debian: apt-get install unbound)")
    books = soak_checks.Books()
    service = Service(run, books, given.engine)
    clients = Clients(run, build_load(work), work / "messages", service.metrics, books)
    threads = clients.start() + service.trouble()
    taken = []
    until = time.monotonic() + given.minutes * 60
    try:
        while time.monotonic() < until and service.process.poll() is None:
            time.sleep(SAMPLE_S)
            taken.append(service.sample())
            memory, descriptors = taken[-1]
            print(f"{memory // 1024} MB, {descriptors} descriptors, {dict(books.sums)}", flush=True)
            books.wrong += soak_checks.traces(run / "journal")
    finally:
        clients.stop.set()
        service.stop.set()
        for thread in threads:
            thread.join()
        time.sleep(3)  # the recorder takes in the last of it
        books.wrong += service.end()
        dns.stop()
    wrong = books.wrong + soak_checks.grown(taken) + soak_checks.judge(run, books)
    print(dict(books.sums))
    for line in wrong[:20]:
        print(f"soak: {line}")
    print("soak: " + ("promises broken" if wrong else "all promises kept"))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
