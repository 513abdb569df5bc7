"""How long a report takes on a large store while mail comes in.

    python bench/report.py --store URL --rows N [--senders N] [--writes N]

The store is one that bench/build_store.py has built with as many rows. Senders are drawn
uniformly from its domains; the heaviest one, a tenth of all mail, is asked for separately. All the
while another process writes messages at the given rate, in the recorder's way. What is timed is
the whole command, Python's start included, and the question alone inside one process.
"""

import argparse
import multiprocessing
import random
import statistics
import subprocess
import sys
import time
from multiprocessing.synchronize import Event
from pathlib import Path

from gatepost_policy.config.settings import Settings, Store
from gatepost_policy.ingest import ingest
from gatepost_policy.journal import record
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.facts import Client, Facts, Family, Recipient, Signature
from gatepost_policy.report import history
from gatepost_policy.report.selection import Selection
from gatepost_policy.store import open_engine, reading, writing


def message(number: int, domains: int) -> record.Json:
    """One more message from one of the store's domains, now."""
    domain = f"d{random.Random(number).randrange(domains)}.example"
    facts = Facts(
        at=time.time(),
        client=Client(family=Family.IPV4),
        queue_id=f"W{number:08X}",
        sender=address.parse(f"u1@{domain}"),
        header_from=address.parse(f"u1@{domain}"),
        recipients=(Recipient(address.parse("user@example.net")),),
        size=4000,
        message_id=f"<w{number}@{domain}>",
        signatures=(
            Signature(domain=domain, selector="s1", algorithm="rsa-sha256", key_bits=2048,
                      crypto="pass", result="pass"),
        ),
    )  # fmt: skip
    return record.message(
        record.Seen("message", facts, Decision(Action.ACCEPT, Reason.NO_BAD_SIGNAL))
    )


def write(
    url: str, rate: int, domains: int, stop: Event, written: "multiprocessing.Queue[int]"
) -> None:
    """`rate` messages a second, four batches a second, until `stop`."""
    settings = Settings(store=Store(url=url))
    engine = open_engine(settings)
    number, due = 0, time.monotonic()
    while not stop.is_set():
        batch = [message(number + n, domains) for n in range(rate // 4)]
        with writing(engine) as connection:
            ingest(connection, batch, settings, time.time())
        number += len(batch)
        due += 0.25
        time.sleep(max(0.0, due - time.monotonic()))
    written.put(number)


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of all lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def main() -> None:
    """Write and ask at once; print the table's line."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--store", required=True)
    arguments.add_argument("--rows", type=int, required=True)
    arguments.add_argument("--senders", type=int, default=100)
    arguments.add_argument("--writes", type=int, default=100, help="messages a second")
    given = arguments.parse_args()
    domains = max(1, given.rows // 50)
    stop = multiprocessing.Event()
    written: multiprocessing.Queue[int] = multiprocessing.Queue()
    writer = multiprocessing.Process(
        target=write, args=(given.store, given.writes, domains, stop, written)
    )
    writer.start()
    milterctl = Path(sys.executable).with_name("milterctl")
    dice = random.Random(10)
    asked = [f"d{dice.randrange(1, domains)}.example" for _ in range(given.senders)]
    settings = Settings(store=Store(url=given.store))
    begin = time.monotonic()
    try:
        time.sleep(3)
        commands = {name: [ask(milterctl, given.store, name)] for name in asked}
        heavy = [ask(milterctl, given.store, "d0.example") for _ in range(5)]
        engine = open_engine(settings)
        inside = []
        for name in asked:
            since = time.perf_counter()
            with reading(engine) as connection:
                history.tell(connection, Selection(sender=name), settings, time.time())
            inside.append(time.perf_counter() - since)
    finally:
        stop.set()
        count = written.get(timeout=60)
        lasted = time.monotonic() - begin
        writer.join(60)
    every = [seconds for runs in commands.values() for seconds in runs]
    print(
        f"| {given.rows:,} | {percentile(every, 0.5):.2f} | {percentile(every, 0.95):.2f} "
        f"| {1000 * percentile(inside, 0.95):.0f} | {statistics.median(heavy):.2f} "
        f"| {max(heavy):.2f} | {count / lasted:.0f} |"
    )


def ask(milterctl: Path, url: str, name: str) -> float:
    """Seconds that one `milterctl report` takes."""
    since = time.perf_counter()
    subprocess.run(
        [str(milterctl), "--store", url, "report", "--sender", name, "--format", "json"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return time.perf_counter() - since


if __name__ == "__main__":
    print(
        "| rows | command p50 s | command p95 s | question p95 ms | heaviest, median s "
        "| heaviest, most s | written/s |\n|---|---|---|---|---|---|---|"
    )
    main()
