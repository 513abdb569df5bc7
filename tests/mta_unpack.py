"""Find Postfix and Exim, or unpack their packages into a cache: nothing is ever installed.

`postfix()` and `exim()` answer where the programs are, or raise `Unavailable` with the reason.
A Postfix that is installed is used as it is, with a configuration of its own; the system's files
are only read. Users that a mail system wants and that are missing are made for the test run and
removed after it, under a lock that several runs on one machine share.
"""

import fcntl
import grp
import os
import pwd
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

PACKAGES = Path(__file__).with_name("mta_packages.txt")
APT_TIMEOUT = 300


class Unavailable(Exception):
    """No mail server can be had here; the text says why and what would help."""


@dataclass(frozen=True, slots=True)
class Programs:
    """One mail server's files. `root` is / where it is installed, else where it was unpacked."""

    root: Path
    libraries: tuple[Path, ...]

    def environment(self) -> dict[str, str]:
        """A small environment in which the programs find their libraries."""
        env = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
        if self.libraries:
            env["LD_LIBRARY_PATH"] = ":".join(map(str, self.libraries))
        return env


def packages(section: str) -> tuple[str, ...]:
    """The package names of one section of mta_packages.txt."""
    found: list[str] = []
    current = ""
    for line in PACKAGES.read_text().splitlines():
        text = line.partition("#")[0].strip()
        if text.startswith("["):
            current = text.strip("[]")
        elif text and current == section:
            found.append(text)
    return tuple(found)


def cache() -> Path:
    """Where unpacked packages stay between runs. Readable by every user: postfix runs there."""
    named = os.environ.get("GATEPOST_MTA_CACHE")
    return Path(named) if named else Path("/var/cache/gatepost-tests")


def _need_root() -> None:
    if os.geteuid() != 0:
        raise Unavailable("a throw-away mail server starts as root, and this is not root")


def postfix() -> Programs:
    """Postfix: the installed one, else the unpacked package. Raises Unavailable."""
    _need_root()
    if named := os.environ.get("GATEPOST_POSTFIX"):
        # Another release, laid out as Debian does: usr/sbin and usr/lib/postfix/sbin below it.
        return Programs(Path(named), (Path(named) / "usr/lib/postfix",))
    if Path("/usr/sbin/postconf").exists() and Path("/usr/lib/postfix/sbin/master").exists():
        return Programs(Path("/"), ())
    return _unpacked("postfix", "usr/lib/postfix/sbin/master")


def exim() -> Programs:
    """Exim, always unpacked: Debian's package conflicts with Postfix. Raises Unavailable."""
    _need_root()
    return _unpacked("exim", "usr/sbin/exim4")


def opendmarc() -> Programs:
    """OpenDMARC, always unpacked. Raises Unavailable."""
    _need_root()
    return _unpacked("opendmarc", "usr/sbin/opendmarc")


def mail_authenticationresults() -> Programs:
    """Perl's Mail::AuthenticationResults, always unpacked. Raises Unavailable."""
    _need_root()
    module = "usr/share/perl5/Mail/AuthenticationResults/Parser.pm"
    return _unpacked("mail-authenticationresults", module)


def rsyslog() -> Programs:
    """rsyslogd, unpacked. Raises Unavailable."""
    _need_root()
    return _unpacked("rsyslog", "usr/sbin/rsyslogd")


def neighbour(section: str, program: str) -> Programs:
    """Another program that stands beside a mail server, unpacked. Raises Unavailable."""
    _need_root()
    return _unpacked(section, program)


def _unpacked(section: str, marker: str) -> Programs:
    home = cache() / section
    home.parent.mkdir(parents=True, exist_ok=True)
    with open(home.parent / f"{section}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (home / marker).exists():
            building = home.with_name(f"{section}.new")
            shutil.rmtree(building, ignore_errors=True)
            building.mkdir(mode=0o755)
            try:
                _unpack_all(packages(section), building)
            except (OSError, subprocess.SubprocessError) as error:
                raise Unavailable(f"cannot unpack {section}: {error}") from error
            if not (building / marker).exists():
                raise Unavailable(f"the {section} packages hold no {marker}")
            # A set-uid program would ignore LD_LIBRARY_PATH when another user starts it.
            for path in building.rglob("*"):
                if path.is_file() and not path.is_symlink() and path.stat().st_mode & 0o6000:
                    path.chmod(path.stat().st_mode & 0o777)
            _name_home(building, home)
            shutil.rmtree(home, ignore_errors=True)
            building.rename(home)
    libraries = {p.parent for p in home.rglob("lib*.so*")}
    return Programs(home, tuple(sorted(libraries)))


def _name_home(building: Path, home: Path) -> None:
    """Debian 13's `postfix check` runs programs of its own by their installed names."""
    place = "usr/lib/postfix"
    scripts = [building / place / "configure-instance.sh"]
    if scripts[0].exists():
        scripts += [building / place / "sbin" / name for name in ("post-install", "postfix-script")]
        for script in scripts:
            script.write_text(script.read_text().replace(f" /{place}/", f" {home}/{place}/"))


def _unpack_all(names: tuple[str, ...], target: Path) -> None:
    """Download and unpack `names` and the libraries they want that this machine lacks."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Unavailable("no apt-get and dpkg-deb here; install Postfix, or use Debian or Ubuntu")
    todo, done = list(names), set[str]()
    debs = target / "debs"
    debs.mkdir()
    while todo:
        name = todo.pop()
        done.add(name)
        deb = _download(name, debs)
        subprocess.run(["dpkg-deb", "-x", deb, target], check=True, timeout=APT_TIMEOUT)
        wanted = (d for d in _libraries(deb) if d not in done and not _installed(d))
        todo += [d for d in wanted if d not in todo and _is_package(d)]
        deb.unlink()


def _download(name: str, into: Path) -> Path:
    def get() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["apt-get", "-q", "download", name], cwd=into, capture_output=True, text=True,
            timeout=APT_TIMEOUT, check=False,
        )  # fmt: skip

    done = get()
    if done.returncode:
        # A fresh container has no package lists.
        subprocess.run(["apt-get", "-q", "update"], capture_output=True, timeout=APT_TIMEOUT,
                       check=False)  # fmt: skip
        done = get()
    found = sorted(into.glob(f"{name}_*.deb"))
    if done.returncode or not found:
        last = (done.stderr.strip().splitlines() or ["no package file"])[-1]
        raise Unavailable(f"apt-get download {name}: {last}")
    return found[0]


def _libraries(deb: Path) -> list[str]:
    """The library packages that `deb` depends on."""
    text = subprocess.run(
        ["dpkg-deb", "-f", deb, "Depends"], check=True, capture_output=True, text=True
    ).stdout
    parts = [p for p in text.split(",") if p.strip()]
    names = [p.partition("|")[0].split()[0].partition(":")[0] for p in parts]
    return [n for n in names if n.startswith("lib") and n != "libc6"]


def _is_package(name: str) -> bool:
    """False for a name that others provide: Perl has many of its modules built in."""
    # Of a purely virtual package apt says nothing, and some releases of it return 0.
    done = subprocess.run(["apt-cache", "show", name], capture_output=True, check=False)
    return done.returncode == 0 and bool(done.stdout.strip())


def _installed(name: str) -> bool:
    done = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status}", name],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout == "installed"


@contextmanager
def users(*names: str, groups: tuple[str, ...] = ()) -> Iterator[None]:
    """Make system users and groups that are missing; the last run that uses them removes them."""
    folder = cache()
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "users.lock", "a+") as gate, open(folder / "users.made", "a+") as made:
        fcntl.flock(gate, fcntl.LOCK_EX)  # one run at a time makes or removes
        fcntl.flock(made, fcntl.LOCK_SH)  # held for as long as this run lives
        for name in names:
            if not _exists(pwd.getpwnam, name):
                subprocess.run(
                    ["useradd", "--system", "--user-group", "--no-create-home",
                     "--shell", "/usr/sbin/nologin", "--home-dir", "/nonexistent", name],
                    check=True, capture_output=True,
                )  # fmt: skip
                _note(made, f"user {name}")
        for name in groups:
            if not _exists(grp.getgrnam, name):
                subprocess.run(["groupadd", "--system", name], check=True, capture_output=True)
                _note(made, f"group {name}")
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(made, fcntl.LOCK_UN)
            try:
                fcntl.flock(made, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pass  # another run still uses them, and will remove them
            else:
                _remove(made)


def _exists(lookup: Callable[[str], object], name: str) -> bool:
    try:
        lookup(name)
    except KeyError:
        return False
    return True


def _note(made: TextIO, line: str) -> None:
    made.write(line + "\n")
    made.flush()


def _remove(made: TextIO) -> None:
    made.seek(0)
    left = []
    for line in made.read().splitlines():
        kind, _, name = line.partition(" ")
        tool = "userdel" if kind == "user" else "groupdel"
        # 6: there is no such user or group; anything else is tried again by the next run.
        if subprocess.run([tool, name], check=False, capture_output=True).returncode not in (0, 6):
            left.append(line)
    made.seek(0)
    made.truncate()
    made.writelines(line + "\n" for line in left)
    made.flush()
