"""Messages a second through a real Postfix: alone, with OpenDKIM, with gatepost's two
engines, inbound and scrubbing.

    python bench/mta.py [--work DIRECTORY] [--messages N] [--rounds N]

smtp-source (Postfix's own generator) sends over 8 sessions into the throw-away Postfix of the
tests; what it accepts goes to the discard transport. Rounds are interleaved. Root is needed, as
for the tests. CPU is that of the milter's processes alone.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peers
from run import prepare
from scale import cpu

TESTS = Path(__file__).parent.parent / "tests"
ENGINES = {"gatepost": "gatepost, libmilter", "gatepost-native": "gatepost, native"}
OURS = '[submission]\nnetworks = ["127.0.0.0/8"]\n'  # smtp-source cannot log in


def main() -> None:
    """Measure and print a table."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--messages", type=int, default=1000)
    arguments.add_argument("--rounds", type=int, default=3)
    given = arguments.parse_args()
    sys.path.insert(0, str(TESTS))
    import mta_unpack
    from postfix_instance import PostfixInstance, Setup

    work = prepare(given.work)
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("bench: unbound is missing; install it (Debian: apt-get install unbound)")
    peers_here = {
        "no milter": None,
        "OpenDKIM": peers.start("opendkim", work / "mta", work / "messages", "inet", 26_420),
    }
    for number, (name, label) in enumerate(ENGINES.items()):
        for scrubs, what in ((0, "inbound"), (1, "scrubbing a submission")):
            peers_here[f"{label}, {what}"] = peers.start(
                name,
                work / ("mta-scrub" if scrubs else "mta"),
                work / "messages",
                "inet",
                26_421 + 2 * number + scrubs,
                extra=OURS if scrubs else "",
            )
    programs = mta_unpack.postfix()
    rates: dict[str, list[float]] = {}
    costs: dict[str, list[float]] = {}
    try:
        with mta_unpack.users("postfix", groups=("postdrop",)):
            for _ in range(given.rounds):
                for name, peer in peers_here.items():
                    if peer is None and name != "no milter":
                        continue
                    setup = Setup(main=_main_cf(peer), sasl=False)
                    with PostfixInstance(programs, setup) as postfix:
                        _send(postfix, 50)
                        before = {pid: cpu(pid) for pid in (peer.pids() if peer else [])}
                        rates.setdefault(name, []).append(
                            given.messages / _send(postfix, given.messages)
                        )
                        time.sleep(1.5)  # the recorder's part
                        used = sum(cpu(pid) - was for pid, was in before.items())
                        costs.setdefault(name, []).append(1000 * used / given.messages)
    finally:
        for peer in (*peers_here.values(), dns):
            if peer is not None:
                peer.stop()
    alone = statistics.median(rates["no milter"])
    print("| Postfix with | messages/s (range) | of Postfix alone | milter CPU-ms a message |")
    print("|---|---|---|---|")
    for name, got in rates.items():
        rate, cost = statistics.median(got), statistics.median(costs[name])
        print(
            f"| {name} | {rate:.0f} ({min(got):.0f}-{max(got):.0f}) | {rate / alone:.0%} "
            f"| {cost:.2f} |"
        )


def _main_cf(peer: peers.Peer | None) -> dict[str, str]:
    lines = {"default_transport": "discard", "virtual_transport": "discard"}
    if peer is not None:
        port, _, host = peer.socket.removeprefix("inet:").partition("@")
        lines["smtpd_milters"] = f"inet:{host}:{port}"
    return lines


def _send(postfix: object, count: int) -> float:
    """Seconds until all are accepted. Raises CalledProcessError where one was refused."""
    commands, port = postfix.commands, postfix.inbound_port  # type: ignore[attr-defined]
    command = [str(commands / "smtp-source"), "-s", "8", "-m", str(count), "-l", "3800",
               "-f", "a@example.com", "-t", "user@local.test", f"127.0.0.1:{port}"]  # fmt: skip
    begin = time.monotonic()
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        env=postfix.environment(),  # type: ignore[attr-defined]
    )
    return time.monotonic() - begin


if __name__ == "__main__":
    main()
