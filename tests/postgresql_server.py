"""A throw-away PostgreSQL server: in a directory of its own, on a private unix socket.

It runs as an unprivileged user, as PostgreSQL insists: whoever runs the tests, or `nobody` where
that is root. Nothing listens on the network.
"""

import glob
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

START_S = 60
# Power cuts are not what is tested here: a killed process leaves the page cache as it is.
OPTIONS = ("fsync=off", "listen_addresses=", "max_connections=40", "shared_buffers=64MB",
           "autovacuum_naptime=10s", "log_min_messages=fatal")  # fmt: skip


class Unavailable(Exception):
    """No server can be had here; the text says what would help."""


def programs() -> Path:
    """The directory of initdb and postgres. Raises Unavailable."""
    on_path = shutil.which("initdb")
    if on_path:
        return Path(on_path).resolve().parent
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"))
    if not found:
        raise Unavailable("no initdb here; Debian's package is postgresql (make rings installs it)")
    return Path(found[-1]).parent


def _as_user() -> dict[str, int | list[int]]:
    """Popen arguments for the user who runs the server."""
    if os.geteuid() != 0:
        return {}
    return {"user": 65534, "group": 65534, "extra_groups": []}


class Server:
    """One server and its files. `start` and `kill` may be called again and again."""

    def __init__(self) -> None:
        self.bin = programs()
        # pytest's own directories may be closed to the server's user.
        self.directory = Path(tempfile.mkdtemp(prefix="gatepost-pg-"))
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self.data.mkdir(mode=0o700)
        if os.geteuid() == 0:
            os.chown(self.data, 65534, 65534)
            os.chown(self.directory, 65534, 65534)
        self.process: subprocess.Popen[bytes] | None = None
        try:
            self.run(
                "initdb", "-D", self.data, "-U", "gatepost", "-A", "trust", "-E", "UTF8",
                "--locale=C.UTF-8", "--no-sync",
            )  # fmt: skip
        except BaseException:
            shutil.rmtree(self.directory, ignore_errors=True)
            raise

    def run(self, program: str, *arguments: object) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            [self.bin / program, *map(str, arguments)],
            cwd=self.directory,
            capture_output=True,
            text=True,
            check=False,
            **_as_user(),  # type: ignore[call-overload]
        )
        if done.returncode:
            raise Unavailable(f"{program}: {done.stderr.strip()}")

    def start(self) -> None:
        """Start, and wait until it answers."""
        arguments = [str(self.bin / "postgres"), "-D", str(self.data), "-k", str(self.directory)]
        for option in OPTIONS:
            arguments += ["-c", option]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                arguments, cwd=self.directory, stdout=log, stderr=log, start_new_session=True,
                **_as_user(),  # type: ignore[call-overload]
            )  # fmt: skip
        deadline = time.monotonic() + START_S
        while True:
            try:
                psycopg.connect(self.conninfo("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    text = (self.directory / "log").read_text()[-2000:]
                    raise Unavailable(f"the server does not start: {error}\n{text}") from None
                time.sleep(0.05)

    def kill(self) -> None:
        """kill -9 the server with all its backends."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGKILL)
        self._gone()

    def stop(self) -> None:
        """Stop at once, in order."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # "fast shutdown"
            self._gone()

    def _gone(self) -> None:
        assert self.process is not None
        self.process.wait(30)
        self.process = None

    def remove(self) -> None:
        """Stop, and delete every file."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def conninfo(self, database: str) -> str:
        """For psycopg."""
        return f"host={self.directory} user=gatepost dbname={database}"

    def url(self, database: str) -> str:
        """For `store.url`."""
        return f"postgresql://gatepost@/{database}?host={self.directory}"

    def create(self, database: str, template: str = "template0") -> str:
        """A new database, as a copy of `template`; its URL."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{database}" TEMPLATE "{template}"'.encode())
        return self.url(database)

    def drop(self, database: str) -> None:
        """Delete a database, whoever is still connected."""
        with psycopg.connect(self.conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)'.encode())
