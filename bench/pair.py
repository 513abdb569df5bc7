"""Two checkouts of gatepost side by side: has a change made messages cheaper, and by how much?

    python bench/pair.py OLD NEW [--engine native] [--sets small-rr,medium-rr] [--rounds N]

Each is started from its own checkout with this Python and its packages, and gets the same messages
in interleaved pairs (old new, new old, ...): a machine whose speed drifts slows both alike. The
figure is CPU seconds per 1000 messages of all processes, and the part of each process beside it;
what counts is the ratio, the median over the pairs.
"""

import argparse
import os
import statistics
import sys
import tomllib
from pathlib import Path

import peers
from run import COUNTS, build_load, measure, prepare, wrong

ENGINES = {"native": peers.GATEPOST.replace("[milter]\n", '[milter]\nengine = "native"\n')}
ENGINES["libmilter"] = peers.GATEPOST
START = """import sys
sys.path[:0] = [{milter!r}, {policy!r}]
sys.argv[0] = "gatepost-milter"
from {module} import {function}
{function}()
"""


def command(checkout: Path, engine: str) -> peers.Command:
    """How `checkout`'s milter is started."""
    scripts = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, function = scripts["gatepost-milter"].partition(":")
    code = START.format(
        milter=str(checkout / "milter"),
        policy=str(checkout / "policy"),
        module=module,
        function=function,
    )

    def made(run: Path, words: dict[str, str]) -> list[str]:
        config = run / "gatepost.toml"
        config.write_text(ENGINES[engine].format(**words))
        return [sys.executable, "-c", code, "--config", str(config)]

    return made


def used(peer: peers.Peer) -> dict[str, float]:
    """CPU seconds of each process so far, by what it is: the workers together."""
    found: dict[str, float] = {}
    tick = os.sysconf("SC_CLK_TCK")
    for pid in peer.pids():
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        what = "parent" if pid == peer.process.pid else role(pid)
        found[what] = found.get(what, 0.0) + (int(words[11]) + int(words[12])) / tick
    return found


def role(pid: int) -> str:
    """The recorder holds the store open, a worker the journal."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if ".sqlite" in os.readlink(link) and ".sqlite-shm" not in os.readlink(link):
                return "recorder"
        except OSError:
            continue
    return "workers"


def compare(work: Path, checkouts: list[Path], engine: str, names: list[str], rounds: int) -> None:
    """Measure and print. Raises SystemExit where an answer was wrong."""
    load = build_load(work)
    pair = []
    for label, checkout in zip(("old", "new"), checkouts, strict=True):
        peers.COMMANDS[label] = command(checkout, engine)
        peer = peers.start(label, work / "peers", work / "messages", extra=EXTRA[label])
        assert peer is not None
        pair.append(peer)
    figures: dict[tuple[str, str], list[dict[str, float]]] = {}
    try:
        for name in names:
            for peer in pair:
                measure(load, peer, work / "messages" / name, 100)
        for turn in range(rounds):
            for name in names:
                for peer in pair if turn % 2 == 0 else reversed(pair):
                    count = COUNTS[name.split("-")[0]]
                    before = used(peer)
                    result = measure(load, peer, work / "messages" / name, count)
                    if wrong(result):
                        sys.exit(f"bench: {peer.name}: {wrong(result)}")
                    after = used(peer)
                    parts = {k: 1000 * (v - before.get(k, 0.0)) / count for k, v in after.items()}
                    parts["all"] = sum(parts.values())
                    figures.setdefault((name, peer.name), []).append(parts)
    finally:
        for peer in pair:
            peer.stop()
    for name in names:
        old, new = figures[name, "old"], figures[name, "new"]
        for label, every in (("old", old), ("new", new)):
            words = [
                f"{what} {statistics.median(one.get(what, 0.0) for one in every):.3f}"
                for what in ("all", "workers", "recorder", "parent")
            ]
            print(f"{name:10} {label}: CPU-s per 1000: {', '.join(words)}")
        ratios = [a["all"] / b["all"] for a, b in zip(old, new, strict=True)]
        print(
            f"{name:10} old/new: {statistics.median(ratios):.3f} "
            f"({min(ratios):.3f}-{max(ratios):.3f}), {rounds} pairs"
        )


EXTRA = {"old": "", "new": ""}


def main() -> None:
    """Prepare, measure, print."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("old", type=Path)
    arguments.add_argument("new", type=Path)
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--engine", choices=sorted(ENGINES), default="native")
    arguments.add_argument("--sets", default="small-rr,medium-rr")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    work = prepare(given.work)
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("bench: unbound is missing; install it (Debian: apt-get install unbound)")
    checkouts = [given.old.resolve(), given.new.resolve()]
    try:
        compare(work, checkouts, given.engine, given.sets.split(","), given.rounds)
    finally:
        dns.stop()


if __name__ == "__main__":
    main()
