"""Stores for tests: a fresh SQLite file each, and the builder of records that go into them."""

import json
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

import postgresql_server
import rings
from gatepost_policy import config, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.config.settings import Store as StoreSettings
from gatepost_policy.journal import record
from gatepost_policy.mail import address
from gatepost_policy.mail.decision import Action, Decision, Reason
from gatepost_policy.mail.dkim_reason import Why
from gatepost_policy.mail.facts import (
    Client,
    Direction,
    Facts,
    Family,
    Recipient,
    Signature,
    Source,
)
from gatepost_policy.store import migrate, partitions

AT = 1_790_000_000.0


def signature(domain: str = "sender.example", **values: Any) -> Signature:
    """A signature that passed and covers everything."""
    wanted: dict[str, Any] = {
        "domain": domain,
        "selector": "s1",
        "algorithm": "rsa-sha256",
        "canonicalization": "relaxed/relaxed",
        "key_bits": 2048,
        "crypto": "pass",
        "result": "pass",
    }
    # Tests say the word of the reason; a compiled Signature takes nothing but the member.
    if (reason := values.get("reason")) is not None:
        values["reason"] = Why(reason)
    return Signature(**{**wanted, **values})


def message(
    number: int = 0,
    *,
    at: float | None = None,
    kind: str = "message",
    client: str | None = "192.0.2.7",
    port: int | None = None,
    sender: str = "news@sender.example",
    author: str | None = "news@sender.example",
    to: tuple[str, ...] = ("user@home.example",),
    refused: tuple[str, ...] = (),
    traps: tuple[str, ...] = (),
    signatures: tuple[Signature, ...] = (),
    action: Action = Action.ACCEPT,
    reason: Reason = Reason.NO_BAD_SIGNAL,
    source: Source = Source.MILTER,
    direction: Direction = Direction.INBOUND,
    key: str | None = None,
    instance: str | None = None,
    message_id: str | None = None,
) -> record.Json:
    """A journal record of one message, as it comes back from the journal."""
    ip = None if client is None else ip_address(client)
    family = Family.UNKNOWN if ip is None else Family.IPV4 if ip.version == 4 else Family.IPV6
    facts = Facts(
        at=AT + number if at is None else at,
        source=source,
        direction=direction,
        client=Client(family, ip, port, "mail.sender.example", "mail.sender.example"),
        queue_id=f"Q{number}",
        sender=address.parse(sender),
        header_from=None if author is None else address.parse(author),
        recipients=tuple(
            Recipient(address.parse(a), a not in refused) for a in dict.fromkeys((*to, *traps))
        ),
        size=2_000 + number,
        message_id=message_id or f"<{number}@sender.example>",
        signatures=tuple(
            # Addressed to who got it here, unless the test says otherwise.
            replace(s, addressed=s.addressed or ("trap" if traps and not to else "recipient"))
            for s in signatures
        ),
        marks=frozenset(),
    )
    seen = record.Seen(kind, facts, Decision(action, reason), traps, key, instance)
    got: record.Json = json.loads(json.dumps(record.message(seen)))
    return got


def settings_in(directory: Path, url: str = "", **tables: Any) -> Settings:
    """Settings whose whole state is in `directory`."""
    chosen = {"url": url or str(directory / "gatepost.sqlite"), **tables.pop("store", {})}
    chosen.setdefault("journal", str(directory / "journal"))
    return Settings(store=StoreSettings(**chosen), **tables)


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store that was migrated once: a copy of it is ready at once."""
    path = tmp_path_factory.mktemp("migrated") / "gatepost.sqlite"
    engine = store.open_url(f"sqlite:///{path}")
    with engine.connect() as connection:
        connection.connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    engine.dispose()
    return path


def sqlite_in(directory: Path, migrated: Path) -> Settings:
    """Settings on a fresh SQLite file in `directory`."""
    shutil.copy(migrated, directory / "gatepost.sqlite")
    return settings_in(directory)


@pytest.fixture
def settings(tmp_path: Path, migrated: Path) -> Settings:
    """Settings on a SQLite file of this test's own, migrated."""
    return sqlite_in(tmp_path, migrated)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A fresh, migrated SQLite store."""
    opened = store.open_engine(settings)
    yield opened
    opened.dispose()


def new_server() -> postgresql_server.Server:
    """A running PostgreSQL server; the caller removes it. Leaves the test where none can be had."""
    server: postgresql_server.Server | None = None
    try:
        server = postgresql_server.Server()
        server.start()
    except postgresql_server.Unavailable as error:
        if server is not None:
            server.remove()
        rings.missing("postgresql", str(error))
    return server


@pytest.fixture(scope="session")
def postgresql() -> Iterator[postgresql_server.Server]:
    """A PostgreSQL server for all tests of this process, with a migrated database `ready`."""
    server = new_server()
    try:
        url = server.create("ready")
        engine = store.open_url(url.replace("postgresql:", "postgresql+psycopg:"), ensure=False)
        migrate.upgrade(engine)
        engine.dispose()
        yield server
    finally:
        server.remove()


BOTH = ["sqlite", pytest.param("postgresql", marks=pytest.mark.postgresql)]


@pytest.fixture(params=BOTH)
def any_settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Settings]:
    """Settings on a fresh store: once on SQLite, once on PostgreSQL."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if request.param == "sqlite":
        # Not the fixture `settings`: a module may have replaced that one by this.
        yield sqlite_in(tmp_path, request.getfixturevalue("migrated"))
        return
    server: postgresql_server.Server = request.getfixturevalue("postgresql")
    name = f"t{secrets.token_hex(6)}"
    yield settings_in(tmp_path, server.create(name, "ready"))
    server.drop(name)


@pytest.fixture
def any_engine(any_settings: Settings) -> Iterator[Engine]:
    """A fresh, migrated store: once on SQLite, once on PostgreSQL."""
    opened = store.open_engine(any_settings)
    partitions.prepare(opened, AT)
    yield opened
    opened.dispose()


def journal_of(settings: Settings) -> Path:
    """Where these settings keep their journal."""
    return config.journal_dir(settings)


def count(engine: Engine, table: str, where: str = "true") -> int:
    """How many rows of `table` there are."""
    with store.reading(engine) as connection:
        got = connection.exec_driver_sql(f"SELECT count(*) FROM {table} WHERE {where}").scalar_one()
    return int(got)
