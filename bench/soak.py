"""Half an hour of what a mail server sees, at full speed, on a throw-away gatepost: `make soak`.

    python bench/soak.py [--minutes 30] [--clients 6]

Milter and policy service run on private sockets with a SQLite store of their own. Clients send
signed, unsigned and broken mail, submissions, mail to traps and large messages; they reset, hang
up in the middle and open idle connections; the configuration is reloaded every twenty seconds
and a worker is killed every minute. Once a minute memory (PSS) and open descriptors of all
processes are read. In the end:

* every message that was answered is in the store, once (submissions: counted);
* memory in the last third is not above that of the second third by more than a tenth;
* as many descriptors are open as after the first minutes;
* every service is still the process that was started, and its log holds no traceback.

Exit status 1 and a line for each promise that was not kept. Limits: DNS answers come from a stub
on loopback; a message whose milter connection broke (a killed worker) is answered by nobody, and
whether it is stored is left open.
"""

import argparse
import asyncio
import base64
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import dkim
import dns.message
import dns.rrset
from cryptography.hazmat.primitives.asymmetric import ed25519

from gatepost_milter.harness import Envelope, ProtocolError, Session

BIN = Path(sys.executable).parent
CONFIG = """\
[milter]
socket = "unix:{dir}/milter.sock"
workers = 4
[policy]
listen = "unix:{dir}/policy.sock"
[dkim]
nameservers = ["127.0.0.1:{dns}"]
lookup_timeout_ms = 500
[trap]
capture = "{dir}/capture"
capture_max_files = 50
[sender]
action = "tempfail"
listing_first = "5s"
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
"""
BODY = "The ferry leaves at ten. Bring the map.\r\n" * 20
RELOAD_S = 20
KILL_S = 60


@dataclass
class Sent:
    """What the clients did, and which of it must be in the store."""

    inbound: set[str] = field(default_factory=set)  # queue ids that got a final answer
    open: set[str] = field(default_factory=set)  # queue ids whose connection broke
    kinds: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Zone:
    """A DNS server on loopback that knows one Ed25519 key; every other name does not exist."""

    def __init__(self) -> None:
        secret = ed25519.Ed25519PrivateKey.generate()
        self.key = base64.b64encode(secret.private_bytes_raw())
        public = base64.b64encode(secret.public_key().public_bytes_raw()).decode()
        self.record = f'"v=DKIM1; k=ed25519; p={public}"'
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            data, peer = self.socket.recvfrom(4096)
            query = dns.message.from_wire(data)
            answer = dns.message.make_response(query)
            name = query.question[0].name
            if name.to_text().startswith("soak._domainkey."):
                answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", self.record))
            else:
                answer.set_rcode(dns.rcode.NXDOMAIN)
            self.socket.sendto(answer.to_wire(), peer)


def message(zone: Zone, kind: str, number: int, domain: str) -> bytes:
    """One message of this kind."""
    head = (
        f"From: a{number}@{domain}\r\nTo: b@home.example\r\nSubject: number {number}\r\n"
        f"Date: Fri, 20 Nov 2026 10:00:00 +0000\r\nMessage-ID: <{number}@{domain}>\r\n"
    )
    if kind == "submission":
        head += "X-Mailer: soak\r\nReceived: from laptop; Fri, 20 Nov 2026 10:00:00 +0000\r\n"
    body = BODY * (400 if kind == "large" else 1)
    text = (head + "\r\n" + body).encode()
    if kind in ("signed", "broken", "trap"):
        signature = dkim.sign(
            text, b"soak", domain.encode(), zone.key, signature_algorithm=b"ed25519-sha256",
            canonicalize=(b"relaxed", b"relaxed"), include_headers=[b"from", b"to", b"subject"],
        )  # fmt: skip
        text = bytes(signature) + text
    return text.replace(b"ferry", b"train", 1) if kind == "broken" else text


KINDS = ("signed", "signed", "unsigned", "broken", "submission", "trap", "large", "reset", "drop")


def client(number: int, home: Path, zone: Zone, sent: Sent, stop: threading.Event) -> None:
    """One mail client after another, until told to stop."""
    rng = random.Random(number)
    count = 0
    while not stop.is_set():
        kind = rng.choice(KINDS)
        count += 1
        domain = f"d{rng.randrange(500)}.example"
        queue_id = f"S{number:X}{count:07X}"
        submission = kind == "submission"
        envelope = Envelope(
            client=rng.choice((f"192.0.2.{rng.randrange(256)}", f"2001:db8:{number:x}::{count:x}")),
            helo=domain,
            sender=f"a@{domain}",
            recipients=("trap@home.example" if kind == "trap" else "b@home.example",),
            login="alice" if submission else None,
            daemon_name="ORIGINATING" if submission else None,
            queue_id=queue_id,
        )
        try:
            converse(kind, home, envelope, message(zone, kind, count, domain), sent)
        except (ProtocolError, OSError):
            with sent.lock:
                sent.kinds["connection broke"] += 1
                sent.open.add(queue_id)


def converse(kind: str, home: Path, envelope: Envelope, text: bytes, sent: Sent) -> None:
    """One session: a message, a reset and a message, or a client that hangs up half-way."""
    with Session(f"unix:{home}/milter.sock", envelope, timeout=60) as session:
        if kind == "drop":
            session.mail(envelope)
            session.rcpt(envelope.recipients[0])
            with sent.lock:
                sent.kinds[kind] += 1
            return
        if kind == "reset":
            session.mail(envelope)
            session.rcpt(envelope.recipients[0])
            session.rset()
        result = session.send(text)
    with sent.lock:
        sent.kinds[kind] += 1
        sent.kinds[f"answer {result.action}"] += 1
        if kind != "submission" and result.stage == "end":
            sent.inbound.add(result.queue_id)


async def policy(home: Path, sent: Sent, stop: threading.Event) -> None:
    """Ask the policy service, and hold some connections that say nothing."""
    idle = [await asyncio.open_unix_connection(home / "policy.sock") for _ in range(20)]
    number = 0
    while not stop.is_set():
        try:
            reader, writer = await asyncio.open_unix_connection(home / "policy.sock")
            for _ in range(20):
                number += 1
                writer.write(
                    b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.9\n"
                    b"client_port=%d\nsender=p@d.example\nrecipient=b%d@home.example\n\n"
                    % (1024 + number % 60000, number)
                )
                answer = await asyncio.wait_for(reader.readuntil(b"\n\n"), 30)
                sent.kinds["policy " + answer.decode().split()[0].lower()] += 1
            writer.close()
        except OSError:
            sent.kinds["policy connection broke"] += 1
        await asyncio.sleep(0.05)
    for _, writer in idle:
        writer.close()


def family(root: int) -> list[int]:
    """`root` and every process below it."""
    found, todo = [], [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                todo += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def measure(roots: list[int]) -> tuple[int, int, int]:
    """(PSS in kB, open descriptors, processes) of the services."""
    memory = descriptors = processes = 0
    for pid in (pid for root in roots for pid in family(root)):
        try:
            text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            memory += next(int(x.split()[1]) for x in text.splitlines() if x.startswith("Pss:"))
            descriptors += len(os.listdir(f"/proc/{pid}/fd"))
            processes += 1
        except OSError:
            continue  # gone in between
    return memory, descriptors, processes


def trouble(services: list[subprocess.Popen[bytes]], end: float, sent: Sent) -> list[tuple]:
    """Reload and kill until `end`; the measurements, one a minute."""
    rows, started = [], time.monotonic()
    beats = 0
    while time.monotonic() < end:
        time.sleep(min(RELOAD_S, max(0.1, end - time.monotonic())))
        beats += 1
        for service in services:
            service.send_signal(signal.SIGHUP)
        if beats % (KILL_S // RELOAD_S) == 0:
            children = family(services[0].pid)[1:]
            os.kill(random.choice(children), signal.SIGKILL)
            time.sleep(5)
            memory, descriptors, processes = measure([s.pid for s in services])
            rows.append((time.monotonic() - started, memory, descriptors, processes))
            print(
                f"{rows[-1][0] / 60:5.1f} min  {memory / 1024:7.1f} MiB  {descriptors:4d} fds  "
                f"{processes:2d} processes  {sum(sent.kinds.values())} done",
                flush=True,
            )
    return rows


def stored(home: Path, sent: Sent) -> list[str]:
    """What is wrong with the store."""
    with sqlite3.connect(home / "gatepost.sqlite") as connection:
        rows = connection.execute("SELECT queue_id FROM message WHERE source = 'milter'").fetchall()
        (counted,) = connection.execute("SELECT sum(messages) FROM submission_count").fetchone()
    got = Counter(row[0] for row in rows)
    lost = sent.inbound - set(got)
    wrong = []
    if lost:
        wrong.append(f"{len(lost)} answered messages are not in the store: {sorted(lost)[:3]}")
    if any(n > 1 for n in got.values()):
        wrong.append(f"{sum(n > 1 for n in got.values())} messages are in the store twice")
    broken = sent.kinds["connection broke"]
    submitted = sent.kinds["submission"]
    if not submitted <= (counted or 0) <= submitted + broken:
        wrong.append(f"{submitted} submissions answered, {counted} counted")
    print(f"stored: {len(rows)} rows for {len(sent.inbound)} inbound messages answered, "
          f"{counted} submissions for {submitted}, {broken} connections broken")  # fmt: skip
    return wrong


def judge(rows: list[tuple]) -> list[str]:
    """What grew."""
    if len(rows) < 6:
        return []  # too short a run to say
    third = len(rows) // 3
    middle = sorted(row[1] for row in rows[third : 2 * third])[third // 2]
    last = sorted(row[1] for row in rows[-third:])[third // 2]
    wrong = []
    if last > middle * 1.1:
        wrong.append(f"memory grew from {middle} to {last} kB")
    # A reload has two generations for a moment: the least of each third is what stays open.
    early, late = min(r[2] for r in rows[:third]), min(r[2] for r in rows[-third:])
    if late > early + 4:
        wrong.append(f"open descriptors grew from {early} to {late}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description="Soak test on a throw-away gatepost.")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=6)
    options = parser.parse_args()
    zone, sent, stop = Zone(), Sent(), threading.Event()
    with tempfile.TemporaryDirectory(prefix="gatepost-soak-") as directory:
        home = Path(directory)
        config = home / "gatepost.toml"
        config.write_text(CONFIG.format(dir=home, dns=zone.port))
        trap = [BIN / "milterctl", "--config", config, "trap", "add", "trap@home.example"]
        subprocess.run(trap, check=True)
        log = (home / "log").open("wb")
        services = [
            subprocess.Popen([BIN / name, "--config", config], stdout=log, stderr=log)
            for name in ("gatepost-milter", "gatepost-policyd")
        ]
        try:
            while (home / "log").read_bytes().count(b"ready") < len(services):
                time.sleep(0.1)
                assert all(service.poll() is None for service in services), "did not start"
            threads = [
                threading.Thread(target=client, args=(n, home, zone, sent, stop), daemon=True)
                for n in range(options.clients)
            ]
            threads.append(
                threading.Thread(target=lambda: asyncio.run(policy(home, sent, stop)), daemon=True)
            )
            for thread in threads:
                thread.start()
            rows = trouble(services, time.monotonic() + options.minutes * 60, sent)
            stop.set()
            for thread in threads:
                thread.join(60)
            wrong = [f"{s.args[0]} ended" for s in services if s.poll() is not None]
            time.sleep(3)  # the recorder's next round
            for service in services:
                service.terminate()
            for service in services:
                service.wait(30)
        finally:
            for service in services:
                if service.poll() is None:
                    service.kill()
        wrong += stored(home, sent) + judge(rows)
        text = (home / "log").read_text(errors="replace")
        wrong += [f"{text.count('Traceback')} tracebacks in the log"] * ("Traceback" in text)
        print(", ".join(f"{kind} {n}" for kind, n in sorted(sent.kinds.items())))
        if "Traceback" in text:
            print(text[text.index("Traceback") :][:2000])
    for line in wrong:
        print(f"soak: {line}")
    print("soak: " + ("promises broken" if wrong else "all promises kept"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
