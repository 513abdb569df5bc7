"""A store with the history of one slow sender, in reserved names, and a newsletter beside it."""

import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_store import BOTH, settings_in
from gatepost_policy import recorder, store, traps
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import trap_marks
from gatepost_policy.journal import record
from gatepost_policy.journal.record import Seen
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.facts import Client, Facts, Family, Recipient, Signature, Source
from gatepost_policy.report import history
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from postgresql_server import Server

TRAP = "trap@example.net"
REAL = "user@example.net"
LEARNED = 1_700_000_000.0


@dataclass(frozen=True)
class Mail:
    """One message, with what a test does not care about filled in."""

    at: str
    sender: str = "news@slow.example"
    to: tuple[str, ...] = (TRAP,)
    client: str = "192.0.2.25"
    name: str | None = "mo.hoster.example"
    helo: str | None = None
    author: str | None = None
    signatures: tuple[Signature, ...] = ()
    size: int | None = 2210478
    message_id: str | None = "id@slow.example"
    source: Source = Source.EXIM_LOG
    traps: tuple[str, ...] = ()
    reason: Reason = Reason.NO_BAD_SIGNAL

    def json(self) -> record.Json:
        """As the journal keeps it."""
        ip = ip_address(self.client)
        return record.message(
            Seen(
                "message",
                Facts(
                    at=seconds(self.at),
                    source=self.source,
                    client=Client(
                        Family.IPV4 if ip.version == 4 else Family.IPV6,
                        ip,
                        None,
                        self.name,
                        self.helo,
                    ),
                    queue_id="1Ab" + self.at[2:4] + self.at[5:7],
                    sender=address.parse(self.sender),
                    header_from=None if self.author is None else address.parse(self.author),
                    recipients=tuple(Recipient(address.parse(to)) for to in self.to),
                    size=self.size,
                    message_id=self.message_id,
                    signatures=self.signatures,
                ),
                Decision(Action.ACCEPT, self.reason),
                self.traps,
            )
        )


def seconds(text: str) -> float:
    """ISO 8601 in UTC as Unix seconds."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def signature(domain: str, result: str = "pass", **other: object) -> Signature:
    """A signature as a log tells it."""
    given: dict[str, object] = {
        "domain": domain,
        "selector": "domk",
        "algorithm": "rsa-sha1",
        "canonicalization": "relaxed/relaxed",
        "body_limit": 2236144,
        "crypto": "pass" if result == "pass" else "fail",
        "result": result,
        "reason": None if result == "pass" else Why.BAD_SIGNATURE,
    }
    return Signature(**{**given, **other})  # type: ignore[arg-type]


SLOW = (
    Mail("2010-11-07T14:21:44", signatures=(signature("slow.example", "fail"),)),
    Mail("2010-12-14T20:42:49", signatures=(signature("slow.example"),)),
    Mail("2011-01-30T21:13:30", client="192.0.2.26", signatures=(signature("slow.example"),)),
    Mail("2011-02-22T21:59:05", signatures=(signature("slow.example"),)),
    Mail("2011-04-28T12:40:26", client="2001:db8:20a:202:53f0::1", name="mo6.hoster.example",
         signatures=(signature("slow.example"),)),
)  # fmt: skip
NEWSLETTER = tuple(
    Mail(f"2011-{month:02}-01T08:00:00", "letter@paper.example", (REAL,), "198.51.100.7",
         signatures=(signature("paper.example"),))
    for month in range(1, 8)
)  # fmt: skip


def fill(engine: Engine, mails: Iterable[Mail], settings: Settings) -> None:
    """Write `mails` into the store as an import does; TRAP becomes a trap afterwards."""
    recorder.record_batch(engine, [mail.json() for mail in mails], settings)
    with store.writing(engine) as connection:
        traps.add(connection, TRAP, at=LEARNED)
    trap_marks.settle(engine, settings)


def told(engine: Engine, settings: Settings, **selectors: Any) -> Report:
    """The report on these selectors."""
    with store.reading(engine) as connection:
        return history.tell(connection, Selection(**selectors), settings, LEARNED + 1)


@dataclass(frozen=True)
class Past:
    """A store with a history, and what asks it."""

    engine: Engine
    settings: Settings

    def told(self, **selectors: Any) -> Report:
        """The report on these selectors."""
        return told(self.engine, self.settings, **selectors)


@pytest.fixture(scope="module", params=BOTH)
def past(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Past]:
    """The slow sender and the newsletter, to be read only: on SQLite and on PostgreSQL."""
    directory = tmp_path_factory.mktemp("past")
    if request.param == "sqlite":
        yield from _past(settings_in(directory))
        return
    server: Server = request.getfixturevalue("postgresql")
    name = f"t{secrets.token_hex(6)}"
    yield from _past(settings_in(directory, server.create(name, "ready")))
    server.drop(name)


def _past(settings: Settings) -> Iterator[Past]:
    engine = store.open_engine(settings)
    fill(engine, SLOW + NEWSLETTER, settings)
    yield Past(engine, settings)
    engine.dispose()
