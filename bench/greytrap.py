"""The figures of greytrapping: policy requests, trap imports, trap hits, backtest.

    python bench/greytrap.py [--work DIRECTORY] [--only PART,PART] [--messages N]

Parts: policy (requests a CPU-second of gatepost-policyd with 100 connections), import (300 000
traps, and how soon one more is live), hits (CPU per trap hit from one /48), listed (the CPU that
gatepost-policyd and its recorder need for a hit that lists somebody, and their memory, with none
and with 400 000 listings), backtest (a history of N messages, by default a million; two of a
hundred hit a trap). CPU, not wall time, is what can be compared on a shared machine.
"""

import argparse
import asyncio
import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scale import cpu
from sqlalchemy import text

from gatepost_policy import backtest, ingest, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.settings import Store as StoreSettings
from gatepost_policy.journal.record import Json

CONNECTIONS, REQUESTS = 100, 20_000
HITS, GAP_S = 60, 0.5
LISTING = (
    "INSERT INTO listing (kind, value, since, until, seconds, reason, hits, by_hand) "
    "VALUES ('prefix', :value, :at, :end, 8000000, 'by-hand', 1, true)"
)
AT = time.time() - 365 * 86_400
POSTFIX = (
    "request=smtpd_access_policy\nprotocol_state=RCPT\nprotocol_name=ESMTP\n"
    "client_address=192.0.2.{host}\nclient_name=mail.example\nclient_port=40000\n"
    "reverse_client_name=mail.example\nserver_address=192.0.2.250\nserver_port=25\n"
    "helo_name=mail.example\nsender=a@example.org\nrecipient={to}\nrecipient_count=0\n"
    "queue_id=\ninstance=12ab.{number}\nsize=0\netrn_domain=\nstress=\nsasl_method=\n"
    "sasl_username=\nsasl_sender=\nccert_subject=\nccert_issuer=\nccert_fingerprint=\n"
    "encryption_protocol=\nencryption_cipher=\nencryption_keysize=0\npolicy_context=\n\n"
)


def settings_in(folder: Path) -> Settings:
    """Settings with all their state in `folder`, which is emptied."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return Settings(store=StoreSettings(url=f"sqlite:///{folder}/gatepost.sqlite"))


@contextmanager
def policyd(folder: Path) -> Iterator[tuple[int, int]]:
    """A running policy service: its pid and port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    config = folder / "gatepost.toml"
    config.write_text(
        f'policy.listen = "inet:{port}@127.0.0.1"\ntrap.policy_answer = "reject"\n'
        f'store.url = "sqlite:///{folder}/gatepost.sqlite"\nlog.level = "error"\n'
    )
    code = "from gatepost_policy.policyd.server import main; main()"
    command = [sys.executable, "-c", code, "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert b"ready" in process.stdout.readline()
        yield process.pid, port
    finally:
        process.terminate()
        process.wait(30)


async def _ask(port: int, host: int, count: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for number in range(count):
        writer.write(POSTFIX.format(host=host, to="user@example.net", number=number).encode())
        answer = await reader.readuntil(b"\n\n")
        if answer != b"action=DUNNO\n\n":
            sys.exit(f"bench: wrong answer {answer!r}")
    writer.close()


def policy(folder: Path, messages: int) -> None:
    """Requests that are waved through: nearly all of them."""
    settings_in(folder)

    async def crowd(port: int) -> None:
        share = REQUESTS // CONNECTIONS
        await asyncio.gather(*(_ask(port, host, share) for host in range(CONNECTIONS)))

    with policyd(folder) as (pid, port):
        asyncio.run(crowd(port))
        before, began = cpu(pid), time.monotonic()
        asyncio.run(crowd(port))
        used, wall = cpu(pid) - before, time.monotonic() - began
    print(
        f"policy: {REQUESTS / used:.0f} requests a CPU-second, {REQUESTS / wall:.0f} a second "
        f"with {CONNECTIONS} connections (the client on the same cores)"
    )


def imports(folder: Path, messages: int) -> None:
    """An import as `milterctl trap import` does it, and one trap more."""
    settings = settings_in(folder)
    engine = store.open_engine(settings)
    lines = [b"user%d.x%d@list%d.example\n" % (n, n * 7919 % 1000, n % 5) for n in range(300_000)]
    before, began = time.process_time(), time.monotonic()
    with engine.connect() as bare:
        connection = bare.execution_options(gatepost_writing=True)
        traps.import_lines(connection, lines, at=time.time())
    used, wall = time.process_time() - before, time.monotonic() - began
    with policyd(folder) as (_, port), socket.create_connection(("127.0.0.1", port)) as ask:
        first = _until_trap(ask, "user7.x433@list2.example", 30.0)
        with store.writing(engine) as connection:
            traps.add(connection, "one-more@list1.example", at=time.time())
        more = _until_trap(ask, "one-more@list1.example", 30.0)
    engine.dispose()
    print(
        f"import: 300 000 traps in {wall:.1f} s ({used:.1f} CPU-s); all live {first:.2f} s after a "
        f"start; one more live after {more * 1000:.0f} ms"
    )


def _until_trap(ask: socket.socket, name: str, limit: float) -> float:
    began = time.monotonic()
    while time.monotonic() - began < limit:
        # A null sender: asked again and again, it lists nobody.
        request = POSTFIX.format(host=1, to=name, number=0)
        ask.sendall(request.replace("sender=a@example.org", "sender=").encode())
        if ask.recv(4096).startswith(b"action=550"):
            return time.monotonic() - began
        time.sleep(0.01)
    sys.exit(f"bench: {name} is no trap after {limit} s")


def _message(number: int, hit: bool, rng: random.Random) -> Json:
    who = rng.randrange(3_000 if hit else 20_000)
    domain = f"d{who}.example"
    to = "trap@example.net" if hit else "user@example.net"
    signature = {
        "domain": domain, "selector": "s", "algorithm": "rsa-sha256", "key_bits": 2048,
        "canonicalization": "relaxed/relaxed", "crypto": "pass", "result": "pass",
    }  # fmt: skip
    return {
        "v": 1, "kind": "message", "at": AT + number * 31.0, "source": "milter",
        "direction": "inbound", "family": "ipv4", "relay": False, "queue_id": f"4{number:X}",
        "client": {"address": f"10.{who >> 8 & 255}.{who & 255}.{rng.randrange(4)}", "port": None,
                   "name": None, "helo": domain},
        "sender": f"u{rng.randrange(5)}@{domain}", "header_from": f"u@{domain}",
        "recipients": [{"address": to, "trap": hit, "accepted": True}],
        "size": 4000, "message_id": f"<{number}@{domain}>",
        "signatures": [] if hit else [signature], "arc": None, "over_limit": None,
        "action": "reject" if hit else "accept", "reason": "trap" if hit else "no-bad-signal",
        "shadow": [], "key": None, "instance": None,
    }  # fmt: skip


def hits(folder: Path, messages: int) -> None:
    """A flood of hits from one /48, each from a /64 of its own."""
    settings = settings_in(folder)
    engine = store.open_engine(settings)
    rng = random.Random(1)
    for size in (1_000, 10_000):
        batch = []
        for number in range(size):
            record = _message(number, True, rng)
            record["client"]["address"] = f"2001:db8:7:{number + size:x}::1"
            batch.append(record | {"family": "ipv6"})
        before = time.process_time()
        for start in range(0, size, 500):
            with store.writing(engine) as connection:
                ingest.ingest(connection, batch[start : start + 500], settings, time.time())
        print(f"hits: {(time.process_time() - before) / size * 1000:.2f} CPU-ms each of {size}")
    engine.dispose()


def listed(folder: Path, messages: int) -> None:
    """One hit after the other, each taken in and published before the next one comes."""
    for listings in (0, 400_000):
        engine = store.open_engine(settings_in(folder))
        now = time.time()
        rows = [
            {
                "value": f"2001:db8:{n >> 15 | 1 << 8:x}:{(n & 0x7FFF) + 1:x}::/64",
                "at": now,
                "end": now + 8e6,
            }
            for n in range(listings)
        ]
        with store.writing(engine) as connection:
            traps.add(connection, "listed@example.net", at=now)
            if rows:
                connection.execute(text(LISTING), rows)
        engine.dispose()
        with policyd(folder) as (pid, port), socket.create_connection(("127.0.0.1", port)) as ask:
            _until_trap(ask, "listed@example.net", 60)
            # The first hit of a process loads the public suffix list: 0.1 s, once.
            ask.sendall(POSTFIX.format(host=9, to="listed@example.net", number=0).encode())
            ask.recv(4096)
            time.sleep(3)
            idle = cpu(pid)
            time.sleep(HITS * GAP_S)
            idle, before = cpu(pid) - idle, cpu(pid)
            for number in range(HITS):
                request = POSTFIX.format(host=10 + number, to="listed@example.net", number=number)
                ask.sendall(request.encode())
                if not ask.recv(4096).startswith(b"action=550"):
                    sys.exit("bench: a hit was not refused")
                time.sleep(GAP_S)
            used = (cpu(pid) - before - idle) / HITS * 1000
            status = Path(f"/proc/{pid}/status").read_text()
        peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
        with sqlite3.connect(folder / "gatepost.sqlite") as check:
            fresh = check.execute("SELECT count(*) FROM listing WHERE reason = 'trap'").fetchone()[
                0
            ]
        print(
            f"listed: {used:.2f} CPU-ms each of {HITS} hits among {listings} listings, "
            f"{peak:.0f} MB at most, {fresh} more listed"
        )


def backtests(folder: Path, messages: int) -> None:
    """A stricter rule set over a year."""
    settings = settings_in(folder)
    engine = store.open_engine(settings)
    rng = random.Random(1)
    for start in range(0, messages, 2_000):
        batch = [_message(n, rng.random() < 0.02, rng) for n in range(start, start + 2_000)]
        with store.writing(engine) as connection:
            ingest.ingest(connection, batch, settings, time.time())
    sender = replace(settings.sender, action="tempfail")
    before, began = time.process_time(), time.monotonic()
    with store.reading(engine) as connection:
        result = backtest.run(connection, replace(settings, sender=sender))
    print(
        f"backtest: {result.messages} messages in {time.monotonic() - began:.1f} s "
        f"({time.process_time() - before:.1f} CPU-s), {result.changed} differ"
    )
    engine.dispose()


PARTS = {
    "policy": policy,
    "import": imports,
    "hits": hits,
    "listed": listed,
    "backtest": backtests,
}


def main() -> None:
    """Run the parts that are wanted."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("build/bench"))
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--messages", type=int, default=1_000_000)
    options = parser.parse_args()
    os.environ.pop("GATEPOST_CONFIG", None)
    for name in options.only.split(","):
        folder = options.work.absolute() / f"greytrap-{name}"
        PARTS[name](folder, options.messages)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
