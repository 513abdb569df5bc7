"""Rows of `listing` that somebody made in SQL: what cannot be is named, the rest published."""

import time

import pytest
from sqlalchemy import Engine, insert, update

from export_entries import NOW, entry
from gatepost_policy import config, exporters, listings, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.listings import promotion
from gatepost_policy.lookup import snapshot
from gatepost_policy.recorder import Recorder
from gatepost_policy.store import revision
from gatepost_policy.store.tables import Listing, ListingChange

GOOD = "198.51.100.7/32"
ODD = [
    ("prefix", "rubbish"),
    ("prefix", ""),
    ("prefix", "192.0.2.7"),
    ("prefix", "192.0.2.0/99"),
    ("prefix", "192.0.2.0/-1"),
    ("prefix", "192.0.2.0/٣"),
    ("prefix", "192.0.2.07/32"),
    ("prefix", "10.0.0.1/8"),
    ("prefix", "2001:DB8::/64"),
    ("promoted", "2001:db8::/400"),
    ("prefix", "1/" + "9" * 5_000),
    ("dkim", ""),
    ("dkim", "Sender.example"),
    ("author", "news@Sender.example"),
    ("mail", "sender.example"),
]


def by_sql(engine: Engine, kind: str, value: str, now: float) -> None:
    row = {"kind": kind, "value": value, "since": now, "until": now + 600, "seconds": 600,
           "reason": "by-hand", "hits": 0, "by_hand": True}  # fmt: skip
    with store.writing(engine) as connection:
        connection.execute(insert(Listing).values(**row))
        connection.execute(insert(ListingChange).values(kind=kind, value=value))
        revision.bump(connection, "listings")


@pytest.mark.parametrize("first", [True, False])
def test_all_others_are_published(engine: Engine, settings: Settings, first: bool) -> None:
    """Read whole (at the first time) or as changes; each is said once, and the recorder goes on."""
    now, said = time.time(), list[str]()
    working = Recorder(settings, lambda level, text: said.append(f"{level} {text}"))
    assert working.lock()
    if not first:
        working.step()
    for kind, value in ODD:
        by_sql(engine, kind, value, now)
    with store.writing(engine) as connection:
        listings.punish(connection, listings.identify(GOOD), seconds=600, at=now)
    for _ in range(2):
        working.step()
        with store.writing(engine) as connection:
            revision.bump(connection, "listings")
    working.close()
    found = snapshot.load(config.state_dir(settings))
    assert found.until("prefix", GOOD)
    assert not [one for one in ODD if found.until(*one) is not None]
    assert all(0 <= bits <= 32 for bits in found.v4_bits)
    for kind, value in ODD:
        start = f"error recorder: listing {kind} '{value[:90]}"
        assert sum(line.startswith(start) for line in said) >= 1, (value, said)
    assert len(said) == len(ODD) and all("without effect" in line for line in said)


def test_what_gatepost_writes_is_right() -> None:
    for name in ("192.0.2.7", "2001:db8::1", "192.0.2.0/24", "::/19", "sender.example",
                 "Name+tag@SENDER.example", "bücher.example"):  # fmt: skip
        identity = listings.identify(name)
        assert listings.without_effect(identity.kind, identity.value) is None
    assert listings.without_effect("promoted-dkim", "sender.example") is None
    assert listings.without_effect("author", "News@sender.example") is None


def test_commands_and_exports_pass_over_them(engine: Engine) -> None:
    """An operator can still forgive, export and look up; so can a trap hit from the same /48."""
    now = time.time()
    for kind, value in ODD:
        by_sql(engine, kind, value, now)
    with store.writing(engine) as connection:
        nets = [v for k, v in ODD if k == "prefix"]
        connection.execute(update(Listing).values(network="2001:db8::/48"))
        assert promotion.children(connection, "2001:db8::/48", now) == []
        mine = listings.identify("10.0.0.1")
        assert listings.covering(connection, mine, now) == []
        assert listings.forgive(connection, listings.identify("10.0.0.0/8"), at=now) == 1
        assert listings.forgive(connection, listings.identify("2001:db8::1"), at=now) == 1
    got = exporters.sort_out([entry(value) for value in nets], Settings())
    assert not got.prefixes
    assert {one.why for one in got.left_out} == {"no network as gatepost writes it"}
    assert exporters.sort_out([entry("192.0.2.7/32", until=NOW + 9)], Settings()).prefixes
