"""Compile the modules that every message passes through to machine code, with mypyc.

    python tools/compiled.py [--python PYTHON] INTO

INTO is the top of a checkout, or the site-packages that gatepost is installed in. Each module of
MODULES gets an extension module beside its source, which Python prefers; the source stays, for
tracebacks, for another Python, and is the same either way. All of them come from one library,
`gatepost__mypyc`, at the top of site-packages (in a checkout: in policy/). Two runs over the same
source give the same octets, wherever it lies. $CFLAGS and $LDFLAGS come after our own.

PYTHON is the one whose packages the modules import (by default the one that runs this). Wants mypy
(which brings mypyc), a C compiler and Python's headers; exit 2 where one of them is missing.

Not compiled: what is asked once (settings, commands, pages), `filter.session`, whose methods a
debugger and the tests want to get at, and modules that mypyc does not take.
"""

import argparse
import os
import shlex
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
# Without debug information, which names the directory where it was made.
FLAGS = ["-O2", "-g0", "-DNDEBUG", "-fwrapv", "-fPIC", "-w"]
LIBRARY = "gatepost"


def die(text: str) -> NoReturn:
    """One line, and exit 2."""
    print(f"compiled: {text}", file=sys.stderr)
    sys.exit(2)


def places(into: Path) -> dict[str, Path]:
    """Where each package lies in `into`, and under "" where the library belongs. Exit 2 where a
    package is missing."""
    checkout = (into / "policy").is_dir()
    found = {
        name: into / name.removeprefix("gatepost_") / name if checkout else into / name
        for name in PACKAGES
    }
    for name, room in found.items():
        if not room.is_dir():
            die(f"{into}: no {name} in it")
    return {**found, "": into / "policy" if checkout else into}


def translate(work: Path, python: str) -> Path:
    """The C source of MODULES, from the packages that lie in `work`; what they import is looked
    for where `python` would."""
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
        ["--config-file=pyproject.toml", f"--python-executable={python}", *paths],
        multi_file=True,
        target_dir="c",
        verbose=False,
        group_name=LIBRARY,
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
    flags = [*FLAGS, *shlex.split(os.environ.get("CFLAGS", ""))]
    linking = ["-shared", *shlex.split(os.environ.get("LDFLAGS", ""))]
    common = [compiler, *flags, f"-I{runtime}", f"-I{source}", f"-I{headers}"]
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
        run([*common, *linking, path, "-o", out])
        return place, out

    library = f"{LIBRARY}__mypyc{SUFFIX}"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = list(pool.map(one, sorted(source.glob("*.c"))))
        found = dict(pool.map(loader, sorted(source.glob("gatepost_*/**/*.c"))))
    run([compiler, *flags, *linking, "-o", built / library, *objects])
    found[library] = built / library
    return found


def main() -> None:
    """Compile into the folder that is given."""
    parser = argparse.ArgumentParser(prog="compiled.py", description="Compile gatepost's modules.")
    parser.add_argument("into", type=Path, help="a checkout, or site-packages")
    parser.add_argument("--python", default=sys.executable, help="whose packages are imported")
    options = parser.parse_args()
    into = options.into.resolve()
    python = shutil.which(options.python)
    if python is None:
        die(f"no {options.python}")
    rooms = places(into)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # Not resolved: a venv's python is a link, and says by its own place whose packages it has.
        python = os.path.abspath(python)
        for package in PACKAGES:
            # What an earlier compiler left would be older than its source.
            for old in rooms[package].rglob(f"*{SUFFIX}"):
                old.unlink()
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(rooms[package], work / package, ignore=ignored)
        for place, path in build(translate(work, python)).items():
            package, _, rest = place.rpartition("/")[0].partition("/")
            target = rooms[package] / rest / path.name
            shutil.copyfile(path, target)
            target.chmod(0o644)  # as a library has it
    print(f"compiled: {len(MODULES)} modules in {into}")


if __name__ == "__main__":
    main()
