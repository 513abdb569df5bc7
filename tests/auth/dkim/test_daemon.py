"""Hostile signatures and big bodies through the running milter: CPU and memory from /proc.

The bounds are the product's promises (50 ms of CPU, 150 MB), far above what is measured on an idle
machine (docs/dkim.md), so a loaded one does not break them: CPU and PSS are not wall-clock time.
"""

import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import dnskit
from daemons import Daemon
from dkimkit import BODY, HEADER, NAME, RSA, Header, Rsa, join, public, rsa, signature, split
from gatepost_milter.mta import client, queue_file
from gatepost_milter.mta.envelope import Envelope

pytestmark = [pytest.mark.milter, pytest.mark.slow]
TICK_MS = 1000 / os.sysconf("SC_CLK_TCK")
CONFIG = """
[milter]
socket = "unix:{dir}/m.sock"
workers = WORKERS
max_header_fields = 20000
max_header_bytes = 4000000
[dkim]
authserv_id = "mx.example.net"
nameservers = ["DNS"]
lookup_timeout_ms = 20000
message_timeout_ms = 60000
[store]
url = "sqlite:///{dir}/gatepost.sqlite"
"""
MANY = [(b"X-%d" % i, b" x") for i in range(10_000)]
MB = b"x" * 70 + b"\r\n"


def bomb(bits: int, e_bits: int, size: int = 256) -> Rsa:
    """A key with which everything is right but its size."""
    e = 65537 if e_bits < 32 else (1 << e_bits) + 297
    return rsa(bits, e, size)


def field(key: Rsa = RSA, selector: str = "s1", header: Header = HEADER, **how: Any) -> Header:
    """One sound DKIM-Signature."""
    body = how.pop("body", BODY)
    tags = {"s": selector, **how.pop("tags", {})}
    return [signature(header, body, key, tags=tags, **how)]


def signed(key: Rsa = RSA, selector: str = "s1", header: Header = HEADER, **how: Any) -> bytes:
    body = how.get("body", BODY)
    return join(field(key, selector, header, **how) + header, body)


def blanks_in_b(selector: str) -> bytes:
    [(name, value)] = field(selector=selector)
    front, _, b = value.partition(b"; b=")
    return join([(name, front + b"; b=" + b[:9] + b" " * 30_000 + b[9:]), *HEADER], BODY)


def thousand() -> bytes:
    body = MB * 19_000
    return join(field(body=body) * 1000 + HEADER, body)


@dataclass(frozen=True)
class Bomb:
    """A message, its key's record, and what our field has to say of it."""

    name: str
    make: Callable[[str], bytes]
    want: str
    record: Callable[[], str] = lambda: RSA.record
    many: bool = False  # it comes with 10 000 header fields


BOMBS = (
    Bomb("modulus of 16384 bits", lambda s: signed(bomb(16_384, 17), s),
         "reason=key-too-large", lambda: bomb(16_384, 17).record),
    Bomb("modulus and exponent of 16384 bits", lambda s: signed(selector=s),
         "reason=key-too-large", lambda: f"p={public(bomb(16_384, 17).n, (1 << 16_000) + 1)}"),
    Bomb("exponent of 2000 bits", lambda s: signed(bomb(2048, 2000), s),
         "reason=key-too-large", lambda: bomb(2048, 2000).record),
    Bomb("record of 32768 bits", lambda s: signed(selector=s), "reason=key-record-too-long",
         lambda: f"p={public((1 << 32_767) + 1, (1 << 32_767) + 1)}"),
    Bomb("record of 60 KB", lambda s: signed(selector=s), "reason=key-record-too-long",
         lambda: RSA.record + "; n=" + "x" * 60_000),
    Bomb("8192 bits, which is allowed", lambda s: signed(bomb(8192, 17), s), "dkim=pass",
         lambda: bomb(8192, 17).record),
    Bomb("30 kB of blanks in b=", blanks_in_b, "reason=signature-too-long"),
    Bomb("h= of 10 000 names", lambda s: signed(
        selector=s, header=MANY + HEADER, h="from:" + ":".join(["x-1"] * 10_000)),
        "reason=signature-too-long", many=True),
    Bomb("h= of 290 names, 10 000 fields", lambda s: signed(
        selector=s, header=MANY + HEADER, h="from:" + ":".join(f"x-{i}" for i in range(290))),
        "dkim=pass", many=True),
    Bomb("h= of 1000 names", lambda s: signed(selector=s, h="from:" + ":".join(["a"] * 1000)),
         "reason=too-many-signed-fields"),
    Bomb("tag of 50 kB", lambda s: signed(selector=s, tags={"z": "x" * 50_000}),
         "reason=signature-too-long"),
    Bomb("digits", lambda s: signed(selector=s, tags={"t": "1" * 10_000}),
         "reason=bad-timestamp"),
    Bomb("semicolons", lambda s: join([(b"DKIM-Signature", b" ;" * 8000), *HEADER], BODY),
         "reason=syntax"),
)  # fmt: skip


@pytest.fixture(scope="module")
def dns() -> Iterator[dnskit.Server]:
    answers = {f"b{i}._domainkey.example.org": one.record() for i, one in enumerate(BOMBS)}
    with dnskit.serving({NAME: RSA.record, **answers}) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(milter_engine: str, dns: dnskit.Server) -> Iterator[Daemon]:
    with Daemon(CONFIG.replace("WORKERS", "1").replace("DNS", dns.address)) as running:
        yield running


def processes(daemon: Daemon) -> list[int]:
    """The daemon and its children."""
    parent = daemon.child.pid
    text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
    return [parent, *map(int, text.split())]


def cpu_ms(daemon: Daemon) -> float:
    """User and system time of the daemon and its children, in milliseconds, in ticks of 10."""
    total = 0
    for pid in processes(daemon):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * TICK_MS


def ours(result: client.Result) -> list[str]:
    """The results of signatures in the field that we inserted."""
    values = [e.value or "" for e in result.edits
              if e.op == "insert" and e.name == "Authentication-Results"]  # fmt: skip
    results = [text.strip() for value in values for text in value.split(";")[1:]]
    return [result for result in results if not result.startswith(("spf=", "dmarc="))]


def deliver(daemon: Daemon, message: bytes) -> list[str]:
    result = client.send(f"unix:{daemon.home}/m.sock", message)
    assert result.action == "accept", result
    return ours(result)


@pytest.mark.parametrize("number", range(len(BOMBS)), ids=[one.name for one in BOMBS])
def test_a_bomb_costs_less_than_50_ms(daemon: Daemon, number: int) -> None:
    one = BOMBS[number]
    message = one.make(f"b{number}")
    assert "dkim=pass" in deliver(daemon, signed())[0]
    unsigned = join([f for f in split(message)[0] if f[0] != b"DKIM-Signature"], BODY)
    spent, floor = [], []
    for _ in range(5):
        before = cpu_ms(daemon)
        (got,) = deliver(daemon, message)
        between = cpu_ms(daemon)
        spent.append(between - before)
        if one.many:
            deliver(daemon, unsigned)
        floor.append(cpu_ms(daemon) - between)
        assert one.want in got, got
    # 10 000 fields cost libmilter 60 ms of system calls, with or without a signature: that much
    # is not the guard's to save. Everywhere else the floor is nothing.
    least = statistics.median(floor)
    print(f"{one.name}: {statistics.median(spent):.0f} ms, unsigned {least:.0f} ms")
    assert statistics.median(spent) - least <= 50


def test_a_thousand_signatures_cost_what_ten_do(daemon: Daemon) -> None:
    message = thousand()
    plain = signed(body=MB * 19_000)
    spent: dict[bytes, list[float]] = {plain: [], message: []}
    got: list[str] = []
    for _ in range(5):
        for one, times in spent.items():
            before = cpu_ms(daemon)
            got = deliver(daemon, one)
            times.append(cpu_ms(daemon) - before)
    # Of the ten that are verified as many as fit a field; none of those that are skipped.
    assert {text.split()[0] for text in got} == {"dkim=pass"} and len(got) >= 8
    # The clock ticks in 10 ms, and what else runs only adds: the least is nearest to the cost.
    more = min(spent[message]) - min(spent[plain])
    print(f"1000 signatures on 1.4 MB: {more:.0f} ms more than one")
    assert more <= 50


def test_the_measure_sees_cpu(daemon: Daemon) -> None:
    """A proof that the figures above are of the daemon: work shows in them."""
    before = cpu_ms(daemon)
    body = (b" a" * 35 + b"\r\n") * 20_000
    for _ in range(2):
        deliver(daemon, signed(body=body))
    assert cpu_ms(daemon) > before


def pss_mb(daemon: Daemon) -> float:
    """Proportional set size of the daemon and its children, in MB."""
    total = 0
    for pid in processes(daemon):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += int(re.search(r"^Pss:\s+(\d+) kB", text, re.M)[1])  # type: ignore[index]
    return total / 1024


# 5 MB show it already: kept bodies would be 100 MB. The slow ring does what is promised.
@pytest.mark.parametrize(
    ("size", "most"),
    [
        (5_000_000, 150),
        pytest.param(12_500_000, 150, marks=pytest.mark.crash),
        (5_000_000, 185),  # with the extra `fast`
    ],
    ids=["5 MB", "12.5 MB", "5 MB, numpy"],
)
def test_memory_with_twenty_bodies_half_way(
    dns: dnskit.Server, size: int, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20 connections half-way through 25 MB: the promise is 150 MB for all workers together, and
    35 more where numpy is installed."""
    if most == 150:  # read by every Python process that finds it (site)
        (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['numpy'] = None\n")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    line = b"An  ordinary line \t of text that  relaxed has to look at.\r\n"
    body = line * (size // len(line))
    message = join([signature(HEADER, BODY), *HEADER], body)  # whatever it proves
    with Daemon(CONFIG.replace("WORKERS", "4").replace("DNS", dns.address)) as daemon:
        address = f"unix:{daemon.home}/m.sock"
        client.send(address, signed())
        rest = pss_mb(daemon)
        sessions = [client.Session(address, Envelope()) for _ in range(20)]
        try:
            for session in sessions:
                assert session.mail(Envelope()) is None
                session.rcpt("recipient@example.net")
            queued = queue_file.QueueFile.receive(message, queue_file.Field(b"Received", b" by mx"))
            for session in sessions:
                milter = session.milter
                assert milter is not None
                assert milter._headers(queued) is None
                assert milter._content(queued) is None
                milter.wire.flush()
            time.sleep(0.2)
            held = pss_mb(daemon)
            print(f"PSS at rest {rest:.0f} MB, 20 half-way {held:.0f} MB")
            assert held < most
        finally:
            for session in sessions:
                session.close()
