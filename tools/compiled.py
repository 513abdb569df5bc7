"""Compile the modules that every message passes through to machine code, with mypyc.

    python tools/compiled.py [--python PYTHON] INTO

INTO is the top of a checkout, or the site-packages that gatepost is installed in. Each module of
MODULES gets an extension module beside its source, which Python prefers; the source stays, for
tracebacks, for another Python, and is the same either way (only the `__init__` of dataclasses is
written out before, `written_out`). All of them come from one library,
`gatepost__mypyc`, at the top of site-packages (in a checkout: in policy/). Two runs over the same
source give the same octets, wherever it lies. $CFLAGS and $LDFLAGS come after our own.

PYTHON is the one whose packages the modules import (by default the one that runs this). Wants mypy
(which brings mypyc), a C compiler and Python's headers; exit 2 where one of them is missing.

Not compiled: what is asked once (settings, commands, pages), and modules that mypyc does not take.
"""

import argparse
import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
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
gatepost_milter.filter.session
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
gatepost_policy.dmarc.evaluate
gatepost_policy.dmarc.record
gatepost_policy.dmarc.tree_walk
gatepost_policy.dns.answer
gatepost_policy.dns.fairness
gatepost_policy.dns.lookups
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
gatepost_policy.monitoring.maillog
gatepost_policy.rules.blame
gatepost_policy.rules.excuses
gatepost_policy.rules.known
gatepost_policy.rules.rules
gatepost_policy.rules.trace
gatepost_policy.rules.whose_mail
gatepost_policy.spf.checker
gatepost_policy.system.answered_ids
gatepost_policy.system.faults
gatepost_policy.system.socket_address
""".split()
PATHS = [name.replace(".", "/") + ".py" for name in MODULES]
PACKAGES = ("gatepost_milter", "gatepost_policy")
SUFFIX = sysconfig.get_config_var("EXT_SUFFIX")
# Without debug information, which names the directory where it was made.
FLAGS = ["-O2", "-g0", "-DNDEBUG", "-fwrapv", "-fPIC", "-w"]
LIBRARY = "gatepost"
# Constants that a test replaces: these are looked up.
REPLACED = {"ARMED", "SEGMENT_BYTES"}
_CONSTANT = re.compile(r"_?[A-Z][A-Z0-9_]+\Z").match  # one letter is a TypeVar


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


def _name(node: ast.expr) -> str:
    return node.id if isinstance(node, ast.Name) else ""


def _default(value: ast.expr, source: str) -> tuple[str, str] | None:
    """(default of the parameter, what makes the field where it is None) of a field's right side;
    None where it is a `field` with more than a default or a factory."""
    if not isinstance(value, ast.Call) or _name(value.func) != "field":
        return ast.get_source_segment(source, value) or "", ""
    if len(value.keywords) != 1 or value.keywords[0].arg not in ("default", "default_factory"):
        return None
    inner = ast.get_source_segment(source, value.keywords[0].value) or ""
    return ("None", f"{inner}()") if value.keywords[0].arg == "default_factory" else (inner, "")


def _init(node: ast.ClassDef, source: str) -> str | None:
    """The `__init__` on one line; None for a class with what this does not know."""
    parameters, body = ["self"], []
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef):
            if statement.name in ("__init__", "__new__", "__post_init__"):
                return None
            continue
        if not isinstance(statement, ast.AnnAssign):
            if isinstance(statement, ast.Expr):  # a docstring
                continue
            return None
        field, kind = _name(statement.target), ast.unparse(statement.annotation)
        if re.search(r"\b(ClassVar|InitVar|KW_ONLY)\b", kind):
            return None
        made = field
        if statement.value is None:
            parameters.append(f"{field}: {kind}")
        else:
            found = _default(statement.value, source)
            if found is None:
                return None
            default, factory = found
            if factory:
                made, kind = f"{factory} if {field} is None else {field}", f"{kind} | None"
            parameters.append(f"{field}: {kind} = {' '.join(default.split())}")
        body.append(f"self.{field} = {made}")
    return f"def __init__({', '.join(parameters)}) -> None: {'; '.join(body)}"


def made_bare(sources: Iterable[str]) -> frozenset[str]:
    """The classes whose values are made without `__init__`: compiled, `__new__` would call it."""
    return frozenset(re.findall(r"\b(\w+)\.__new__\(\1\)", "\n".join(sources)))


def _with_inits(source: str, bare: frozenset[str]) -> str:
    """`source` with an `__init__` in each dataclass that has neither bases nor one of its own, and
    is not one of `bare`.

    mypyc compiles what stands in a class. The `__init__` of a dataclass does not: the interpreter
    would run it, for a frozen one with a call of `object.__setattr__` for each field. The method
    takes the place of the blank line after the fields.
    """
    lines = source.split("\n")
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef) or node.bases or node.name in bare:
            continue
        if len(node.decorator_list) != 1:
            continue
        (decorator,) = node.decorator_list
        options = decorator.keywords if isinstance(decorator, ast.Call) else []
        if {option.arg for option in options} - {"frozen", "slots"}:
            continue
        if _name(decorator.func if isinstance(decorator, ast.Call) else decorator) != "dataclass":
            continue
        fields = [one for one in node.body if isinstance(one, ast.AnnAssign)]
        method = _init(node, source)
        if not fields or method is None:
            continue
        at = fields[-1].end_lineno or 0
        # Comments of the last field may follow it.
        while lines[at].strip():
            at += 1
        # A frozen field is set here and nowhere else.
        frozen = any(option.arg == "frozen" for option in options)
        lines[at] = f"    {method}" + ("  # type: ignore[misc]" if frozen else "")
    return "\n".join(lines)


def _with_constants(source: str) -> str:
    """`source` with `Final` at each constant of the module (capital letters, assigned once).

    A function would look every other name up in the module's dictionary, each time.
    """
    lines = source.split("\n")
    body = ast.parse(source).body
    names = Counter(_name(t) for one in body if isinstance(one, ast.Assign) for t in one.targets)
    for node in body:
        if not isinstance(node, ast.Assign | ast.AnnAssign) or node.value is None:
            continue
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        line, name = node.lineno - 1, _name(target)
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            # A, B = 1, 2
            pairs = [*zip(map(_name, target.elts), node.value.elts, strict=True)]
            if node.end_lineno == node.lineno and all(_CONSTANT(one) for one, _ in pairs):
                lines[line] = "; ".join(f"{one}: Final = {ast.unparse(v)}" for one, v in pairs)
        elif not _CONSTANT(name) or name in REPLACED or names[name] > 1:
            continue
        elif isinstance(node, ast.Assign):
            lines[line] = lines[line].replace(f"{name} =", f"{name}: Final =", 1)
        elif node.annotation.end_lineno == node.lineno:
            kind = ast.get_source_segment(source, node.annotation)
            lines[line] = lines[line].replace(f": {kind} ", f": Final[{kind}] ", 1)
    at = body[0].end_lineno or 0  # the blank line after the docstring
    assert not lines[at], f"no blank line after line {at}"
    lines[at] = "from typing import Final"
    return "\n".join(lines)


def written_out(source: str, bare: frozenset[str] = frozenset()) -> str:
    """`source` as mypyc compiles it best; no line gets another number."""
    return _with_constants(_with_inits(source, bare))


def translate(work: Path, python: str) -> Path:
    """The C source of MODULES, from the packages that lie in `work`; what they import is looked
    for where `python` would."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        die("mypy is missing (it is in requirements-dev.lock)")
    shutil.copy(TOP / "pyproject.toml", work)
    os.chdir(work)
    # One file of C for each module: gcc takes many small ones in half the time of a large one.
    mypycify(
        ["--config-file=pyproject.toml", f"--python-executable={python}", *PATHS],
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
        missing = [path for path in PATHS if not (work / path).is_file()]
        if missing:
            die(f"MODULES names what is not there: {', '.join(missing)}")
        sources = {path: path.read_text("utf-8") for path in map(work.joinpath, PATHS)}
        bare = made_bare(sources.values())
        for path, source in sources.items():
            path.write_text(written_out(source, bare), "utf-8")
        for place, path in build(translate(work, python)).items():
            package, _, rest = place.rpartition("/")[0].partition("/")
            target = rooms[package] / rest / path.name
            shutil.copyfile(path, target)
            target.chmod(0o644)  # as a library has it
    print(f"compiled: {len(MODULES)} modules in {into}")


if __name__ == "__main__":
    main()
