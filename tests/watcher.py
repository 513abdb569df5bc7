"""`milterctl watch` as a process, and a log for it to follow."""

import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

from sqlalchemy import Engine

from daemons import BIN
from gatepost_policy import store
from gatepost_policy.config.settings import Settings

PATIENCE_S = 120.0


def stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(at))


def postfix(number: int, at: float) -> list[str]:
    """The lines of one message: delivered, refused at RCPT, or one of our own."""
    head = f"{stamp(at)} mx postfix"
    ip = f"192.0.2.{number % 200 + 1}"
    if number % 5 == 4:
        refusal = "450 4.7.1" if number % 2 else "550 5.1.1"
        return [
            f"{head}/smtpd[{number}]: NOQUEUE: reject: RCPT from unknown[{ip}]: {refusal}"
            f" <x@h.example>: no; from=<s{number}@s.example> to=<x@h.example> proto=ESMTP"
            f" helo=<h{number}.example>"
        ]
    name = "".join("BCDFGHJKLMNPQRSTVWXYZ"[number // 20**n % 20] for n in range(8)) + "Bzz"
    own = ", sasl_method=PLAIN, sasl_username=alice" if number % 5 == 3 else ""
    return [
        f"{head}/smtpd[1]: {name}: client=c{number}.example[{ip}]{own}",
        f"{head}/cleanup[2]: {name}: message-id=<{number}@s.example>",
        f"{head}/qmgr[3]: {name}: from=<s{number}@s.example>, size=900, nrcpt=1 (queue active)",
        f"{head}/lmtp[4]: {name}: to=<user@home.example>, relay=l[192.0.2.250]:24, status=sent",
        f"{head}/qmgr[3]: {name}: removed",
    ]


class Watcher:
    """`milterctl watch` as a process."""

    def __init__(self, settings: Settings, directory: Path, *logs: Path, words: str = "") -> None:
        self.config = directory / "watch.toml"
        self.config.write_text(
            f"store.url = {json.dumps(settings.store.url)}\n"
            f"store.journal = {json.dumps(settings.store.journal)}\n"
        )
        start: list[str | Path] = [BIN / "milterctl", "--config", self.config, "watch"]
        self.words = [*start, *logs, *words.split()]
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(self.words, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert "ready" in self.process.stdout.readline()

    def kill(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> None:
        assert self.process is not None and self.process.stdout is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE_S) == 0
        self.process.stdout.close()

    def once(self) -> str:
        words = [*self.words, "--once"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stderr


def append(log: Path, lines: list[str]) -> None:
    with log.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def found(engine: Engine) -> tuple[Counter[str], int]:
    with store.reading(engine) as connection:
        senders = connection.exec_driver_sql("SELECT sender FROM message").scalars().all()
        own = connection.exec_driver_sql("SELECT sum(messages) FROM submission_count").scalar()
    return Counter(str(sender) for sender in senders), int(own or 0)
