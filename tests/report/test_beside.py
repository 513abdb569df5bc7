"""The week by hour, a trap's finders, two senders compared, the tree of networks."""

import json
from typing import Any

import pytest
from sqlalchemy import Engine

from fix_cli import Run
from fix_store import AT, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import parse
from gatepost_policy.render.compare import rows
from gatepost_policy.report import by_trap, compare, hours, networks
from gatepost_policy.report.selection import Selection

pytestmark = pytest.mark.slow

THURSDAY = 20 * 86_400 - 6 * 86_400 + 7 * 86_400 * 100  # midnight, as 1970-01-01 was
T1, T2, T3 = "one@home.example", "two@home.example", "three@else.example"


def hit(engine: Engine, settings: Settings, *records: dict[str, Any]) -> None:
    recorder.record_batch(engine, [message(n, **r) for n, r in enumerate(records)], settings)


def spam(at: float, who: str, *traps: str, client: str = "192.0.2.7") -> dict[str, Any]:
    return {
        "at": at, "sender": f"news@{who}", "author": None, "to": (), "traps": traps,
        "client": client, "signatures": (signature(who, selector="x"),),
    }  # fmt: skip


def test_the_week_by_hour(any_engine: Engine, any_settings: Settings) -> None:
    assert int(THURSDAY // 86_400) % 7 == 0  # a Thursday, as the first day of 1970
    hit(
        any_engine, any_settings,
        {"at": THURSDAY + 3 * 3600 + 3599.9}, {"at": THURSDAY + 3 * 3600},
        {"at": THURSDAY - 1.0}, {"at": THURSDAY + 2 * 86_400 + 23 * 3600},
        {"at": THURSDAY + 70 * 86_400 + 3 * 3600 + 5, "sender": "x@else.example", "author": None},
    )  # fmt: skip
    with store.reading(any_engine) as connection:
        found = hours.read(connection, Selection(sender="sender.example"))
        assert found is not None
        assert dict(found.counts) == {(3, 3): 2, (2, 23): 1, (5, 23): 1}
        assert found.sentence == (
            "most on Thursday at 03:00 UTC, 2 of 4; 1 at weekends; at 2 of 24 hours"
        )
        assert hours.read(connection, Selection(sender="nobody.example")) is None


def test_who_found_a_trap_first(any_engine: Engine, any_settings: Settings) -> None:
    hit(
        any_engine, any_settings,
        spam(AT + 50, "b.example", T1, T2), spam(AT + 5, "a.example", T1),
        spam(AT, "c.example", T3),
        *(spam(AT + 100 + n, "b.example", T1) for n in range(3)), spam(AT + 9, "c.example", T2),
        {"at": AT - 9, "sender": "good@d.example", "author": None, "to": (T1,)},  # no trap then
    )  # fmt: skip
    with store.reading(any_engine) as connection:
        found = by_trap.read(connection, parse(T1))
        whole = by_trap.read(connection, parse("@home.example"))
        assert by_trap.read(connection, parse("nobody@home.example")) is None
    assert found is not None and whole is not None
    assert [(f.who, f.first) for f in found.finders] == [
        ("a.example", AT + 5),
        ("b.example", AT + 50),
    ]
    assert found.traps == (T1, T2) and found.senders == 2 and not found.cut
    assert [found.finders[1].hits[t] for t in found.traps] == [4, 1]
    assert [f.who for f in whole.finders] == ["a.example", "c.example", "b.example"]
    assert set(whole.traps) == {T1, T2, T3}


def test_trap_mail_that_is_not_looked_at_is_said(
    engine: Engine, settings: Settings, monkeypatch: object
) -> None:
    hit(engine, settings, *(spam(AT + n, "a.example", T1) for n in range(5)))
    before = by_trap.ROWS_MAX
    try:
        by_trap.ROWS_MAX = 3
        with store.reading(engine) as connection:
            found = by_trap.read(connection, parse(T1))
    finally:
        by_trap.ROWS_MAX = before
    assert found is not None and found.cut and found.finders[0].first == AT + 2


def test_two_compared(any_engine: Engine, any_settings: Settings) -> None:
    def told(a: str, b: str) -> compare.Compared:
        with store.reading(any_engine) as connection:
            both = (Selection(sender=a), Selection(sender=b))
            return compare.read(connection, *both, any_settings, AT + 1e6)

    hit(
        any_engine, any_settings,
        spam(AT, "a.example", T1, client="192.0.2.1"), spam(AT + 5, "a.example", T2),
        spam(AT + 9, "b.example", T2, client="192.0.2.9"), spam(AT + 11, "b.example", T1),
        spam(AT + 20, "c.example", T3, client="198.51.100.4"),
    )  # fmt: skip
    found = told("a.example", "b.example")
    assert found.hosts == ("192.0.2.7",) and found.networks == ("192.0.2.0/24",)
    assert found.traps == (T1, T2) and found.same_order is False
    assert "the shared traps were first hit in different orders" in found.sentences
    assert found.keys == ()  # the same selector under two domains is no shared key
    alone = told("a.example", "c.example")
    assert (alone.hosts, alone.networks, alone.traps, alone.same_order) == ((), (), (), None)
    assert told("a.example", "a.example").same_order is True
    assert found.json()["shared"]["traps"] == [T1, T2]


def test_traps_beyond_the_first_twenty_are_compared(engine: Engine, settings: Settings) -> None:
    """`no shared trap is known` was said where the shared one was the twenty-first."""
    shared = "shared@home.example"
    for at, who in ((AT, "a.example"), (AT + 1_000, "b.example")):
        own = [f"{who[0]}{n}@home.example" for n in range(25)]
        client = "192.0.2.1" if who[0] == "a" else "198.51.100.1"
        hits = (spam(at + n, who, t, client=client) for n, t in enumerate([*own, shared]))
        hit(engine, settings, *hits)
    with store.reading(engine) as connection:
        a, b = (Selection(sender=f"{c}.example") for c in "ab")
        found = compare.read(connection, a, b, settings, AT + 1e6)
    assert found.traps == (shared,) and "1 shared trap" in " ".join(found.sentences)
    assert "and 6 more" in dict(rows(found))["order of traps"][0]


def test_networks_as_a_tree(engine: Engine, settings: Settings) -> None:
    clients = [
        "198.51.100.1",
        "198.51.100.9",
        "198.51.7.1",
        "192.0.2.1",
        "2001:db8:5::1",
        "2001:db8:5:1::1",
    ]
    hit(engine, settings, *(spam(AT + n, "s.example", T1, client=c) for n, c in enumerate(clients)))
    with store.reading(engine) as connection:
        root, cut = networks.read(connection)
    assert root.clients == 6 and not cut
    assert [(n.prefix, n.clients) for n in root.shown(9)] == [
        ("198.51.0.0/16", 3), ("2001:db8::/32", 2),
    ]  # fmt: skip
    wide = root.inner["198.51.0.0/16"]
    assert [(n.prefix, n.clients, n.trap_messages) for n in wide.shown(9)] == [
        ("198.51.100.0/24", 2, 2), ("198.51.7.0/24", 1, 1),
    ]  # fmt: skip
    assert (wide.first, wide.last) == (AT, AT + 2)
    assert root.inner["2001:db8::/32"].json()["inner"][0]["prefix"] == "2001:db8:5::/48"
    assert [n.prefix for n in root.all()] == [
        "198.51.0.0/16", "198.51.100.0/24", "198.51.100.1/32", "198.51.100.9/32", "198.51.7.0/24",
        "198.51.7.1/32", "2001:db8::/32", "2001:db8:5::/48", "2001:db8:5:1::/64",
        "2001:db8:5::/64",
    ]  # fmt: skip
    assert networks.tree([("no prefix", 1, 1, AT, AT)]).clients == 0


def test_the_command_compares(run: Run, engine: Engine, settings: Settings) -> None:
    hit(engine, settings, spam(AT, "a.example", T1), spam(AT + 5, "b.example", T1))
    code, text = run("report", "--sender", "a.example", "--compare", "b.example")
    assert code == 0 and "1 shared client: 192.0.2.7" in text and f"1 shared trap: {T1}" in text
    code, text = run(
        "report", "--sender", "a.example", "--compare", "b.example", "--format", "json"
    )
    assert code == 0 and json.loads(text)["shared"]["traps"] == [T1]
    both = ["--sender", "a.example", "--compare", "b.example"]
    for words in (
        both[2:], ["x.example", *both[2:]], [*both, "--dkim", "fail"], [*both, "--format", "csv"],
    ):  # fmt: skip
        assert run("report", *words)[0] == 2, words
