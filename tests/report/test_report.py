"""The report: the seed's story told, every selector, both ways of counting, hostile senders."""

import random
from dataclasses import replace
from ipaddress import ip_network

import pytest
from sqlalchemy import Engine

from fix_report import NEWSLETTER, REAL, SLOW, TRAP, Mail, Past, fill, seconds, signature, told
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.ingest import deltas
from gatepost_policy.mail.address import parse
from gatepost_policy.mail.facts import Family, Source
from gatepost_policy.report import count, messages, selection
from gatepost_policy.report.selection import Selection

pytestmark = pytest.mark.slow

SUMMARY = {
    "messages": 5,
    "first_seen": "2010-11-07T14:21:44Z",
    "last_seen": "2011-04-28T12:40:26Z",
    "families": {"ipv4": 4, "ipv6": 1},
    "dkim": {"pass": 4, "fail": 1},
    "dkim_own": {"pass": 4, "fail": 1},
    "dkim_others": {},
    "spf": {},
    "dmarc": {},
    "trap_hits": 5,
    "median_gap_days": 42.1,
    "hosts": [
        {"host": "mo.hoster.example", "address": "192.0.2.25", "family": "ipv4", "messages": 3},
        {"host": "mo.hoster.example", "address": "192.0.2.26", "family": "ipv4", "messages": 1},
        {
            "host": "mo6.hoster.example",
            "address": "2001:db8:20a:202:53f0::1",
            "family": "ipv6",
            "messages": 1,
        },
    ],
}


def test_slow_sender(past: Past) -> None:
    """Monthly, signed, from IPv4 to IPv6, always to a trap."""
    got = past.told(sender="slow.example").json()
    assert got["query"] == {"sender": "slow.example"}
    assert got["summary"] == SUMMARY
    assert list(got["summary"]) == list(SUMMARY)
    assert got["standing"]["repeat_sender"] is True
    assert got["rhythm"]["word"] == "monthly"
    assert got["movement"] == "moved from IPv4 to IPv6 on 2011-04-28"
    newest = got["messages"][0]
    assert newest == {
        "at": "2011-04-28T12:40:26Z",
        "source": "exim-log",
        "queue_id": "1Ab1104",
        "direction": "inbound",
        "family": "ipv6",
        "client": {
            "address": "2001:db8:20a:202:53f0::1",
            "name": "mo6.hoster.example",
            "helo": None,
        },
        "sender": "news@slow.example",
        "header_from": None,
        "recipients": [{"address": TRAP, "trap": True}],
        "size": 2210478,
        "message_id": "id@slow.example",
        "signatures": [
            {
                "domain": "slow.example",
                "selector": "domk",
                "algorithm": "rsa-sha1",
                "canonicalization": "relaxed/relaxed",
                "key_bits": None,
                "body_limit": 2236144,
                "crypto": "pass",
                "result": "pass",
                "reason": None,
            }
        ],
        "arc": None,
        "spf": None,
        "dmarc": None,
        "trail": None,
        "decision": {"action": "accept", "reason": "no-bad-signal"},
    }
    assert [m["at"] for m in got["messages"]] == sorted(
        (m["at"] for m in got["messages"]), reverse=True
    )


def test_newsletter_is_no_repeat_sender(past: Past) -> None:
    got = past.told(sender="paper.example").json()
    assert got["rhythm"]["word"] == "monthly"
    assert got["summary"]["trap_hits"] == 0
    assert got["standing"] == {
        "repeat_sender": False,
        "proven": False,
        "sentence": "7 messages on 7 days over 6 months, none to a trap",
    }


@pytest.mark.parametrize(
    ("selectors", "want"),
    [
        ({"sender": "news@slow.example"}, 5),
        ({"sender": "<News@SLOW.example.>"}, 0),  # a local part keeps its case (RFC 5321 2.4)
        ({"sender": "news@SLOW.example."}, 5),
        ({"sender": "@slow.example"}, 5),
        ({"sender": "SLOW.example"}, 5),
        ({"sender": "example"}, 12),
        ({"sender": "low.example"}, 0),
        ({"sender": "slow.exampl"}, 0),
        ({"sender": "nobody@slow.example"}, 0),
        ({"host": ip_network("192.0.2.25")}, 3),
        ({"host": ip_network("192.0.2.24/31")}, 3),
        ({"host": ip_network("192.0.2.0/24")}, 4),
        ({"host": ip_network("192.0.0.0/9")}, 4),
        ({"host": ip_network("0.0.0.0/0")}, 11),
        ({"host": ip_network("2001:db8:20a:202:53f0::1")}, 1),
        ({"host": ip_network("2001:db8:20a:202:53f0::2")}, 0),
        ({"host": ip_network("2001:db8:20a:202::/64")}, 1),
        ({"host": ip_network("2001:db8:20a::/48")}, 1),
        ({"host": ip_network("2001:db8:200::/39")}, 1),
        ({"host": ip_network("2001:db8::/33")}, 1),
        ({"host": ip_network("::/0")}, 1),
        ({"trap": parse(TRAP)}, 5),
        ({"trap": parse("Trap+tag@EXAMPLE.net")}, 5),
        ({"trap": parse(REAL)}, 7),
        ({"trap": parse("@example.net")}, 12),
        ({"trap": parse("@xample.net")}, 0),
        ({"trap": parse("@%")}, 0),
        ({"family": Family.IPV6}, 1),
        ({"sender": "slow.example", "family": Family.IPV4}, 4),
        ({"since": seconds("2011-04-28T12:40:26")}, 4),
        ({"until": seconds("2011-04-28T12:40:26")}, 8),
        ({"sender": "slow.example", "since": seconds("2011-01-01T00:00:00")}, 3),
        ({"sender": "slow.example", "host": ip_network("192.0.2.26")}, 1),
        ({"sender": "slow.example", "trap": parse(REAL)}, 0),
    ],
    ids=str,
)
def test_selectors(past: Past, selectors: dict[str, object], want: int) -> None:
    got = past.told(**selectors)
    assert got.summary.messages == want
    assert len(got.messages) == want


def test_limit_cuts_messages_newest_first_never_the_summary(past: Past) -> None:
    for limit, want in ((0, []), (2, ["2011-04-28T12:40:26Z", "2011-02-22T21:59:05Z"])):
        got = past.told(sender="slow.example", limit=limit).json()
        assert got["summary"] == SUMMARY
        assert [m["at"] for m in got["messages"]] == want


def test_nobody(past: Past) -> None:
    got = past.told(sender="unknown.example").json()
    assert got["summary"] == {
        "messages": 0,
        "first_seen": None,
        "last_seen": None,
        "families": {},
        "dkim": {},
        "dkim_own": {},
        "dkim_others": {},
        "spf": {},
        "dmarc": {},
        "trap_hits": 0,
        "median_gap_days": None,
        "hosts": [],
    }
    assert got["messages"] == []


def test_overview(past: Past) -> None:
    got = past.told().json()
    assert got["query"] == {}
    assert got["summary"]["messages"] == 12
    assert got["summary"]["trap_hits"] == 5
    (sender,) = got["senders"]
    assert sender == {
        "sender": "slow.example",
        "kind": "sender-domain",
        "messages": 5,
        "trap_messages": 5,
        "first_seen": "2010-11-07T14:21:44Z",
        "last_seen": "2011-04-28T12:40:26Z",
        "months": 5,
        "median_gap_days": 42.1,
        "families": {"ipv4": 4, "ipv6": 1},
        "dkim": {"pass": 4, "fail": 1},
        "spf": {},
        "dmarc": {},
        "repeat_sender": True,
        "proven": False,
        "listed_until": None,
    }
    assert got["dual_stack"] == [
        {"domain": "slow.example", "proven": False, "ipv4": 4, "ipv6": 1, "trap_messages": 5}
    ]


def test_overview_of_a_period(past: Past) -> None:
    got = past.told(since=seconds("2011-01-01T00:00:00")).json()
    assert got["query"] == {"since": "2011-01-01T00:00:00Z"}
    assert got["summary"]["messages"] == 10
    assert got["senders"][0]["messages"] == 3


def test_one_customer_of_a_mail_service_is_not_the_service(
    any_engine: Engine, any_settings: Settings
) -> None:
    mails = [replace(m, sender="slow@gmail.com", signatures=()) for m in SLOW]
    mails += [replace(m, sender=f"u{i}@gmail.com") for i, m in enumerate(NEWSLETTER)]
    fill(any_engine, mails, any_settings)
    got = told(any_engine, any_settings).json()
    assert [s["sender"] for s in got["senders"]] == ["slow@gmail.com"]
    # The clients say nothing that the sender's own line does not say.
    assert got["senders"][0]["repeat_sender"] is True


def test_unsigned_host_that_changes_its_name_is_a_sender(
    any_engine: Engine, any_settings: Settings
) -> None:
    mails = [
        replace(m, sender=f"x@n{i}.example", signatures=(), client="192.0.2.9")
        for i, m in enumerate(SLOW)
    ]
    fill(any_engine, mails, any_settings)
    got = told(any_engine, any_settings, host=ip_network("192.0.2.9")).json()
    assert got["standing"]["repeat_sender"] is True
    assert got["standing"]["proven"] is True


def test_header_from_and_signature_count_too(any_engine: Engine, any_settings: Settings) -> None:
    mails = (
        Mail("2026-01-01T00:00:00", "b@bounces.one.example", author="a@two.example",
             signatures=(signature("mail.three.example"), signature("three.example", "fail"))),
        Mail("2026-01-02T00:00:00", "", author="a@two.example"),
    )  # fmt: skip
    fill(any_engine, mails, any_settings)
    for sender, want in (
        ("one.example", 1),
        ("bounces.one.example", 1),
        ("two.example", 2),
        ("a@two.example", 2),
        ("three.example", 1),
        ("mail.three.example", 1),
        ("<>", 1),
    ):
        got = told(any_engine, any_settings, sender=sender)
        assert got.summary.messages == want, sender
        assert len(got.messages) == want, sender
    got = told(any_engine, any_settings, sender="two.example")
    assert got.summary.dkim == {"pass": 1, "fail": 1, "none": 1}


def test_trap_hits_count_message_times_recipient(
    any_engine: Engine, any_settings: Settings
) -> None:
    fill(any_engine, (Mail("2026-01-01T00:00:00", to=(TRAP, REAL, "Trap+x@example.net")),),
         any_settings)  # fmt: skip
    got = told(any_engine, any_settings, sender="slow.example").json()
    assert got["summary"]["trap_hits"] == 2
    assert [r["trap"] for r in got["messages"][0]["recipients"]] == [True, False, True]


def test_rcpt_only_messages_are_not_called_unsigned(
    any_engine: Engine, any_settings: Settings
) -> None:
    """At RCPT TO nobody knows whether there would have been a signature."""
    from gatepost_policy import recorder

    record = Mail("2026-01-01T00:00:00", source=Source.POLICY, size=None, message_id=None).json()
    recorder.record_batch(any_engine, [{**record, "kind": "rcpt"}], any_settings)
    for selectors in ({"sender": "slow.example"}, {"trap": parse(TRAP)}):
        got = told(any_engine, any_settings, **selectors)
        assert got.summary.messages == 1
        assert got.summary.dkim == {}


def test_sums_say_what_the_rows_say(any_engine: Engine, any_settings: Settings) -> None:
    """A domain's summary comes from sums; counted from the rows it must be the same."""
    source = random.Random(7)
    names = ["a.example", "b.a.example", "c.b.a.example", "d.example", "example", "aa.example"]

    def some(most: int) -> list[str]:
        return source.sample(names, source.randint(0, most))

    mails = [
        Mail(
            f"20{source.randint(10, 29)}-{source.randint(1, 12):02}-{source.randint(1, 28):02}"
            f"T{source.randint(0, 23):02}:00:00",
            f"u@{source.choice(names)}" if source.random() < 0.8 else "",
            tuple(source.sample([TRAP, REAL, "x@example.net"], source.randint(1, 3))),
            source.choice(["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8:0:1::1"]),
            None,
            author=f"v@{source.choice(names)}" if source.random() < 0.6 else None,
            signatures=tuple(signature(name, source.choice(deltas.RESULTS)) for name in some(3)),
        )
        for _ in range(300)
    ]
    fill(any_engine, mails, any_settings)
    with store.reading(any_engine) as connection:
        for name in [*names, "b.example"]:
            for family in (None, Family.IPV4, Family.IPV6):
                chosen = Selection(sender=name, family=family)
                assert not chosen.narrowed
                sums = count.count(connection, chosen)
                rows = count.count(connection, replace(chosen, since=-1e11))
                assert sums == rows, (name, family)
                assert name == "b.example" or sums.summary.messages > 20, name
                got = messages.newest(connection, chosen, 10)
                assert got == messages.newest(connection, replace(chosen, since=-1e11), 10)
                assert len(got) == min(10, sums.summary.messages)
                hits = replace(chosen, trapped=True)
                some_hits = messages.newest_of_many(connection, hits, 20)
                assert some_hits == messages.newest(connection, hits, 20)
                assert len(some_hits) == min(20, sums.trap_messages)


def test_overview_from_sums(past: Past) -> None:
    """What is added up beforehand is what the rows say."""
    assert past.told().json()["summary"] == past.told(since=-1e11).json()["summary"]


def test_dense_history(any_engine: Engine, any_settings: Settings) -> None:
    """A heavy sender's times are not read one by one; days and months are right all the same."""
    mails = [Mail(f"2026-0{m}-01T{h:02}:{n:02}:00", to=(REAL,)) for m in (1, 2) for h in range(24)
             for n in range(0, 60, 2)]  # fmt: skip
    fill(any_engine, mails, any_settings)
    for selectors in ({}, {"since": -1e11}):
        got = told(any_engine, any_settings, sender="slow.example", **selectors).rhythm
        assert got is not None
        assert (got.messages, got.days, got.months, got.median_gap) == (1440, 2, 2, 0.0)
        assert got.shortest_gap is None  # not read


# NASTY-INPUTS E1: (as it came, what finds it, what does not).
SPELLINGS = [
    ("postmaster", ["<postmaster>"], ["postmaster@mx.example", "postmaster"]),
    ('"a b"@q.example', ['"a b"@q.example', '"a b"@Q.EXAMPLE.', "q.example"], ["b@q.example"]),
    ('"a@b"@q.example', ['"a@b"@q.example', "q.example"], ["b@q.example", "b", "a@b"]),
    ('"plain"@q.example', ["plain@q.example", '"plain"@q.example'], ["Plain@q.example"]),
    ("list-bounce+user=home.example@v.example", ["v.example"], ["home.example"]),
    ("SRS0=ab=cd=orig.example=u@f.example", ["f.example"], ["orig.example", "u@orig.example"]),
    ("prvs=1234abc=u@b.example", ["prvs=1234abc=u@b.example", "b.example"], ["u@b.example"]),
    ("<@relay.example,@hop.example:u@r.example>", ["u@r.example", "r.example"], ["relay.example"]),
    ("x" * 300 + "@l.example", ["x" * 300 + "@l.example", "l.example"], ["x" * 299]),
    ("\u00fcser@u.example", ["\u00fcser@u.example"], ["user@u.example", "\u00dcser@u.example"]),
    ("u@b\u00fccher.example", ["xn--bcher-kva.example", "u@B\u00dcCHER.example"],
     ["bucher.example"]),
    ("u@xn--bcher-kva.example", ["b\u00fccher.example", "u@xn--bcher-kva.example"], []),
    ("u@[192.0.2.1]", ["u@[192.0.2.1]", "[192.0.2.1]"], ["192.0.2.1"]),
    ("u@example.org.", ["u@example.org", "example.org", "org"], ["rg"]),
    ("u@" + ".".join(["l" * 63] * 12), [".".join(["l" * 63] * 12)], ["l" * 63 + ".example"]),
]  # fmt: skip


def test_every_spelling_of_one_mailbox(any_engine: Engine, any_settings: Settings) -> None:
    for at, (sender, found, _) in enumerate(SPELLINGS):
        mail = Mail(f"2026-01-{at + 1:02}T00:00:00", sender, (REAL,))
        fill(any_engine, (mail,), any_settings)
        for text in found:
            got = told(any_engine, any_settings, sender=selection.sender(text))
            senders = {line.sender for line in got.messages}
            assert sender.strip("<>") in senders, (sender, text, senders)
            assert got.summary.messages == len(got.messages)
    for sender, _, others in SPELLINGS:
        for text in others:
            got = told(any_engine, any_settings, sender=selection.sender(text))
            assert sender.strip("<>") not in {line.sender for line in got.messages}, (sender, text)
