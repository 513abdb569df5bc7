"""Low and slow: many hosts, few messages each, one pattern; and what is none."""

import random
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from fix_store import AT, message
from gatepost_policy import ingest, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.report import patterns
from gatepost_policy.report.patterns import Hit
from gatepost_policy.report.selection import Selection

DAY = 86_400


def hit(number: int, host: int, trap: str, domain: str = "", helo: str | None = None) -> Hit:
    who = domain or f"d{number}.example"
    return Hit(AT + number * DAY, number, f"192.0.{host}.7/32", helo, who, trap)


def slow(count: int, network: str) -> list[Hit]:
    """Hits from as many clients of one network; `{n}` numbers them."""
    return [
        replace(hit(n, n, "t@home.example"), prefix=network.format(n=n))
        for n in range(1, count + 1)
    ]


def named(count: int, name: str) -> list[Hit]:
    return [
        replace(hit(n, n, "t@home.example"), prefix=f"198.51.{n}.7/32", name=name.format(n=n))
        for n in range(1, count + 1)
    ]


def same(count: int, hosts: int, **values: str) -> list[Hit]:
    return [hit(n, n % hosts, "t@home.example", **values) for n in range(count)]


def walk(count: int, hosts: int) -> list[Hit]:
    return [hit(n, n % hosts, f"{chr(97 + n)}@home.example") for n in range(count)]


CASES: list[tuple[str, list[Hit], list[tuple[str, str, int, int]]]] = [
    ("nothing", [], []),
    ("one domain from many hosts", same(8, 8, domain="snow.example"),
     [("domain", "snow.example", 8, 8)]),
    ("one domain from few hosts", same(8, 4, domain="snow.example"), []),
    ("many messages from each host", same(30, 5, domain="loud.example"), []),
    ("freemail", same(8, 8, domain="gmail.com"), []),
    ("one HELO", same(6, 6, helo="ylmf-pc"), [("helo", "ylmf-pc", 6, 6)]),
    ("an alphabetical walk", walk(7, 4),
     [("trap-sequence", "a@home.example .. g@home.example", 4, 7)]),
    ("a walk of one host", walk(7, 1), []),
    ("a short walk", walk(5, 5), []),
    ("two walks", walk(7, 3) + [hit(10 + n, n, f"{chr(97 + n)}@home.example") for n in range(8)],
     [("trap-sequence", "a@home.example .. h@home.example", 8, 8),
      ("trap-sequence", "a@home.example .. g@home.example", 3, 7)]),
    ("a run that chance makes among so many",
     walk(6, 3) + [hit(10 + n, n, f"{chr(97 + -n % 7)}@home.example") for n in range(40)], []),
    ("an IPv4 /24", slow(6, "203.0.113.{n}/32"), [("network", "203.0.113.0/24", 6, 6)]),
    ("four of a /24", slow(4, "203.0.113.{n}/32"), []),
    ("an IPv6 /56, and its /48 says nothing more", slow(6, "2001:db8:1:a{n}::/64"),
     [("network", "2001:db8:1::/56", 6, 6)]),
    ("an IPv6 /48", slow(6, "2001:db8:1:{n}00::/64"), [("network", "2001:db8:1::/48", 6, 6)]),
    ("hosts of one owner", named(6, "n{n}.snow.example"),
     [("host-name", "snow.example", 6, 6)]),
    ("customers of a hoster", named(6, "n{n}.github.io"), []),
    ("a mail service's hosts", named(6, "n{n}.google.com"), []),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[c[0] for c in CASES])
def test_find(case: tuple[str, list[Hit], list[tuple[str, str, int, int]]]) -> None:
    name, hits, want = case
    got = [(p.kind, p.value, p.hosts, p.messages) for p in patterns.find(hits, Settings())]
    assert got == want, name


def test_a_walk_does_not_span_months() -> None:
    late = [hit(n * 30, n, f"{chr(97 + n)}@home.example") for n in range(8)]
    assert patterns.find(late, Settings()) == ()


@pytest.mark.parametrize("traps", [10, 20, 10**6])
def test_disorder_is_no_walk(traps: int) -> None:
    """Random hits of many hosts on few traps or on many, over and over."""
    rng = random.Random(7)
    for _ in range(30):
        hits = [hit(n, n, f"{rng.randrange(traps):07}@home.example") for n in range(300)]
        assert [p for p in patterns.find(hits, Settings()) if p.kind == "trap-sequence"] == []


def test_a_long_walk_is_seen_in_any_noise() -> None:
    """The counter-proof: what chance does not explain is told however much else there is."""
    rng = random.Random(7)
    noise = [hit(n, n, f"{rng.randrange(10**6)}@home.example") for n in range(3000)]
    walked = [hit(3000 + n, n, f"w{n:02}@home.example") for n in range(12)]
    (found,) = (p for p in patterns.find(noise + walked, Settings()) if p.kind == "trap-sequence")
    assert found.value.endswith("w11@home.example") and found.hosts >= 12


def test_from_the_store(engine: Engine, settings: Settings) -> None:
    """Trap mail only, of the selected time only; the sentence says it in words."""
    batch = [
        message(n, at=AT + n * DAY, client=f"198.51.100.{n}", sender=f"u{n}@snow.example",
                author=None, to=(), traps=(f"t{9 - n}@home.example",))
        for n in range(6)
    ]  # fmt: skip
    batch += [message(n, client=f"203.0.113.{n}", sender="u@real.example") for n in range(10, 20)]
    with store.writing(engine) as connection:
        ingest.ingest(connection, batch, settings, AT)
        found = patterns.low_and_slow(connection, Selection(), settings)
        late = patterns.low_and_slow(connection, Selection(since=AT + 3 * DAY), settings)
    by_kind = {p.kind: p for p in found}
    assert by_kind["domain"].value == "snow.example"
    assert by_kind["domain"].sentence.startswith("6 hosts write as snow.example, 6 messages")
    assert by_kind["helo"].hosts == 6
    assert late == ()
