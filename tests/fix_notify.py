"""A notifier on a store of its own, with a clock that a test moves."""

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from sqlalchemy import Engine, insert

from fix_store import message, signature
from from_table import from_table
from gatepost_policy import notify, recorder, store
from gatepost_policy.config.settings import Notify, Settings
from gatepost_policy.journal.record import Json
from gatepost_policy.mail.decision import Reason
from gatepost_policy.store.tables import JournalGap, SubmissionCount

NOW = float(int(time.time()))  # the store dates what it learns by the real clock
DAY = 86_400.0
TRAP = "trap@home.example"
EVERY = ["trap-hit", "sender-back", "own-user", "loss", "probe-failed", "digest"]


@dataclass
class Told:
    """What a web server was sent: (path, field names and values, body)."""

    port: int
    requests: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    status: int = 204
    location: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/hook/secret"


@pytest.fixture
def listener() -> Iterator[Told]:
    """A real web server on loopback."""
    told = Told(0)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            told.requests.append((self.path, dict(self.headers.items()), body))
            self.send_response(told.status)
            if told.location:
                self.send_header("Location", told.location)
            self.end_headers()

        do_GET = do_POST

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    told.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield told
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Teller:
    """One notifier after another on the same store; `now` is what its clock shows."""

    engine: Engine
    settings: Settings
    now: float = NOW
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begin()

    def begin(self, host: str = "mx1.example") -> None:
        """A process begins."""
        self.round = notify.Round(
            self.engine,
            self.settings,
            host,
            lambda level, text: self.log.append(f"{level}: {text}"),
            lambda: self.now,
        )

    def once(self, later: float = 0.0) -> None:
        """A round, so much later."""
        self.now += later
        self.round.once()

    def hit(
        self, sender: str, ago: float = 5.0, *, signed: bool = True, client: str = "192.0.2.1",
        kind: str = "message", number: int = 0, to: str = TRAP,
    ) -> None:  # fmt: skip
        """A message to a trap."""
        at = self.now - ago
        signatures = (signature(sender.rpartition("@")[2]),) if signed else ()
        one: Json = message(
            number or int(at), at=at, client=client, sender=sender, author=sender or None,
            traps=(to,), to=(), signatures=signatures, reason=Reason.ONE_WITNESS, kind=kind,
        )  # fmt: skip
        recorder.record_batch(self.engine, [one], self.settings)


def with_notify(settings: Settings, **keys: object) -> Settings:
    """`settings` with a table [notify], checked as one from a file."""
    table = from_table(Notify, {"gather": 60, "again": 3600, "digest": "", **keys})
    return replace(settings, notify=table)


def begun(engine: Engine, settings: Settings, listener: Told, **keys: object) -> Teller:
    """A notifier that posts everything to `listener`, and has begun."""
    keys = {"webhook": listener.url, "webhook_events": EVERY, **keys}
    made = Teller(engine, with_notify(settings, **keys))
    made.once()
    return made


def told(listener: Told) -> list[Json]:
    """Every event that the listener was sent."""
    return [event for *_, body in listener.requests for event in json.loads(body)["events"]]


def submission(engine: Engine, day: int, messages: int) -> None:
    """Submissions to traps on a day (since 1970)."""
    with store.writing(engine) as connection:
        connection.execute(
            insert(SubmissionCount).values(
                day=day, direction="submission", family="ipv4", action="accept",
                reason="own-user-trap", messages=messages,
            )
        )  # fmt: skip


def lose(engine: Engine, since: float, lost: int) -> None:
    """Records that were lost."""
    with store.writing(engine) as connection:
        connection.execute(insert(JournalGap).values(since=since, until=since + 9, lost=lost))
