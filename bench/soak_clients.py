"""What comes to the service in a soak, all at once: mail, submissions, broken sessions, requests.

Every method of `Clients` but `run` and `packet` is one actor: it goes on until `stop` and keeps
the books. `mail` is the load generator's signed mail; `letters` have queue ids of their own, so
that each can be looked for in the store; `submissions` come with a login or over a listener that
is named in `submission.daemon_names`.
"""

import json
import random
import socket
import struct
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import soak_checks

from gatepost_milter.mta.client import Session
from gatepost_milter.mta.envelope import Envelope
from gatepost_milter.mta.wire import ProtocolError

FINE = ("pass->pass", "fail->fail", "pass->error", "fail->error")
SETS = (("small", 400), ("small", 400), ("medium", 80), ("large", 8))
TEXT = b"From: %s\r\nTo: user@example.net\r\nSubject: %d\r\n\r\nThe ferry leaves at ten.\r\n"
STRANGER = Envelope(
    client="198.51.100.9", helo=soak_checks.STRANGER_HELO, sender=soak_checks.STRANGER
)
REQUEST = (
    b"request=smtpd_access_policy\nprotocol_state=RCPT\nclient_address=192.0.2.%d\n"
    b"client_port=40001\nsender=a@example.com\nrecipient=user@example.net\ninstance=%d\n\n"
)


def packet(command: bytes, data: bytes) -> bytes:
    """One packet of the milter protocol."""
    return struct.pack("!I", len(data) + 1) + command + data


HALF_A_MESSAGE = [
    packet(b"O", struct.pack("!III", 6, 0x1FF, 0x1FFFFF)),
    packet(b"C", b"gone.example.com\x004\x9c\x40192.0.2.66\x00"),
    packet(b"H", b"gone.example.com\x00"),
    packet(b"M", b"<gone@example.com>\x00"),
    packet(b"R", b"<user@example.net>\x00"),
    packet(b"L", b"From\x00 gone@example.com\x00"),
    packet(b"L", b"Subject\x00 half a message\x00"),
    packet(b"N", b""),
    packet(b"B", b"x" * 30_000),
]


@dataclass
class Clients:
    """All that talk to the service in `run`."""

    run: Path
    load: Path
    messages: Path
    metrics: int  # port
    books: soak_checks.Books
    stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> list[threading.Thread]:
        """One thread an actor."""
        actors = (self.mail, self.letters, self.submissions, self.aborts, self.requests,
                  self.scrapes)  # fmt: skip
        threads = [threading.Thread(target=self._act, args=(actor,)) for actor in actors]
        for thread in threads:
            thread.start()
        return threads

    def _act(self, actor: Callable[[], None]) -> None:
        try:
            actor()
        except Exception as error:  # an actor that is gone would soak nothing
            self.books.wrong.append(f"{actor.__name__}: {error!r}")

    def mail(self) -> None:
        """Signed mail, one burst after another."""
        dice = random.Random(1)
        while not self.stop.is_set():
            size, count = dice.choice(SETS)
            folder = f"{size}-{dice.choice(('rr', 'rs', 'ed'))}"
            done = subprocess.run(
                [str(self.load), "-s", f"unix:{self.run}/milter", "-n", str(count), "-c", "6",
                 "-m", str(dice.choice((1, 5))), str(self.messages / folder)],
                capture_output=True, text=True, check=False,
            )  # fmt: skip
            result = json.loads(done.stdout)
            self.books.add("messages", count - result["broken"])
            self.books.add("broken", result["broken"])
            wrong = {k: v for k, v in result["results"].items() if k not in FINE}
            if wrong:
                self.books.wrong.append(f"{folder}: {wrong}")
            self.stop.wait(0.2)

    def letters(self) -> None:
        """Inbound mail, several messages a session, each with a queue id of its own."""
        number = 0
        while not self.stop.is_set():
            try:
                with Session(f"unix:{self.run}/milter", STRANGER, timeout=60) as session:
                    for _ in range(10):
                        number += 1
                        self.stop.wait(0.02)  # open, and so mostly there when a worker is killed
                        queue_id = f"{soak_checks.OURS}{number:07X}"
                        result = session.send(
                            TEXT % (soak_checks.STRANGER.encode(), number),
                            replace(STRANGER, queue_id=queue_id),
                        )
                        if result.action != "accept":
                            self.books.wrong.append(f"letter: {result.reply}")
                        self.books.letters.add(queue_id)
            except ProtocolError:
                self.books.add("broken")

    def submissions(self) -> None:
        """Mail of our own people; every fifth of them hangs up half-way."""
        dice, number = random.Random(3), 0
        while not self.stop.is_set():
            number += 1
            login = dice.random() < 0.5
            envelope = Envelope(
                client=dice.choice(soak_checks.SECRET_CLIENTS),
                client_name=dice.choice((None, soak_checks.SECRET_NAME)),
                helo=soak_checks.SECRET_HELO,
                sender=soak_checks.SECRET_SENDER,
                login=soak_checks.SECRET_LOGIN if login else None,
                daemon_name=None if login else "ORIGINATING",
            )
            try:
                with Session(f"unix:{self.run}/milter", envelope, timeout=60) as session:
                    session.mail(envelope)
                    self.stop.wait(0.02)
                    session.rset()
                    if dice.random() < 0.2:
                        session.mail(envelope)
                        session.rcpt("user@example.net")
                        self.books.add("submissions given up")
                        continue
                    result = session.send(TEXT % (soak_checks.SECRET_SENDER.encode(), number))
                    if result.action != "accept":
                        self.books.wrong.append(f"submission: {result.reply}")
                    self.books.add("submissions")
            except ProtocolError:
                self.books.add("submissions broken")

    def aborts(self) -> None:
        """Sessions that end where they should not."""
        dice = random.Random(2)
        while not self.stop.is_set():
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                try:
                    one.connect(f"{self.run}/milter")
                    cut = dice.randrange(1, len(HALF_A_MESSAGE) + 1)
                    for step in HALF_A_MESSAGE[:cut]:
                        one.sendall(step)
                        time.sleep(0.002)
                    if dice.random() < 0.5:
                        one.sendall(packet(b"A", b""))
                        one.sendall(packet(b"A", b""))  # Postfix says it twice
                    if dice.random() < 0.3:
                        one.sendall(b"\x00\x00")  # and half a length
                except OSError:
                    self.books.add("refused")
            self.books.add("aborts")
            self.stop.wait(0.03)

    def requests(self) -> None:
        """Policy requests, one after another, the last one cut off."""
        number = 0
        while not self.stop.is_set():
            with socket.socket(socket.AF_UNIX) as one:
                one.settimeout(5)
                try:
                    one.connect(f"{self.run}/policy")
                    for _ in range(20):
                        number += 1
                        one.sendall(REQUEST % (number % 250, number))
                        if not one.recv(4096).startswith(b"action="):
                            self.books.wrong.append("policy: no action")
                        self.books.add("requests")
                    one.sendall(b"request=smtpd_access")
                except OSError:
                    self.books.add("policy refused")
            self.stop.wait(0.05)

    def scrapes(self) -> None:
        """Prometheus."""
        while not self.stop.wait(5):
            try:
                url = f"http://127.0.0.1:{self.metrics}/metrics"
                with urllib.request.urlopen(url, timeout=10) as answer:
                    self.books.add("scrapes", answer.status == 200)
            except (urllib.error.URLError, OSError):
                self.books.add("scrapes missed")
