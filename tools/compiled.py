"""Compile the modules that every message passes through to machine code, with mypyc.

    python tools/compiled.py INTO

INTO is the top of a checkout. Each module of MODULES gets an extension module beside its source,
which Python prefers; the source stays, for tracebacks, and is the same either way. Wants mypy
(which brings mypyc), a C compiler and Python's headers; exit 2 where one of them is missing.

Not compiled: what is asked once (settings, commands, pages), `filter.session`, whose methods a
debugger and the tests want to get at, and modules that mypyc does not take.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NoReturn

TOP = Path(__file__).resolve().parent.parent
MODULES = """
gatepost_milter.engine.dialogue
gatepost_milter.engine.native
gatepost_milter.filter.answers
gatepost_milter.filter.checks
gatepost_milter.filter.context
gatepost_milter.filter.gate
gatepost_milter.filter.hop
gatepost_milter.filter.own_results
gatepost_milter.filter.tracer
gatepost_milter.filter.transcript
gatepost_milter.filter.trap_mail
gatepost_milter.protocol.constants
gatepost_milter.protocol.negotiation
gatepost_milter.protocol.order
gatepost_milter.protocol.packets
gatepost_milter.protocol.peer
gatepost_milter.protocol.text
gatepost_policy.dkim.answers
gatepost_policy.dkim.arc
gatepost_policy.dkim.authresults
gatepost_policy.dkim.blanks
gatepost_policy.dkim.body
gatepost_policy.dkim.claimed_name
gatepost_policy.dkim.fields
gatepost_policy.dkim.keys
gatepost_policy.dkim.outcome
gatepost_policy.dkim.proof
gatepost_policy.dkim.reasons
gatepost_policy.dkim.signature
gatepost_policy.dkim.verifier
gatepost_policy.dmarc.checker
gatepost_policy.dmarc.record
gatepost_policy.dmarc.tree_walk
gatepost_policy.dns.answer
gatepost_policy.dns.task
gatepost_policy.ingest.deltas
gatepost_policy.ingest.row_values
gatepost_policy.ingest.rows
gatepost_policy.journal.record
gatepost_policy.journal.segment
gatepost_policy.journal.writer
gatepost_policy.lookup.snapshot
gatepost_policy.lookup.state
gatepost_policy.mail.address
gatepost_policy.mail.addressed
gatepost_policy.mail.client_address
gatepost_policy.mail.dates
gatepost_policy.mail.decision
gatepost_policy.mail.dkim_reason
gatepost_policy.mail.facts
gatepost_policy.mail.index_key
gatepost_policy.mail.marks
gatepost_policy.mail.organisation
gatepost_policy.mail.own
gatepost_policy.mail.real_address
gatepost_policy.mail.reason_words
gatepost_policy.mail.received
gatepost_policy.mail.trail
gatepost_policy.rules.blame
gatepost_policy.rules.excuses
gatepost_policy.rules.known
gatepost_policy.rules.rules
gatepost_policy.rules.trace
gatepost_policy.rules.whose_mail
gatepost_policy.spf.checker
gatepost_policy.system.answered_ids
gatepost_policy.system.socket_address
""".split()
PACKAGES = ("gatepost_milter", "gatepost_policy")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
FLAGS = ["-O2", "-g0", "-DNDEBUG", "-fwrapv", "-fPIC", "-w"]


def die(text: str) -> NoReturn:
    """One line, and exit 2."""
    print(f"compiled: {text}", file=sys.stderr)
    sys.exit(2)


def places(into: Path) -> dict[str, Path]:
    """Where each package lies in the checkout `into`. Exit 2 where one is missing."""
    found = {name: into / name.removeprefix("gatepost_") / name for name in PACKAGES}
    for name, room in found.items():
        if not room.is_dir():
            die(f"{into}: no {name} in it")
    return found


def translate(work: Path) -> Path:
    """The C source of MODULES, from the packages that lie in `work`."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        die("mypy is missing (it is in requirements-dev.lock)")
    shutil.copy(TOP / "pyproject.toml", work)
    os.chdir(work)
    paths = [name.replace(".", "/") + ".py" for name in MODULES]
    missing = [path for path in paths if not Path(path).is_file()]
    if missing:
        die(f"MODULES names what is not there: {', '.join(missing)}")
    # One file of C for each module: gcc takes many small ones in half the time of a large one.
    mypycify(
        ["--config-file=pyproject.toml", *paths], multi_file=True, target_dir="c", verbose=False
    )
    return work / "c"


def run(command: Sequence[str | Path]) -> None:
    """Raises SystemExit with what the compiler says."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        die(done.stderr.strip() or f"{command[0]}: exit {done.returncode}")


def build(source: Path) -> dict[str, Path]:
    """Compile `source`; the extension modules, by their place among the packages."""
    compiler = os.environ.get("CC", "cc")
    headers = sysconfig.get_path("include")
    if shutil.which(compiler) is None or not Path(headers, "Python.h").is_file():
        die("a C compiler or Python's headers are missing (Debian: apt install gcc python3-dev)")
    import mypyc

    runtime = Path(mypyc.__file__).with_name("lib-rt")
    common = [compiler, *FLAGS, f"-I{runtime}", f"-I{source}", f"-I{headers}"]
    built = source.parent / "built"
    built.mkdir()

    def one(path: Path) -> Path:
        out = built / f"{path.stem}.o"
        run([*common, "-c", path, "-o", out])
        return out

    def loader(path: Path) -> tuple[str, Path]:
        place = str(path.relative_to(source).with_suffix(SUFFIX))
        out = built / place
        out.parent.mkdir(parents=True, exist_ok=True)
        run([*common, "-shared", path, "-o", out])
        return place, out

    (group,) = [p.stem for p in source.glob("__native_*.c") if "___" not in p.stem]
    library = group.removeprefix("__native_") + "__mypyc" + SUFFIX
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(one, sorted(source.glob("*.c"))))
        found = dict(pool.map(loader, sorted(source.glob("gatepost_*/**/*.c"))))
    run([compiler, "-shared", "-o", built / library, *objects])
    found[library] = built / library
    return found


def main() -> None:
    """Compile into the folder that is given."""
    if len(sys.argv) != 2:
        die("usage: compiled.py INTO")
    into = Path(sys.argv[1]).resolve()
    rooms = places(into)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for package, room in rooms.items():
            # What an earlier compiler left would be older than its source.
            for old in room.rglob(f"*{SUFFIX}"):
                old.unlink()
            shutil.copytree(room, work / package, ignore=shutil.ignore_patterns("__pycache__"))
        found = build(translate(work))
        for place, path in found.items():
            package, _, rest = place.partition("/")
            shutil.copy(path, rooms[package] / rest if rest else rooms["gatepost_policy"].parent)
    print(f"compiled: {len(MODULES)} modules in {into}")


if __name__ == "__main__":
    main()
