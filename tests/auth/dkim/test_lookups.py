"""Key look-ups against a DNS server that answers, is slow, lies or is silent."""

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dkimkit import AT, BODY, HEADER, NAME, RSA, signature, verify
from dnskit import BIG, Server, Strings, serving, silent_port
from from_table import from_table
from gatepost_policy.config.settings import Dkim, nameserver
from gatepost_policy.dkim.answers import keys_of
from gatepost_policy.dkim.verifier import Verifier
from gatepost_policy.dns import Answer, Lookups, Pending

KEY = "v=DKIM1; p=x"
ANSWERS: dict[str, Any] = {
    "good.example": KEY,
    "split.example": Strings(("v=DKIM1", "; p=", "ab", "cd")),
    "several.example": [KEY, "v=spf1 -all"],
    "big.example": "truncated",
    "cut.example": "cut",
    "loop.example": "loop",
    "chain.example": "chain",
    "nodata.example": "nodata",
    "servfail.example": "servfail",
    "refused.example": "refused",
    "silent.example": "silent",
    "garbage.example": "garbage",
}


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(ANSWERS) as running:
        yield running


def settings(server: Server, **more: Any) -> Dkim:
    usual = {"nameservers": [server.address], "lookup_timeout_ms": 10_000}
    return from_table(Dkim, usual | more)


def answer(lookups: Lookups, name: str) -> Answer:
    found = lookups.ask(name)
    return found.wait(10) if isinstance(found, Pending) else found


@pytest.mark.parametrize(
    ("name", "form", "why"),
    [
        ("good.example", KEY, None),
        ("split.example", "v=DKIM1; p=abcd", None),
        ("big.example", BIG, None),
        ("chain.example", "v=1", None),
        ("absent.example", None, "no-name"),
        ("nodata.example", [], "no-record"),
        ("silent.example", {"error": "timeout"}, "dns-timeout"),
        ("servfail.example", {"error": "servfail"}, "dns-servfail"),
        ("refused.example", {"error": "servfail"}, "dns-servfail"),
        ("cut.example", {"error": "truncated"}, "dns-truncated"),
        ("loop.example", {"error": "cname-loop"}, "dns-cname-loop"),
        # What cannot be read may be anybody's: the resolver goes on waiting for the answer.
        ("garbage.example", {"error": "timeout"}, "dns-timeout"),
    ],
)
def test_each_answer_has_its_own_word(server: Server, name: str, form: Any, why: str) -> None:
    # Short only where nobody will answer: a loaded machine may be slow with the others.
    budget = 100 if why == "dns-timeout" else 10_000
    got = answer(Lookups(settings(server, lookup_timeout_ms=budget)), name)
    assert (got.form, got.why) == (form, why)
    played = answer(Lookups(Dkim(), {name: got.form}), name)
    assert (played.form, played.why, played.records) == (form, why, got.records)


def test_several_records(server: Server) -> None:
    got = answer(Lookups(settings(server)), "several.example")
    assert sorted(got.records) == sorted(ANSWERS["several.example"])
    assert keys_of(got, "rsa", Dkim()) == "several-keys"


def test_no_server_at_all() -> None:
    quiet, address = silent_port()
    quiet.close()  # now nobody listens there: ICMP says so
    lookups = Lookups(Dkim(nameservers=(address,), lookup_timeout_ms=300))
    assert answer(lookups, "good.example").why in ("dns-timeout", "dns-servfail")


def test_a_hit_is_no_hand_over_and_asks_nobody(server: Server) -> None:
    lookups = Lookups(settings(server))
    first = answer(lookups, "good.example")
    threads = threading.active_count()
    assert lookups.ask("good.example") is first
    assert server.asked["good.example"] == 1
    assert threading.active_count() <= threads


def test_ttl_and_negative_ttl(server: Server) -> None:
    now = [1000.0]
    lookups = Lookups(settings(server, cache_ttl_max="1m"), clock=lambda: now[0])
    server.ttl = 30
    for name in ("good.example", "absent.example", "nodata.example"):
        answer(lookups, name)
        now[0] += 29
        answer(lookups, name)
        assert server.asked[name] == 1
        now[0] += 2
        answer(lookups, name)
        assert server.asked[name] == 2
    server.ttl = 86_400  # a key is never kept longer than cache_ttl_max
    now[0] += 100
    answer(lookups, "good.example")
    now[0] += 61
    answer(lookups, "good.example")
    assert server.asked["good.example"] == 4


def test_negative_answers_have_a_bound_of_their_own(server: Server) -> None:
    now = [0.0]
    server.ttl = 86_400
    lookups = Lookups(settings(server, cache_ttl_negative="10s"), clock=lambda: now[0])
    answer(lookups, "absent.example")
    now[0] = 9
    answer(lookups, "absent.example")
    now[0] = 11
    answer(lookups, "absent.example")
    assert server.asked["absent.example"] == 2


def test_failures_are_remembered_for_seconds(server: Server) -> None:
    now = [0.0]
    lookups = Lookups(settings(server), clock=lambda: now[0])
    answer(lookups, "servfail.example")
    tries = server.asked["servfail.example"]
    answer(lookups, "servfail.example")
    assert server.asked["servfail.example"] == tries
    now[0] = 6
    server.answers["servfail.example"] = KEY
    assert answer(lookups, "servfail.example").form == KEY


def test_a_server_without_edns_is_asked_without() -> None:
    with serving({"good.example": KEY, "other.example": KEY, "cut.example": "truncated"}) as old:
        old.edns = False
        now = [1000.0]
        lookups = Lookups(settings(old), clock=lambda: now[0])
        assert answer(lookups, "good.example").form == KEY
        asked = old.asked["good.example"]
        assert answer(lookups, "other.example").form == KEY
        # Once is enough to know it, for a while.
        assert old.asked["other.example"] == asked - 1 == 1
        assert answer(lookups, "cut.example").records[0] == BIG
        old.edns = True
        now[0] += 301
        old.answers["new.example"] = KEY
        assert answer(lookups, "new.example").form == KEY and old.asked["new.example"] == 1


def test_one_look_up_in_flight_for_a_name(server: Server) -> None:
    server.delay = 0.1
    lookups = Lookups(settings(server))
    asked = [lookups.ask("good.example") for _ in range(50)]
    assert len({id(one) for one in asked}) == 1
    assert isinstance(asked[0], Pending)
    assert asked[0].wait(5).form == KEY
    assert server.asked["good.example"] == 1


def test_so_many_at_once_and_no_more(server: Server) -> None:
    server.answers.update({f"silent{i}.example": "silent" for i in range(5)})
    lookups = Lookups(settings(server, max_lookups=3, lookup_timeout_ms=300))
    asked = [lookups.ask(f"silent{i}.example") for i in range(5)]
    words = [one.why if isinstance(one, Answer) else "under way" for one in asked]
    assert words == ["under way"] * 3 + ["dns-busy"] * 2
    for one in asked[:3]:
        assert isinstance(one, Pending)
        one.wait(5)
    assert answer(lookups, "good.example").form == KEY  # and then there is room again


def test_the_cache_is_bounded_and_keeps_what_is_asked_for() -> None:
    lookups = Lookups(Dkim(cache_entries=16), {"wanted.example": KEY})
    lookups.ask("wanted.example")
    for i in range(200):
        lookups.ask(f"flood{i}.example")
        lookups.ask("wanted.example")
        assert len(lookups._cache) <= 16
    assert "wanted.example" in lookups._cache
    small = Lookups(Dkim(cache_bytes=65_536), {f"n{i}": "x" * 4000 for i in range(100)})
    for i in range(100):
        small.ask(f"n{i}")
    assert sum(kept.size for kept in small._cache.values()) <= 65_536 + 8_000


def test_a_message_is_not_held_by_slow_domains() -> None:
    quiet, address = silent_port()
    try:
        own = Dkim(nameservers=(address,), lookup_timeout_ms=60_000, message_timeout_ms=300)
        header = [signature(HEADER, BODY, tags={"d": f"slow{i}.example"}) for i in range(10)]
        started = time.monotonic()
        outcome = verify([*header, *HEADER], settings=own, lookups=Lookups(own))
        assert time.monotonic() - started < 30  # ten look-ups of a minute each, one budget
        assert {(s.result, s.reason) for s in outcome.signatures} == {("temperror", "dns-timeout")}
    finally:
        quiet.close()


def test_a_look_up_starts_when_the_header_arrives(server: Server) -> None:
    own = settings(server)
    server.answers[NAME] = RSA.record
    lookups = Lookups(own)
    message = Verifier(own, lookups).begin(AT)
    message.header(*signature(HEADER, BODY))
    for _ in range(500):
        if server.asked[NAME]:
            break
        time.sleep(0.01)
    assert server.asked[NAME] == 1  # though the header is not complete yet
    for name, value in HEADER:
        message.header(name, value.replace(b"\r\n", b"\n"))
    message.end_of_headers()
    message.body(BODY)
    assert message.finish().signatures[0].result == "pass"
    assert lookups.asked == 1


def test_nothing_exists_before_a_fork(server: Server) -> None:
    """Made in the parent, used in two children: no thread, no descriptor, before or between."""
    descriptors = len(os.listdir("/proc/self/fd"))
    threads = threading.active_count()
    own = settings(server)
    server.answers[NAME] = RSA.record
    verifier = Verifier(own, Lookups(own))
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads
    children = []
    for _ in range(2):
        pid = os.fork()
        if pid == 0:
            try:
                message = verifier.begin(AT)
                for name, value in [signature(HEADER, BODY), *HEADER]:
                    message.header(name, value.replace(b"\r\n", b"\n"))
                message.end_of_headers()
                message.body(BODY)
                os._exit(0 if message.finish().signatures[0].result == "pass" else 1)
            finally:
                os._exit(2)
        children.append(pid)
    assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children] == [0, 0]


def test_the_verdict_with_the_server_live_and_played_back_is_one(server: Server) -> None:
    own = settings(server)
    server.answers[NAME] = [RSA.record, "v=spf1 -all"]
    header = [
        signature(HEADER, BODY),
        signature(HEADER, BODY, tags={"d": "loop.example", "s": "x"}),
        *HEADER,
    ]
    server.answers["x._domainkey.loop.example"] = "loop"
    live = verify(header, settings=own, lookups=Lookups(own))
    assert [s.reason for s in live.signatures] == [None, "dns-cname-loop"]
    assert verify(header, dns=live.dns).signatures == live.signatures


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("127.0.0.1:5353", ("127.0.0.1", 5353)),
        ("[::1]:5353", ("::1", 5353)),
        ("[::1]", ("::1", 53)),
        ("::1", ("::1", 53)),
        ("192.0.2.1", ("192.0.2.1", 53)),
    ],
)
def test_nameserver(text: str, want: tuple[str, int]) -> None:
    assert nameserver(text) == want


@pytest.mark.parametrize(
    "text", ["localhost", "", "127.0.0.1:", "1.2.3.4:0", "[::1", "[::1]5", "::1:x", "a:b"]
)
def test_nameserver_refused(text: str) -> None:
    with pytest.raises(ValueError, match="resolver"):
        nameserver(text)
    with pytest.raises(ValueError, match="resolver"):
        from_table(Dkim, {"nameservers": [text]})


def test_a_second_resolver(server: Server) -> None:
    """A dead first resolver does not hide a living second one."""
    quiet, dead = silent_port()
    try:
        own = Dkim(nameservers=(dead, server.address), lookup_timeout_ms=2000)
        assert answer(Lookups(own), "good.example").form == KEY
    finally:
        quiet.close()
