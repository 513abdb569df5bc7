"""A sender's report reads what it tells and no more: no statement walks through a whole table."""

import re
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from sqlalchemy import Engine, event

from fix_report import NEWSLETTER, REAL, SLOW, TRAP, fill, told
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import parse

LARGE = ("message", "recipient", "signature", "message_domain", "domain_day", "domain_host")


def selects_of(engine: Engine, settings: Settings, **selectors: Any) -> list[tuple[str, Any]]:
    """What this report asks: (statement, parameters)."""
    statements: list[tuple[str, Any]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    told(engine, settings, **selectors)
    event.remove(engine, "before_cursor_execute", note)
    selects = [s for s in statements if s[0].lstrip().upper().startswith("SELECT")]
    assert len(selects) >= 3
    return selects


def scanned(engine: Engine, settings: Settings, **selectors: Any) -> list[str]:
    """The large tables that this report reads from one end to the other."""
    selects = selects_of(engine, settings, **selectors)
    found = []
    with engine.connect() as connection:
        for statement, parameters in selects:
            for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters):
                if re.search(r"INDEX ix_message_(bounced|trapped)", row[3]):
                    continue  # it holds what is asked for and no other row
                match = re.match(r"SCAN (\w+)", row[3])
                if match and match.group(1) in LARGE:
                    found.append(f"{row[3]} in {statement}")
    return found


@pytest.mark.parametrize(
    "selectors",
    [
        {"sender": "slow.example"},
        {"sender": "news@slow.example"},
        {"sender": "slow.example", "since": 0.0},
        {"sender": "slow.example", "family": "ipv6"},
        {"host": ip_network("192.0.2.25")},
        {"host": ip_network("192.0.2.0/24")},
        {"host": ip_network("2001:db8::/48")},
        {"trap": parse(TRAP)},
        {"trap": parse("@" + TRAP.partition("@")[2])},
        {"sender": "<>"},
    ],
    ids=str,
)
def test_no_table_is_walked_through(
    engine: Engine, settings: Settings, selectors: dict[str, Any]
) -> None:
    fill(engine, SLOW + NEWSLETTER, settings)
    assert scanned(engine, settings, **selectors) == []


def test_this_test_would_notice(engine: Engine, settings: Settings) -> None:
    """A host name has no index, and says so here."""
    fill(engine, SLOW, settings)
    assert any("SCAN message" in line for line in scanned(engine, settings, name="mx.example"))


def test_overview_counts_no_client_that_its_senders_explain(
    engine: Engine, settings: Settings
) -> None:
    def asked() -> list[str]:
        found = [s[0] for s in selects_of(engine, settings)]
        return [s for s in found if "message.prefix = ?" in s or "message.prefix IN" in s]

    fill(engine, SLOW, settings)
    assert asked() == []
    # The same client under other names: now it says something of its own.
    more = [replace(m, sender="x@new.example", to=(REAL,), signatures=()) for m in SLOW]
    fill(engine, more, settings)
    assert asked() != []
