"""Has the reply path become slower? Instructions per message against the committed baseline.

    python bench/check.py [--work DIRECTORY] [--write]

One worker of the real milter runs under valgrind's callgrind, which counts instructions instead
of seconds: the figure is the same on a busy machine. It counts inside pymilter's callbacks only,
once for a number of messages and once for twice as many, and the difference is what the
messages cost. A figure more than
TOLERANCE above bench/baseline.json fails (exit 1); `--write` makes the present figures the new
baseline. Run it by hand before a release: figures of another processor or other versions of
Python and OpenSSL do not compare, so the baseline names them.

The recorder is not counted here: it works behind the reply (see `make bench` for the whole).
"""

import argparse
import json
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import peers
from run import build_load, prepare

COUNTS = {"small-rr": 60, "medium-rr": 30, "large-rr": 4}
TOLERANCE = 0.05
BASELINE = Path(__file__).with_name("baseline.json")
START_S, STOP_S = 180, 60
CONFIG = """[milter]
socket = "unix:{run}/socket"
workers = 1
[dkim]
nameservers = ["127.0.0.1:{port}"]
[store]
url = "sqlite:///{run}/gatepost.sqlite"
"""


def instructions(run: Path, load: Path, folder: Path, count: int) -> int:
    """What one worker's life with `count` messages takes. Raises SystemExit."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir(parents=True)
    (run / "gatepost.toml").write_text(CONFIG.format(run=run, port=peers.DNS_PORT))
    program = Path(sys.executable).with_name("gatepost-milter")
    log = run / "log"
    # Only what happens inside a callback: libmilter's waiting between them is as long as it is.
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={run}/out.%p"]
    command += ["--toggle-collect=milter_wrap_*"]
    with log.open("wb") as out:
        milter = subprocess.Popen(
            [*command, str(program), "--config", str(run / "gatepost.toml")],
            stdout=out,
            stderr=out,
            # Hash values decide the order of sets, and with it a little of the work.
            env={"PYTHONHASHSEED": "0", "PATH": "/usr/bin:/bin"},
        )
    deadline = time.monotonic() + START_S
    while b" ready " not in log.read_bytes():
        if milter.poll() is not None or time.monotonic() > deadline:
            milter.kill()
            sys.exit(f"bench: the milter did not start under valgrind; see {log}")
        time.sleep(0.2)
    send = [str(load), "-s", f"unix:{run}/socket", "-c", "1", "-n", str(count), str(folder)]
    subprocess.run(send, check=True, capture_output=True)
    # Callbacks run in the worker only: the recorder's figure is 0.
    family = list(peers.tree(milter.pid))
    milter.send_signal(signal.SIGTERM)
    try:
        milter.wait(STOP_S)
    except subprocess.TimeoutExpired:
        milter.kill()
    totals = []
    for pid in family[1:]:
        profile = run / f"out.{pid}"
        if profile.exists():
            match = re.search(r"^totals: (\d+)", profile.read_text(), re.M)
            if match:
                totals.append(int(match[1]))
    if not totals:
        sys.exit(f"bench: no worker left its counts in {run}")
    return max(totals)


def measure(work: Path) -> dict[str, int]:
    """Instructions per message, by set."""
    load = build_load(work)
    out = {}
    for name, count in COUNTS.items():
        # Twice as many messages less once as many: caches fill and modules load in both.
        once, twice = (
            instructions(work / "callgrind", load, work / "messages" / name, count * times)
            for times in (1, 2)
        )
        out[name] = (twice - once) // count
    return out


def versions() -> dict[str, str]:
    """What must be the same for two figures to compare."""
    names = ("pymilter", "cryptography", "dkimpy")
    return {"machine": platform.machine(), "python": platform.python_version()} | {
        name: version(name) for name in names
    }


def main() -> None:
    """Measure, compare, perhaps write."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--work", type=Path, default=Path("build/bench"))
    arguments.add_argument("--write", action="store_true", help="make these the baseline")
    given = arguments.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("bench: valgrind is missing; install it (Debian: apt-get install valgrind)")
    work = prepare(given.work)
    dns = peers.start("dns", work / "peers", work / "messages")
    if dns is None:
        sys.exit("bench: unbound is missing; install it (Debian: apt-get install unbound)")
    try:
        got = measure(work)
    finally:
        dns.stop()
    if given.write:
        BASELINE.write_text(
            json.dumps({"versions": versions(), "instructions": got}, indent=1) + "\n"
        )
    baseline = json.loads(BASELINE.read_text())
    if baseline["versions"] != versions():
        print(
            f"The baseline is of {baseline['versions']}, this is {versions()}: compare with care."
        )
    slower = False
    for name, figure in got.items():
        want = int(baseline["instructions"][name])
        change = figure / want - 1
        slower |= change > TOLERANCE
        verdict = "slower" if change > TOLERANCE else "fine"
        print(f"{name:10} {figure:>12,} instructions a message, {change:+.1%}: {verdict}")
    sys.exit(1 if slower else 0)


if __name__ == "__main__":
    main()
