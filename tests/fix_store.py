"""Stores for tests: a fresh SQLite file each, and the builder of records that go into them."""

import json
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from gatepost_policy import address, record, store
from gatepost_policy.decision import Action, Decision, Reason
from gatepost_policy.facts import Client, Direction, Facts, Family, Recipient, Signature, Source
from gatepost_policy.settings import Settings
from gatepost_policy.settings import Store as StoreSettings
from sqlalchemy import Engine

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
        signatures=signatures,
    )
    seen = record.Seen(kind, facts, Decision(action, reason), traps, key, instance)
    got: record.Json = json.loads(json.dumps(record.message(seen)))
    return got


def settings_in(directory: Path, url: str = "", **tables: Any) -> Settings:
    """Settings whose whole state is in `directory`."""
    chosen = {"url": url or str(directory / "gatepost.sqlite"), **tables.pop("store", {})}
    chosen.setdefault("journal", str(directory / "journal"))
    return Settings(store=StoreSettings(**chosen), **tables)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings on a SQLite file of this test's own."""
    return settings_in(tmp_path)


@pytest.fixture
def engine(settings: Settings) -> Iterator[Engine]:
    """A fresh, migrated SQLite store."""
    opened = store.open_engine(settings)
    yield opened
    opened.dispose()
