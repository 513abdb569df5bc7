"""Half an hour of mixed traffic, aborts and reloads: no leak, no lost record, no lost descriptor.

    python bench/soak.py [--work DIRECTORY] [--minutes N]

Runs `milterctl run` with a metrics endpoint and feeds it, all at once: signed mail of three
sizes from the load generator, sessions that are dropped at every stage, policy requests, scrapes,
and a HUP every minute. Every ten seconds the memory (PSS) and the descriptors of all processes
are noted. At the end: rows stored = messages answered; memory of the last third against the
middle third; descriptors likewise. Exits 1 where one of them is not as it should be.
"""

import argparse
import json
import os
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path

import peers
from run import build_load, prepare

GROWTH_MAX = 0.10
CONFIG = """[milter]
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


class Soak:
    """The running service and what was done to it."""

    def __init__(self, run: Path, load: Path, messages: Path) -> None:
        self.run, self.load, self.messages = run, load, messages
        self.stop = threading.Event()
        self.sums: Counter[str] = Counter()
        self.errors: list[str] = []
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.metrics = int(probe.getsockname()[1])
        text = CONFIG.format(run=run, metrics=self.metrics, dns=peers.DNS_PORT)
        (run / "gatepost.toml").write_text(text)

    def start(self) -> None:
        """Start the service; returns when it is ready."""
        program = Path(sys.executable).with_name("milterctl")
        with (self.run / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [str(program), "--config", str(self.run / "gatepost.toml"), "run"],
                stdout=log,
                stderr=log,
            )
        for _ in range(300):
            if b"ready" in (self.run / "log").read_bytes():
                return
            time.sleep(0.1)
        sys.exit(f"soak: not ready; see {self.run}/log")

    def mail(self) -> None:
        """Signed mail, one burst after another."""
        dice = random.Random(1)
        while not self.stop.is_set():
            size, count = dice.choice(
                (("small", 400), ("small", 400), ("medium", 80), ("large", 8))
            )
            folder = f"{size}-{dice.choice(('rr', 'rs', 'ed'))}"
            done = subprocess.run(
                [str(self.load), "-s", f"unix:{self.run}/milter", "-n", str(count), "-c", "6",
                 "-m", str(dice.choice((1, 5))), str(self.messages / folder)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            result = json.loads(done.stdout)
            self.sums["messages"] += count - result["broken"]
            self.sums["broken"] += result["broken"]
            wrong = {
                k: v
                for k, v in result["results"].items()
                if k not in ("pass->pass", "fail->fail", "pass->error", "fail->error")
            }
            if wrong:
                self.errors.append(f"{folder}: {wrong}")
            self.stop.wait(0.2)

    def aborts(self) -> None:
        """Sessions that end where they should not."""
        dice = random.Random(2)
        steps = [
            _packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF)),
            _packet(b"C", b"gone.example.com\x004\x9c\x40192.0.2.66\x00"),
            _packet(b"H", b"gone.example.com\x00"),
            _packet(b"M", b"<gone@example.com>\x00"),
            _packet(b"R", b"<user@example.net>\x00"),
            _packet(b"L", b"From\x00 gone@example.com\x00"),
            _packet(b"L", b"Subject\x00 half a message\x00"),
            _packet(b"N", b""),
            _packet(b"B", b"x" * 30_000),
        ]
        while not self.stop.is_set():
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                try:
                    one.connect(f"{self.run}/milter")
                    cut = dice.randrange(1, len(steps) + 1)
                    for step in steps[:cut]:
                        one.sendall(step)
                        time.sleep(0.002)
                    if dice.random() < 0.5:
                        one.sendall(_packet(b"A", b""))
                        one.sendall(_packet(b"A", b""))  # Postfix says it twice
                    if dice.random() < 0.3:
                        one.sendall(b"\x00\x00")  # and half a length
                except OSError:
                    self.sums["refused"] += 1
            self.sums["aborts"] += 1
            self.stop.wait(0.03)

    def requests(self) -> None:
        """Policy requests, pipelined, some of them cut off."""
        request = (
            b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.%d\n"
            b"client_port=40001\nsender=a@example.com\nrecipient=user@example.net\ninstance=%d\n\n"
        )
        number = 0
        while not self.stop.is_set():
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                try:
                    one.connect(f"{self.run}/policy")
                    for _ in range(20):
                        number += 1
                        one.sendall(request % (number % 250, number))
                        if not one.recv(4096).startswith(b"action="):
                            self.errors.append("policy: no action")
                        self.sums["requests"] += 1
                    one.sendall(b"request=smtpd_access")
                except OSError:
                    self.sums["policy refused"] += 1
            self.stop.wait(0.05)

    def scrapes(self) -> None:
        """Prometheus."""
        while not self.stop.wait(5):
            try:
                url = f"http://127.0.0.1:{self.metrics}/metrics"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    self.sums["scrapes"] += answer.status == 200
            except (urllib.error.URLError, OSError):
                self.sums["scrapes missed"] += 1

    def reloads(self) -> None:
        """A HUP a minute to each service."""
        while not self.stop.wait(60):
            for pid in peers.tree(self.process.pid):
                command = Path(f"/proc/{pid}/cmdline")
                parent = Path(f"/proc/{pid}/stat")
                try:
                    of = int(parent.read_text().rsplit(")", 1)[1].split()[1])
                    if of == self.process.pid and b"gatepost" in command.read_bytes():
                        os.kill(pid, signal.SIGHUP)
                        self.sums["reloads"] += 1
                except OSError:
                    continue

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


def _packet(command: bytes, data: bytes) -> bytes:
    return struct.pack("!I", len(data) + 1) + command + data


def rows(run: Path) -> int:
    """Messages in the store."""
    from sqlalchemy import text

    from gatepost_policy.store import open_url

    with open_url(f"sqlite:///{run}/gatepost.sqlite").connect() as connection:
        query = "select count(*) from message where source = 'milter'"
        return int(connection.execute(text(query)).scalar_one())


def main() -> None:
    """Soak, then judge."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--minutes", type=float, default=30)
    given = arguments.parse_args()
    work = prepare(given.work)
    run = work / f"soak-{os.getpid()}"
    run.mkdir()
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("soak: unbound is missing; install it (Debian: apt-get install unbound)")
    soak = Soak(run, build_load(work), work / "messages")
    soak.start()
    actors = (soak.mail, soak.aborts, soak.requests, soak.scrapes, soak.reloads)
    threads = [threading.Thread(target=actor) for actor in actors]
    for thread in threads:
        thread.start()
    taken = []
    until = time.monotonic() + given.minutes * 60
    try:
        while time.monotonic() < until and soak.process.poll() is None:
            time.sleep(10)
            taken.append(soak.sample())
            memory, descriptors = taken[-1]
            print(f"{memory // 1024} MB, {descriptors} descriptors, {dict(soak.sums)}", flush=True)
    finally:
        soak.stop.set()
        for thread in threads:
            thread.join()
        time.sleep(3)  # the recorder takes in the last of it
        soak.process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        code = soak.process.wait(15)
        took = time.monotonic() - begin
        dns.stop()
    third = len(taken) // 3
    failed = bool(soak.errors) or code != 0
    for name, place in (("memory, KB", 0), ("descriptors", 1)):
        middle = statistics.median(t[place] for t in taken[third : 2 * third])
        last = statistics.median(t[place] for t in taken[2 * third :])
        failed |= last > middle * (1 + GROWTH_MAX)
        print(
            f"{name}: middle third {middle:.0f}, last third {last:.0f} ({last / middle - 1:+.1%})"
        )
    stored = rows(run)
    answered = soak.sums["messages"]
    # A message whose answer the reload cut off may be stored without having been answered.
    failed |= not answered <= stored <= answered + soak.sums["broken"]
    print(f"answered {answered}, stored {stored}, broken {soak.sums['broken']}")
    print(f"exit status {code} after {took:.1f} s; {dict(soak.sums)}; errors: {soak.errors[:5]}")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
