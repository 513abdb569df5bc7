"""One box that knows what was pasted, and the filters beside it."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from fix_report import LEARNED, REAL, TRAP, Mail, fill, signature, told
from gatepost_milter.cli.report_options import OPTIONS
from gatepost_policy import store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.facts import Source
from gatepost_policy.report import asked, filters
from gatepost_policy.report.asked import Kind
from gatepost_policy.report.selection import Selection

NAMED = "out.hoster.example"
MAILS = (
    Mail("2026-01-05T00:00:00", "news@slow.example", (TRAP,), "192.0.2.25", "mo.hoster.example",
         signatures=(signature("slow.example"),), message_id="one@slow.example"),
    Mail("2026-02-05T00:00:00", "letter@paper.example", (REAL,), "2001:db8:1::7", NAMED,
         signatures=(signature("paper.example", "fail"),), message_id="<two@paper.example>"),
    # A host that is named as the domain of a sender, and mail that nobody signed.
    Mail("2026-03-05T00:00:00", f"root@{NAMED}", (REAL,), "198.51.100.7", "other.example",
         message_id=None, source=Source.POSTFIX_LOG),
)  # fmt: skip


@pytest.fixture
def filled(any_engine: Engine, any_settings: Settings) -> Iterator[Engine]:
    fill(any_engine, MAILS, any_settings)
    yield any_engine


@pytest.mark.parametrize(
    ("text", "kind", "messages", "also"),
    [
        ("slow.example", Kind.DOMAIN, 1, ()),
        ("Slow.Example.", Kind.DOMAIN, 1, ()),
        ("news@slow.example", Kind.SENDER, 1, ()),
        ("<news@slow.example>", Kind.SENDER, 1, ()),
        (TRAP, Kind.TRAP, 1, ()),
        (f"  {TRAP} ", Kind.TRAP, 1, ()),
        (REAL, Kind.RECIPIENT, 2, ()),
        ("192.0.2.25", Kind.HOST, 1, ()),
        ("[2001:db8:1::7]", Kind.HOST, 1, ()),
        ("::ffff:192.0.2.25", Kind.HOST, 1, ()),
        ("192.0.2.0/24", Kind.PREFIX, 1, ()),
        ("2001:db8::/32", Kind.PREFIX, 1, ()),
        (NAMED, Kind.DOMAIN, 1, (Kind.NAME,)),
        ("mo.hoster.example", Kind.NAME, 1, ()),
        ("hoster.example", Kind.DOMAIN, 1, (Kind.NAME,)),
        ("1Ab2601", Kind.QUEUE_ID, 1, ()),
        ("<one@slow.example>", Kind.MESSAGE_ID, 1, ()),
        ("two@paper.example", Kind.MESSAGE_ID, 1, ()),
    ],
)
def test_what_was_pasted(
    filled: Engine,
    any_settings: Settings,
    text: str,
    kind: Kind,
    messages: int,
    also: tuple[Kind, ...],
) -> None:
    with store.reading(filled) as connection:
        got = asked.ask(connection, text, Selection(limit=7))
    assert (got.kind, got.known, got.also, got.selection.limit) == (kind, True, also, 7)
    query = {name: getattr(got.selection, name) for name in Selection.__dataclass_fields__}
    assert told(filled, any_settings, **query).summary.messages == messages


PASTED = {
    ("news@slow.example", Kind.SENDER): (
        "Good News <news@slow.example>",
        '"News, good" <news@slow.example>', "mailto:news@slow.example",
        "mailto:news@slow.example?subject=stop", "from=<news@slow.example>,",
        "F=<news@slow.example>",
        "'news@slow.example'", '"news@slow.example"', "(news@slow.example)", "news@slow.example;",
        "news[at]slow[.]example", "news (at) slow (dot) example", "\u200bnews@slow.example\u200b",
        "From: Good News <news@slow.example>", "\u201cnews@slow.example\u201d",
        "smtp.mailfrom=news@slow.example", "Return-Path: <news@slow.example>",
        "news@slow.example (Good News)", "Good News [mailto:news@slow.example]",
        "<news@slow.example", "news@slow.example.", "news@slow.example wrote:",
        "MAIL FROM:<news@slow.example> SIZE=1234", "(envelope-from <news@slow.example>)",
        "| news@slow.example |", "**news@slow.example**", "\u201enews@slow.example\u201c",
        "news\uff20slow.example", "news%40slow.example", "news&#64;slow.example",
        "news at slow dot example", "sender=news@slow.example, relay=x", "s=news@slow.example",
        "Am 3. Mai schrieb Good News <news@slow.example>:",
    ),
    ("slow.example", Kind.DOMAIN): (
        "https://slow.example/unsubscribe?u=1", "http://slow.example:8080",
        "hxxps://slow[.]example/x",
        "slow[.]example", "d=slow.example", "header.d=slow.example", "'slow.example'",
        "slow.example,",
        "https://user@slow.example/", "https[:]//slow[.]example/x", "slow.example/unsubscribe",
        "slow.example:443", "*.slow.example", ".slow.example", "slow\u3002example",
        "i=@slow.example",
        "domain slow.example", "DKIM-Signature: v=1; a=rsa-sha256; d=slow.example; s=s1;",
        "whois slow.example",
    ),
    ("192.0.2.25", Kind.HOST): (
        "192.0.2.25:40123", "mo.hoster.example[192.0.2.25]", "mo.hoster.example[192.0.2.25]:40123",
        "client=mo.hoster.example[192.0.2.25]",
        "H=mo.hoster.example (helo.example) [192.0.2.25]:25",
        "unknown [192.0.2.25],", "192[.]0[.]2[.]25", "192.0.2.25,",
        "mo.hoster.example (192.0.2.25)", "192.0.2.25.", "client-ip=192.0.2.25;", "ip4:192.0.2.25",
        "client_address=192.0.2.25", "192.000.002.025", "25.2.0.192.in-addr.arpa.", "192.0.2.25#53",
        "Client 192.0.2.25 is blocked", "reject: RCPT from unknown[192.0.2.25]: 550 5.7.1",
    ),
    ("192.0.2.0/24", Kind.PREFIX): (
        "192.0.2.0/24.", "192.0.2.", "192.0.2.*", "192.0.2.0-192.0.2.255",
        "192.0.2.0/255.255.255.0", "2.0.192.in-addr.arpa",
    ),
    ("2001:db8:1::7", Kind.HOST): (
        "[IPv6:2001:db8:1::7]", "IPv6:2001:DB8:1::7", "[2001:db8:1::7]:25",
        "out.hoster.example[2001:db8:1::7]", "2001:db8:1::7%eth0", "ip6:2001:db8:1::7",
        "7.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.8.b.d.0.1.0.0.2.ip6.arpa",
    ),
    ("1Ab2601", Kind.QUEUE_ID): (
        "1Ab2601:", "queue id: 1Ab2601", "(1Ab2601)", "1Ab2601!", "#1Ab2601", "QID 1Ab2601",
        "250 2.0.0 Ok: queued as 1Ab2601", "by mx.home.example (Postfix) with ESMTPS id 1Ab2601",
        "1Ab2601: client=mo.hoster.example[192.0.2.25]", "postcat -q 1Ab2601",
        "Jan  5 00:00:00 mx postfix/smtpd[12]: 1Ab2601: client=mo.hoster.example[198.51.100.9]",
    ),
    ("one@slow.example", Kind.MESSAGE_ID): (
        "Message-ID: <one@slow.example>", "message-id=<one@slow.example>,", "id=one@slow.example",
        "mid:one@slow.example", "&lt;one@slow.example&gt;", "%3Cone@slow.example%3E",
    ),
    (TRAP, Kind.TRAP): (f"to=<{TRAP}>,", f"orig_to=<{TRAP}>", f"Never Given <{TRAP}>"),
}  # fmt: skip


def test_what_stands_around_a_pasted_name_is_taken_off(filled: Engine) -> None:
    with store.reading(filled) as connection:
        for (_, kind), texts in PASTED.items():
            for text in texts:
                got = asked.ask(connection, text, Selection())
                assert (text, got.kind, got.known) == (text, kind, True)


@pytest.mark.parametrize(
    "text",
    ["news@slow example", "a@", "@", "one@a.example two@b.example", "a.example b.example",
     "x <y> <a@b.example> <c@d.example>", "192.0.2.25 or 192.0.2.26", "from a.example to b.example",
     "192.0.2.9-192.0.2.11 and more", "see you at noon"],
)  # fmt: skip
def test_no_name_at_all_is_not_called_unknown(text: str) -> None:
    """ "Nothing is known of it" would be a wrong answer about whoever was meant."""
    with pytest.raises(ValueError, match="no address"):
        asked.candidates(text, Selection())


def test_a_name_that_is_one_is_left_as_it_is() -> None:
    for text in ("prvs=00ff=user@slow.example", "SRS0=a=b=c=d@slow.example", '"a b"@slow.example',
                 "user@[192.0.2.1]", "from=x@slow.example"):  # fmt: skip
        first = asked.candidates(text, Selection())[1]
        assert first == (Kind.SENDER, Selection(sender=text))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nobody.example", "a domain or a host name"),
        ("nobody@nobody.example", "a trap, a sender, a recipient or a Message-ID"),
        ("203.0.113.9", "an address of a client"),
        ("zzz99", "a queue id, a domain or a host name"),
        ("1qFOdo-0001zq-E9", "a queue id, a domain or a host name"),
    ],
)
def test_what_nobody_knows_is_said_with_what_was_looked_for(
    filled: Engine, text: str, words: str
) -> None:
    with store.reading(filled) as connection:
        got = asked.ask(connection, text, Selection())
    assert not got.known
    assert got.sentence == f"nothing is known of it (looked for as {words})"


@pytest.mark.parametrize("text", ["", " ", "what is this", "a\x1b[2Jb", "x" * 2000, "10.0.0.0/99"])
def test_what_is_none_of_them_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"want an address|is no address"):
        asked.candidates(text, Selection())


@pytest.mark.parametrize(
    ("given", "messages"),
    [
        ({}, 3),
        ({"dkim": "pass"}, 1),
        ({"dkim": "FAIL"}, 1),
        ({"dkim": "none"}, 1),
        ({"dkim": "policy"}, 0),
        ({"decision": "accept"}, 3),
        ({"decision": "reject"}, 0),
        ({"reason": "no-bad-signal"}, 3),
        ({"source": "postfix-log"}, 1),
        ({"trap": TRAP}, 1),
        ({"family": "ipv6"}, 1),
        ({"family": "ipv6", "dkim": "pass"}, 0),
        ({"since": "2026-02-01", "until": "2026-03-01"}, 1),
        ({"since": "2026-02-01", "source": "exim-log"}, 1),
        ({"spf": "pass"}, 0),
        ({"dmarc": "fail"}, 0),
    ],
)
def test_filters_narrow_figures_and_list_alike(
    filled: Engine,
    any_settings: Settings,
    given: dict[str, str],
    messages: int,
) -> None:
    chosen = filters.read(given, LEARNED, Selection())
    query = {name: getattr(chosen, name) for name in Selection.__dataclass_fields__}
    report = told(filled, any_settings, **query)
    assert (report.summary.messages, len(report.messages)) == (messages, messages)
    assert sum(report.summary.families.values()) == messages
    # They go into a link, and come back from it as they were.
    assert filters.read(filters.told(chosen), LEARNED, Selection()) == chosen


@pytest.mark.parametrize("name", ["family", "dkim", "spf", "dmarc", "decision", "reason", "source",
                                  "since", "until"])  # fmt: skip
def test_a_filter_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name}: want .*'nonsense'"):
        filters.read({name: "nonsense"}, LEARNED, Selection())


def test_options_are_the_filters() -> None:
    assert {name for name, _, _ in OPTIONS} == set(filters.NAMES)
