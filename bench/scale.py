"""How gatepost's cost goes with connections, transports, workers, traps and stored messages.

    python bench/scale.py [--work DIRECTORY] [--only PART,PART] [--store FILE,FILE]

Parts are latency, memory, workers, traps and rows; each prints a Markdown table. `rows` wants
stores that bench/build_store.py has built (`--store 1m.sqlite,10m.sqlite`); they are copied, and
the copies are written to. CPU is read per process once all of them are idle: the workers are the
reply path, the recorder works behind it.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peers
from run import build_load, measure, prepare, wrong

ROUNDS = 5
TRAPS = (10, 1_000, 100_000, 1_000_000)
# A store of last year's mail would be aged all the while, and that is not what a message costs.
KEEP = '\n[retention]\nrecipients = "20y"\naddresses = "20y"\nrows = "20y"\ntraps = "20y"\n'


def cpu(pid: int) -> float:
    """CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def split_cost(peer: peers.Peer, load: Path, folder: Path, count: int) -> tuple[float, float]:
    """CPU milliseconds a message of (workers, recorder); the recorder is the one with one thread
    less: it holds the recorder's lock."""
    recorder = recorder_pid(peer)
    before = {pid: cpu(pid) for pid in peer.pids()}
    result = measure(load, peer, folder, count)
    if wrong(result):
        sys.exit(f"bench: wrong answers: {wrong(result)}")
    used = {pid: cpu(pid) - was for pid, was in before.items()}
    mine = used.pop(recorder)
    return 1000 * sum(used.values()) / count, 1000 * mine / count


def recorder_pid(peer: peers.Peer) -> int:
    """The process that has the recorder's lock file open."""
    for pid in peer.pids():
        for link in Path(f"/proc/{pid}/fd").iterdir():
            try:
                if link.readlink().name == "recorder.lock":
                    return pid
            except OSError:
                continue
    sys.exit("bench: nobody holds the recorder's lock")


def started(work: Path, **options: object) -> peers.Peer:
    """A fresh gatepost."""
    peer = peers.start("gatepost", work / "scale", work / "messages", **options)  # type: ignore[arg-type]
    assert peer is not None
    return peer


def latency(work: Path, load: Path) -> None:
    """Milliseconds to the answer by connections and transport, beside OpenDKIM."""
    print("\n### Latency, small-rr, one message a connection\n")
    print(
        "| milter | transport | connections | p50 ms | p95 ms | p99 ms |\n|---|---|---|---|---|---|"
    )
    for transport, port in (("unix", 0), ("inet", 26_410)):
        for name in ("opendkim", "gatepost"):
            folder = work / "messages"
            peer = peers.start(name, work / "scale", folder, transport, port)
            if peer is None:
                continue
            try:
                measure(load, peer, folder / "small-rr", 200)
                for connections in (1, 8, 32):
                    runs = [
                        measure(load, peer, folder / "small-rr", 300 * min(connections, 4),
                                connections)
                        for _ in range(3)
                    ]  # fmt: skip
                    cells = [
                        f"{statistics.median(float(str(r[key])) for r in runs):.2f}"
                        for key in ("p50_ms", "p95_ms", "p99_ms")
                    ]
                    print(
                        f"| {name} | {transport} | {connections} | {' | '.join(cells)} |",
                        flush=True,
                    )
            finally:
                peer.stop()


def memory(work: Path, load: Path) -> None:
    """PSS of all processes: at rest, after 10 000 messages, with large ones half-way through."""
    print("\n### Memory, PSS of all processes, MB\n")
    print("| at rest | after 10 000 small | 20 x 2.2 MB held half-way |\n|---|---|---|")
    peer = started(work)
    try:
        folder = work / "messages"
        rest = measure(load, peer, folder / "small-rr", 50)["rest_kb"]
        after = measure(load, peer, folder / "small-rr", 10_000)["after_kb"]
        held = measure(load, peer, folder / "large-rr", 20, 20, "-H")["held_kb"]
        cells = [f"{float(str(kb)) / 1024:.0f}" for kb in (rest, after, held)]
        print(f"| {' | '.join(cells)} |", flush=True)
    finally:
        peer.stop()


def workers(work: Path, load: Path) -> None:
    """Rate and cost with 1, 2 and 4 workers, interleaved."""
    print("\n### Workers, small-rr, 8 connections\n")
    print("| workers | messages/s | CPU-ms a message | p99 ms |\n|---|---|---|---|")
    rows: dict[int, list[dict[str, object]]] = {}
    for _ in range(3):
        for number in (1, 2, 4):
            peer = started(work, workers=number)
            try:
                folder = work / "messages" / "small-rr"
                measure(load, peer, folder, 200)
                rows.setdefault(number, []).append(measure(load, peer, folder, 3000))
            finally:
                peer.stop()
    for number, results in rows.items():
        rate, cost, p99 = (
            statistics.median(float(str(r[key])) for r in results)
            for key in ("per_s", "cpu_s_per_1000", "p99_ms")
        )
        print(f"| {number} | {rate:.0f} | {cost:.3f} | {p99:.2f} |", flush=True)


def traps(work: Path, load: Path) -> None:
    """Cost of a message that hits no trap, by the number of traps."""
    print("\n### Traps, small-rr, CPU-ms a message\n")
    print("| traps | import s | reply path | recorder |\n|---|---|---|---|")
    for number in TRAPS:
        directory = work / f"traps-{number}"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        names = directory / "traps.txt"
        names.write_text("".join(f"never{n}@trap{n % 997}.example.net\n" for n in range(number)))
        store = f"sqlite:///{directory}/gatepost.sqlite"
        milterctl = Path(sys.executable).with_name("milterctl")
        begin = time.monotonic()
        subprocess.run(
            [str(milterctl), "--store", store, "trap", "import", str(names)],
            check=True,
            capture_output=True,
        )
        took = time.monotonic() - begin
        print(f"| {number:,} | {took:.1f} | {_costs(work, load, store)} |", flush=True)
        shutil.rmtree(directory)


def stored(work: Path, load: Path, files: list[Path]) -> None:
    """Cost by the number of messages in the store."""
    print("\n### Stored messages, small-rr, CPU-ms a message\n")
    print("| store | size, MB | reply path | recorder |\n|---|---|---|---|")
    empty = work / "rows-empty"
    shutil.rmtree(empty, ignore_errors=True)
    empty.mkdir()
    print(f"| empty | 0 | {_costs(work, load, f'sqlite:///{empty}/gatepost.sqlite')} |", flush=True)
    for file in files:
        directory = work / "rows-copy"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir()
        shutil.copy(file, directory / "gatepost.sqlite")
        costs = _costs(work, load, f"sqlite:///{directory}/gatepost.sqlite")
        print(f"| {file.stem} | {file.stat().st_size // 1_000_000} | {costs} |", flush=True)
        shutil.rmtree(directory)


def _costs(work: Path, load: Path, store: str) -> str:
    peer = started(work, store=store, extra=KEEP)
    try:
        folder = work / "messages" / "small-rr"
        measure(load, peer, folder, 500)
        rounds = [split_cost(peer, load, folder, 3000) for _ in range(ROUNDS)]
    finally:
        peer.stop()
    reply, recorder = (statistics.median(r[place] for r in rounds) for place in (0, 1))
    return f"{reply:.3f} | {recorder:.3f}"


def main() -> None:
    """The parts that were asked for."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--only", default="latency,memory,workers,traps,rows")
    arguments.add_argument("--store", default="", help="stores for `rows`, comma-separated")
    given = arguments.parse_args()
    work = prepare(given.work)
    load = build_load(work)
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("bench: unbound is missing; install it (Debian: apt-get install unbound)")
    files = [Path(name) for name in given.store.split(",") if name]
    try:
        for part in given.only.split(","):
            match part:
                case "latency":
                    latency(work, load)
                case "memory":
                    memory(work, load)
                case "workers":
                    workers(work, load)
                case "traps":
                    traps(work, load)
                case "rows":
                    stored(work, load, files)
                case _:
                    sys.exit(f"bench: {part}: want latency, memory, workers, traps or rows")
    finally:
        dns.stop()


if __name__ == "__main__":
    main()
