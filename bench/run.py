"""Compare gatepost with its peers, side by side in one run, and write the table.

    python bench/run.py --work DIRECTORY [--peers A,B] [--sets small-rr,...] [--rounds N] [--runs N]

Every round sends each set through each peer once, in turning order (A B C, B C A, ...), so that
a machine whose speed drifts slows all of them alike. A figure is the median over all rounds of
a run; the unit is CPU seconds (user and system, all processes of the peer, until they are idle)
per 1000 messages, and what counts is the ratio to OpenDKIM in the same run. Correctness is
counted: each message's file name says whether it must pass. So are the rows in gatepost's store,
once the recorder has nothing left to do.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import peers

SETS = ("small-rr", "medium-rr", "large-rr")
COUNTS = {"small": 3000, "medium": 1000, "large": 240}
SLOW = {"dkimpy-milter"}  # gets a quarter of the messages
TARGETS = {
    "gatepost": {"small-rr": 2.0, "medium-rr": 1.6, "large-rr": 3.5},
    "gatepost-native": {"small-rr": 3.0, "medium-rr": 2.3, "large-rr": 4.0},
}
REFERENCE = "opendkim"


def build_load(work: Path) -> Path:
    """Compile the load generator. Raises SystemExit where there is no C compiler."""
    program = work / "load"
    source = Path(__file__).with_name("load.c")
    command = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), "-lpthread"]
    try:
        subprocess.run(command, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench: cannot compile {source}: {error}; install gcc")
    return program


def measure(
    load: Path, peer: peers.Peer, folder: Path, count: int, connections: int = 8, more: str = ""
) -> dict[str, object]:
    """One run of the load generator against one peer; its JSON object."""
    pids = ",".join(map(str, peer.pids()))
    command = [str(load), "-s", peer.socket, "-p", pids, "-n", str(count), "-c", str(connections)]
    done = subprocess.run(
        [*command, *more.split(), str(folder)], capture_output=True, text=True, check=False
    )
    if not done.stdout:
        sys.exit(f"bench: {peer.name}: {done.stderr.strip()}")
    result: dict[str, object] = json.loads(done.stdout)
    return result


def wrong(result: dict[str, object]) -> dict[str, int]:
    """The answers that were not as the file name promised."""
    answers = result["results"]
    assert isinstance(answers, dict)
    return {k: v for k, v in answers.items() if k not in ("pass->pass", "fail->fail")}


def stored(peer: peers.Peer) -> int | None:
    """How many messages gatepost's store holds; None for the others, who record nothing."""
    if not peer.name.startswith("gatepost"):
        return None
    from sqlalchemy import text

    from gatepost_policy.store import open_url

    engine = open_url(f"sqlite:///{peer.run}/gatepost.sqlite")
    with engine.connect() as connection:
        return int(connection.execute(text("select count(*) from message")).scalar_one())


def compare(work: Path, names: list[str], sets: list[str], rounds: int) -> list[str]:
    """One run: the lines of its Markdown table."""
    load = build_load(work)
    corpus = work / "messages"
    running = {name: peers.start(name, work / "peers", corpus) for name in names}
    missing = [name for name, peer in running.items() if peer is None]
    ready = [peer for peer in running.values() if peer is not None]
    rows: dict[tuple[str, str], list[dict[str, object]]] = {}
    try:
        for peer in ready:  # keys into caches, allocators warm
            for name in sets:
                measure(load, peer, corpus / name, 40)
        for turn in range(rounds):
            for name in sets:
                for place in range(len(ready)):
                    peer = ready[(place + turn) % len(ready)]
                    count = COUNTS[name.split("-")[0]] // (4 if peer.name in SLOW else 1)
                    before = stored(peer)
                    result = measure(load, peer, corpus / name, count)
                    result["stored"] = None if before is None else (stored(peer) or 0) - before
                    rows.setdefault((name, peer.name), []).append(result)
    finally:
        for peer in ready:
            peer.stop()
    lines = []
    for name in sets:
        lines += table(name, {p.name: rows[name, p.name] for p in ready})
    if missing:
        lines += ["", f"Not here, not measured: {', '.join(missing)}."]
    return lines


def table(name: str, rows: dict[str, list[dict[str, object]]]) -> list[str]:
    """One set's table: a line a peer."""

    def median(results: list[dict[str, object]], key: str) -> float:
        return statistics.median(float(str(r[key])) for r in results)

    lines = [
        "",
        f"### {name}, 8 connections",
        "",
        f"| milter | CPU-s per 1000 (range) | messages per CPU-s against {REFERENCE} | wanted "
        "| messages/s | p50 ms | p99 ms | answers | rows stored |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    reference = median(rows[REFERENCE], "cpu_s_per_1000") if REFERENCE in rows else None
    for peer, results in rows.items():
        cpu = median(results, "cpu_s_per_1000")
        every = [float(str(r["cpu_s_per_1000"])) for r in results]
        ratio = f"{reference / cpu:.2f}" if reference and cpu else "-"
        target = TARGETS.get(peer, {}).get(name)
        want = "" if target is None else f">= {target}"
        bad: dict[str, int] = {}
        for result in results:
            for key, value in wrong(result).items():
                bad[key] = bad.get(key, 0) + value
        answers = "all as expected" if not bad else json.dumps(bad)
        if peer == "empty-pymilter":
            answers = "verifies nothing"
        lines.append(
            f"| {peer} | {cpu:.3f} ({min(every):.3f}-{max(every):.3f}) | {ratio} | {want} "
            f"| {median(results, 'per_s'):.0f} | {median(results, 'p50_ms'):.2f} "
            f"| {median(results, 'p99_ms'):.2f} | {answers} | {kept(results)} |"
        )
    return lines


def kept(results: list[dict[str, object]]) -> str:
    """Rows stored, of messages sent, over all rounds."""
    rows = [result["stored"] for result in results]
    if None in rows:
        return "records nothing"
    return f"{sum(map(int, map(str, rows)))} of {sum(int(str(r['n'])) for r in results)}"


def machine() -> list[str]:
    """What the figures were measured on."""
    model = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    # Debian builds its own with a profile, which says so nowhere; most others are built without.
    build = "the system's" if sys.base_prefix == "/usr" else "not the system's"
    packages = ", ".join(
        f"{name} {version(name)}" for name in ("pymilter", "dkimpy", "cryptography", "dnspython")
    )
    return [
        f"{os.cpu_count()} cores, {model}, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()} ({build}), {packages}, "
        f"gatepost {version('gatepost')}.",
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.",
    ]


def prepare(work: Path) -> Path:
    """The scratch directory with the messages in it; made where they are missing."""
    work = work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "messages" / "zone.conf").exists():
        corpus = Path(__file__).with_name("corpus.py")
        subprocess.run([sys.executable, str(corpus), str(work / "messages")], check=True)
    return work


def main() -> None:
    """Prepare, measure, print, write RESULTS.md."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument(
        "--peers", default="opendkim,rspamd,dkimpy-milter,empty-pymilter,gatepost,gatepost-native"
    )
    arguments.add_argument("--sets", default=",".join(SETS))
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument(
        "--runs", type=int, default=1, help="whole comparisons, one after another"
    )
    arguments.add_argument("--write", type=Path, help="write the table here as well")
    given = arguments.parse_args()
    work = prepare(given.work)
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("bench: unbound is missing; install it (Debian: apt-get install unbound)")
    lines = ["# Side by side", "", *machine()]
    try:
        for number in range(given.runs):
            lines += ["", f"## Run {number + 1}"]
            lines += compare(work, given.peers.split(","), given.sets.split(","), given.rounds)
    finally:
        dns.stop()
    print("\n".join(lines))
    if given.write:
        given.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
