"""Who came over IPv4 and IPv6: over all time and in a period, proven and claimed."""

from itertools import product

import pytest
from sqlalchemy import Engine, select

from fix_report import REAL, Mail, Past, fill, seconds, signature, told
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.facts import Family, Signature
from gatepost_policy.report.conditions import proven
from gatepost_policy.store.tables import MessageSignature

V6 = "2001:db8::7"


@pytest.mark.parametrize(
    ("selectors", "want"),
    [
        ({}, [(4, 1, 5)]),
        ({"since": seconds("2011-01-01T00:00:00")}, [(2, 1, 3)]),
        ({"since": seconds("2011-04-01T00:00:00")}, []),  # IPv6 alone
        ({"until": seconds("2011-04-28T12:40:26")}, []),  # IPv4 alone
        ({"until": seconds("2011-04-28T12:40:27")}, [(4, 1, 5)]),
        ({"since": seconds("2012-01-01T00:00:00")}, []),
        ({"family": Family.IPV6}, []),
    ],
    ids=str,
)
def test_a_claimed_domain_that_hit_a_trap(
    past: Past, selectors: dict[str, object], want: list[tuple[int, int, int]]
) -> None:
    got = past.told(**selectors).dual_stack
    assert [(d.ipv4, d.ipv6, d.trap_messages) for d in got] == want
    assert all(d.domain == "slow.example" and not d.proven for d in got)


def test_a_period_counts_as_all_time_does(any_engine: Engine, any_settings: Settings) -> None:
    """A d= counts where it is proven, and for itself: not for claims, nor for what is below it."""
    good = signature("both.example", key_bits=2048, body_limit=None)
    twice = signature("both.example", algorithm="ed25519-sha256", body_limit=None)
    weak = signature("both.example", key_bits=512, body_limit=None)
    below = signature("m.both.example", key_bits=2048, body_limit=None)
    mails = [
        Mail("2026-01-01T01:00:00", "a@both.example", (REAL,), signatures=(good, twice)),
        Mail("2026-01-02T01:00:00", "a@else.example", (REAL,), V6, signatures=(good,)),
        Mail("2026-01-03T01:00:00", "a@both.example", (REAL,), V6, signatures=(weak,)),
        Mail("2026-01-03T02:00:00", "a@both.example", (REAL,), V6),
        Mail("2026-01-03T03:00:00", "a@m.both.example", (REAL,), V6, signatures=(below,)),
        Mail("2026-01-09T01:00:00", "a@claimed.example", (REAL,)),
        Mail("2026-01-09T02:00:00", "a@claimed.example", (REAL,), V6),
    ]
    fill(any_engine, mails, any_settings)
    for selectors in ({}, {"since": seconds("2026-01-01T00:00:00")}):
        got = told(any_engine, any_settings, **selectors).dual_stack
        assert [d.json() for d in got] == [
            {"domain": "both.example", "proven": True, "ipv4": 1, "ipv6": 1, "trap_messages": 0}
        ], selectors


def test_proven_is_the_same_in_sql(any_engine: Engine, any_settings: Settings) -> None:
    shapes = [
        Signature(
            domain="d.example", crypto=crypto, algorithm=algorithm, key_bits=bits,
            body_limit=limit, unsigned_bytes=unsigned, flags=flags, result="pass",
        )
        for crypto, algorithm, bits, limit, unsigned, flags in product(
            ("pass", "fail", None), ("rsa-sha1", "ed25519-sha256", None), (1024, 1023, None),
            (5, None), (0, 1, None), ((), ("expired",), ("weak-key", "testing-key"), ("weak-key",)),
        )
    ]  # fmt: skip
    fill(any_engine, [Mail("2026-01-01T00:00:00", signatures=tuple(shapes))], any_settings)
    with store.reading(any_engine) as connection:
        rows = connection.execute(select(MessageSignature.position, proven())).all()
    assert len(rows) == len(shapes)
    first = min(row[0] for row in rows)
    want = [shape.proven for shape in shapes]
    assert [bool(sure) for _, sure in sorted((row[0] - first, row[1]) for row in rows)] == want
    assert True in want and False in want
