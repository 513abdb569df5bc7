"""What the throw-away Postfix and Exim share: life, clients and mail (`Mta`), a certificate."""

import datetime
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from mta_unpack import Programs
from ports import free_port
from smtp_client import Client

HOST = "mx.local.test"
LOGIN, PASSWORD = "alice.login@local.test", "secret"
START_TIMEOUT = 60
DELIVERY_TIMEOUT = 60


class Mta(ABC):
    """One MTA in a directory of its own, on two free ports; it delivers to Maildirs in `mail`.

    A subclass lays out its files, calls `launch`, and says in `log_text` where its log is.
    """

    def __init__(self, programs: Programs, name: str) -> None:
        self.programs, self.name = programs, name
        self.root = Path(tempfile.mkdtemp(prefix=f"gatepost-{name.lower()}-"))
        self.root.chmod(0o755)  # the MTA's user reads here
        self.mail = self.root / "mail"
        self.inbound_port, self.submission_port = free_port(), free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def launch(
        self, command: Sequence[str | Path], environ: Mapping[str, str], output: Path
    ) -> None:
        """Start it as the leader of a session of its own, and wait until it greets."""
        with output.open("wb") as stream:
            self.process = subprocess.Popen(
                list(map(str, command)), env=dict(environ), cwd=self.root,
                stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_TIMEOUT
        while not answers(self.inbound_port):
            if self.process.poll() is not None or time.monotonic() > end:
                told = output.read_text(errors="replace") if output.is_file() else ""
                raise RuntimeError(
                    # Postfix ends without a word where it cannot have a port.
                    f"{self.name} did not start on {self.inbound_port} and {self.submission_port}"
                    f" ({self.process.poll()}):\n{told}{self.log_text()}"
                )
            time.sleep(0.02)

    def end_process(self) -> None:
        """End it and all its children; the files stay."""
        if self.process is not None:
            # Our own session: nothing but its children is in it.
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(self.process.pid, number)
                except ProcessLookupError:
                    break
                try:
                    self.process.wait(5)
                except subprocess.TimeoutExpired:
                    continue
            self.process = None

    def stop(self) -> None:
        """End it and leave nothing behind."""
        self.end_process()
        shutil.rmtree(self.root, ignore_errors=True)

    @abstractmethod
    def log_text(self) -> str:
        """What it has logged."""

    def inbound(self, host: str = "127.0.0.1", **options: object) -> Client:
        return Client(host, self.inbound_port, **options)  # type: ignore[arg-type]

    def submission(self, host: str = "127.0.0.1", **options: object) -> Client:
        """A client that logs in; `login=""` is one that does not."""
        options = {"login": LOGIN, "password": PASSWORD, **options}
        return Client(host, self.submission_port, **options)  # type: ignore[arg-type]

    def delivered(self, box: str = "*") -> list[Path]:
        """The delivered messages, oldest first."""
        return sorted(self.mail.glob(f"{box}/new/*"), key=lambda p: p.stat().st_mtime_ns)

    def collect(self, count: int = 1, box: str = "*") -> list[bytes]:
        """Wait for `count` messages, read them and take them away."""
        end = time.monotonic() + DELIVERY_TIMEOUT
        while len(self.delivered(box)) < count:
            if time.monotonic() > end:
                raise AssertionError(
                    f"want {count} delivered, got {len(self.delivered(box))}:\n{self.log_text()}"
                )
            time.sleep(0.02)
        found = self.delivered(box)
        out = [path.read_bytes() for path in found]
        for path in found:
            path.unlink()
        return out


def answers(port: int, host: str = "127.0.0.1") -> bool:
    """True where a server greets on the port."""
    try:
        with socket.create_connection((host, port), 5) as sock:
            sock.settimeout(10)
            return sock.recv(3) == b"220"
    except OSError:
        return False


def let_others_in(folder: Path) -> None:
    """Let other users enter a directory of a test; pytest makes them private. The one in which all
    temporary files are is left alone: it is not ours, and must stay open to everybody."""
    shared = Path(tempfile.gettempdir())
    for path in (folder, *folder.parents):
        if path == shared or shared not in path.parents:
            break
        path.chmod(0o755)


def certificate() -> bytes:
    """A fresh self-signed certificate with its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, HOST)])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=2))
        .sign(key, hashes.SHA256())
    )
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ) + signed.public_bytes(serialization.Encoding.PEM)
