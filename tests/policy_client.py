"""Ask a policy service as Postfix or Exim would, over one connection that stays open."""

import base64
import socket
import time
from collections.abc import Callable
from pathlib import Path

from click.testing import CliRunner

from gatepost_milter.cli.milterctl import cli

TIMEOUT = 60.0


class PolicyClient:
    """One connection to a policy service at `target` (a port on loopback, or a unix path)."""

    def __init__(self, target: int | str) -> None:
        family = socket.AF_INET if isinstance(target, int) else socket.AF_UNIX
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.settimeout(TIMEOUT)
        self.socket.connect(("127.0.0.1", target) if isinstance(target, int) else target)
        self.buffer = b""

    def __enter__(self) -> "PolicyClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def until(self, end: bytes) -> bytes:
        """What comes up to `end`; everything there was where the other side closes."""
        while end not in self.buffer:
            data = self.socket.recv(65_536)
            if not data:
                got, self.buffer = self.buffer, b""
                return got
            self.buffer += data
        got, _, self.buffer = self.buffer.partition(end)
        return got

    def closed(self) -> bool:
        """True once the other side has closed; waits for it."""
        return self.socket.recv(1) == b""

    def postfix(self, recipient: str, **values: str) -> str:
        """The action for one RCPT TO."""
        self.send(postfix_request(recipient, **values))
        return self.until(b"\n\n").decode().removeprefix("action=")

    def exim(self, stage: str, **values: str) -> str:
        """The answer line to one stage; every value goes in base64."""
        words = [f"b64.{k}={base64.b64encode(v.encode()).decode()}" for k, v in values.items()]
        self.send(f"exim stage={stage} {' '.join(words)}\n".encode())
        return self.until(b"\n").decode()


def milterctl(config: Path, *words: str) -> str:
    """What `milterctl` prints on stdout, run in this process; it has to end well."""
    done = CliRunner().invoke(cli, ["--config", str(config), *words])
    assert done.exit_code == 0, (words, done.output, done.exception)
    return done.stdout


def postfix_request(recipient: str, **values: str) -> bytes:
    """One request in Postfix's protocol; by default from 192.0.2.7."""
    base = {
        "request": "smtpd_access_policy",
        "protocol_state": "RCPT",
        "client_address": "192.0.2.7",
        "client_name": "unknown",
        "client_port": "4000",
        "sender": "x@spam.example",
        "recipient": recipient,
    }
    return "".join(f"{k}={v}\n" for k, v in {**base, **values}.items()).encode() + b"\n"


def eventually(condition: Callable[[], bool], seconds: float = TIMEOUT) -> float:
    """Wait until `condition` holds; how long it took. AssertionError after `seconds`."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds, "it never happened"
        time.sleep(0.03)
    return time.monotonic() - begun
