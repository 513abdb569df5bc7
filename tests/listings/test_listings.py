"""Listings: who is listed for what and how long, on a real store through the recorder's ingest."""

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sqlalchemy import Engine, event

from fix_store import AT, message, signature
from gatepost_policy import ingest, listings, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.journal.record import Json
from gatepost_policy.listings import dossier
from gatepost_policy.listings.promotion import CHILDREN_MAX
from gatepost_policy.listings.table import EVIDENCE_MAX
from gatepost_policy.mail.decision import Action, Reason
from gatepost_policy.mail.facts import Source

TRAP = "trap@home.example"
HOUR, DAY = 3_600, 86_400
FIRST, MAX, MEMORY = DAY, 7 * DAY, 90 * DAY


@pytest.fixture
def settings(any_settings: Settings) -> Settings:
    """On SQLite, and on PostgreSQL where that ring runs."""
    return any_settings


@pytest.fixture
def engine(any_engine: Engine) -> Engine:
    """The store of `settings`."""
    return any_engine


def hit(number: int = 0, **values: Any) -> Json:
    """A message to the trap, unsigned, from 192.0.2.7."""
    values.setdefault("to", ())
    values.setdefault("traps", (TRAP,))
    values.setdefault("action", Action.REJECT)
    values.setdefault("reason", Reason.TRAP)
    return message(number, **values)


def take(engine: Engine, settings: Settings, *records: Json) -> ingest.Outcome:
    with store.writing(engine) as connection:
        return ingest.ingest(connection, records, settings, AT)


def rows(engine: Engine) -> list[dossier.Entry]:
    """All listings, oldest first."""
    with store.reading(engine) as connection:
        found = dossier.listings(connection, AT, past=True, limit=None, evidence=True)
    return found[::-1]


def values(engine: Engine) -> list[tuple[str, str]]:
    return [(entry.kind, entry.value) for entry in rows(engine)]


# name, records, (kind, value) of the listings made
BLAMED: list[tuple[str, list[Json], list[tuple[str, str]]]] = [
    ("unsigned: the client", [hit()], [("prefix", "192.0.2.7/32")]),
    ("v6: its /64", [hit(client="2001:db8:1:2::9")], [("prefix", "2001:db8:1:2::/64")]),
    ("signed and aligned: the domain alone", [hit(signatures=(signature(),))],
     [("dkim", "sender.example")]),
    ("signed by another: the client", [hit(signatures=(signature("other.example"),))],
     [("prefix", "192.0.2.7/32")]),
    ("two aligned signatures", [hit(
        signatures=(signature(), signature("mail.sender.example")))],
     [("dkim", "mail.sender.example"), ("dkim", "sender.example")]),
    ("a null sender", [hit(sender="", author=None)], []),
    ("a forwarder", [hit(sender="SRS0=h=t=x.example=u@fwd.example", author=None)], []),
    ("four good messages are not enough", [*(message(n) for n in range(4)), hit(9)],
     [("prefix", "192.0.2.7/32")]),
    ("a shared client", [*(message(n, at=AT + n * 8 * HOUR) for n in range(5)),
                         hit(9, at=AT + 2 * DAY)], []),
    ("a burst before the hit is no good mail", [*(message(n) for n in range(9)), hit(9)],
     [("prefix", "192.0.2.7/32")]),
    ("nor is what was tried again", [
        *(message(n, at=AT + n * 8 * HOUR, message_id="<again@x.example>") for n in range(5)),
        hit(9, at=AT + 2 * DAY)], [("prefix", "192.0.2.7/32")]),
    ("good mail of long ago", [*(message(n, at=AT - 31 * DAY + n) for n in range(5)), hit(9)],
     [("prefix", "192.0.2.7/32")]),
    ("mail to real recipients is no hit", [message(1)], []),
    ("two traps are one hit", [hit(traps=(TRAP, "other@home.example"))],
     [("prefix", "192.0.2.7/32")]),
    ("an unknown user that is a trap", [hit(refused=(TRAP,), kind="rcpt", source=Source.POLICY)],
     [("prefix", "192.0.2.7/32")]),
    ("an imported log is history", [hit(source=Source.EXIM_LOG, key="exim:1")], []),
]  # fmt: skip


@pytest.mark.parametrize("case", BLAMED, ids=[c[0] for c in BLAMED])
def test_who_is_listed(case: Any, engine: Engine, settings: Settings) -> None:
    name, records, want = case
    take(engine, settings, *records)
    assert sorted(values(engine)) == sorted(want), name
    for entry in rows(engine):
        assert entry.hits == 1, name
        assert {p.trap for p in entry.evidence} <= {TRAP, "other@home.example"}, name
        assert entry.evidence, name


def test_escalation_and_memory(engine: Engine, settings: Settings) -> None:
    """Doubling after expiry, to the longest; nothing while listed; anew after the memory."""
    at, want = AT, FIRST
    for step in range(5):
        take(engine, settings, hit(2 * step, at=at), hit(2 * step + 1, at=at + 60))
        last = rows(engine)[-1]
        assert (last.since, last.until - last.since, last.hits) == (at, want, 2), step
        at, want = last.until + HOUR, min(want * 2, MAX)
    take(engine, settings, hit(99, at=rows(engine)[-1].until + MEMORY + 1))
    assert rows(engine)[-1].until - rows(engine)[-1].since == FIRST


# answer to the first, days until it comes again, what is listed in the end
RETRIES = [
    ("while it is listed it adds nothing", Action.REJECT, 0.5, [(1, FIRST)]),
    ("asked to come again, after the listing", Action.TEMPFAIL, 2, [(1, FIRST)]),
    ("asked to come again, but far too late", Action.TEMPFAIL, 6, [(1, FIRST), (1, 2 * FIRST)]),
    ("refused for good, and again", Action.REJECT, 2, [(1, FIRST), (1, 2 * FIRST)]),
]


@pytest.mark.parametrize("case", RETRIES, ids=[c[0] for c in RETRIES])
def test_retries(case: Any, engine: Engine, settings: Settings) -> None:
    name, action, days, want = case
    same: dict[str, Any] = {"message_id": "<same@sender.example>", "action": action}
    take(engine, settings, hit(1, **same))
    take(engine, settings, hit(2, at=AT + days * DAY, **same))
    assert [(e.hits, e.until - e.since) for e in rows(engine)] == want, name
    # Another message is another hit.
    take(engine, settings, hit(3, at=AT + 20 * DAY, message_id="<other@sender.example>"))
    assert len(rows(engine)) == len(want) + 1, name


def test_a_retry_at_rcpt(engine: Engine, settings: Settings) -> None:
    """No Message-ID there: the same sender and trap, where we had said 4xx."""
    for number, (days, sender) in enumerate([(0, "a@x.example"), (2, "a@x.example"),
                                             (2, "b@x.example")]):  # fmt: skip
        record = hit(number, at=AT + days * DAY + number, kind="rcpt", source=Source.POLICY,
                     sender=sender, author=None, action=Action.TEMPFAIL)  # fmt: skip
        record["message_id"] = None
        take(engine, settings, record)
    assert [(e.hits, e.until - e.since) for e in rows(engine)] == [(1, FIRST), (1, 2 * FIRST)]


def test_a_repeat_sender_is_listed_for_longest(engine: Engine, settings: Settings) -> None:
    signed: dict[str, Any] = {"signatures": (signature(),)}
    take(engine, settings, hit(1, at=AT, **signed))
    take(engine, settings, message(2, at=AT + 20 * DAY, **signed))
    take(engine, settings, message(3, at=AT + 40 * DAY, **signed))
    with store.reading(engine) as connection:
        repeating = listings.repeating(connection)
    assert ("dkim", "sender.example") in repeating
    take(engine, settings, hit(4, at=AT + 41 * DAY, **signed))
    assert rows(engine)[-1].until - rows(engine)[-1].since == MAX


def test_a_newsletter_is_no_repeat_sender(engine: Engine, settings: Settings) -> None:
    for month in range(12):
        take(engine, settings, message(month, at=AT + month * 30 * DAY, signatures=(signature(),)))
    with store.reading(engine) as connection:
        assert listings.repeating(connection) == []


def test_a_crowd_is_no_repeat_sender(engine: Engine, settings: Settings) -> None:
    person: dict[str, Any] = {"sender": "someone@gmail.com", "author": "someone@gmail.com"}
    for n, make in enumerate((hit, message, message)):
        take(engine, settings, make(n, at=AT + n * 20 * DAY, client=f"198.51.100.{n}", **person))
    with store.reading(engine) as connection:
        assert listings.repeating(connection) == [("sender", "someone@gmail.com")]


def test_an_old_log_looks_at_nobody_else(engine: Engine, settings: Settings) -> None:
    """Shared clients with a hit are looked at when they come, not with every batch of old mail."""
    for k in range(4):
        mine: dict[str, Any] = {"client": f"198.51.100.{k}"}
        old = [message(n, at=AT - 40 * DAY + n * 8 * HOUR, **mine) for n in range(5)]
        take(engine, settings, *old, hit(90, at=AT - 20 * DAY, **mine),
             *(message(n, at=AT + (n - 15) * 8 * HOUR, **mine) for n in range(10, 16)))  # fmt: skip
    looks: list[str] = []

    @event.listens_for(engine, "before_cursor_execute")
    def note(*call: Any) -> None:
        if "FROM message WHERE prefix =" in call[2]:
            looks.append(call[2])

    take(engine, settings, message(1, at=AT - 300 * DAY, client="203.0.113.9"))
    assert looks == []
    take(engine, settings, message(2, at=AT - 300 * DAY, client="198.51.100.2"))
    assert len(looks) == 2, "one client: its old mail, and its newer"
    with store.reading(engine) as connection:
        assert not [r for r in listings.repeating(connection) if r[0] == "prefix"]


def test_rcpt_hit_yields_to_the_signed_message(engine: Engine, settings: Settings) -> None:
    """The policy service sees a prefix; the milter, a moment later, a proven domain."""
    seen = hit(1, kind="rcpt", port=4000, source=Source.POLICY, author=None, instance="i1")
    whole = hit(1, at=AT + 3, port=4000, signatures=(signature(),))
    take(engine, settings, seen)
    assert values(engine) == [("prefix", "192.0.2.7/32")]
    take(engine, settings, whole)
    assert values(engine) == [("dkim", "sender.example")]
    assert rows(engine)[0].hits == 1


def test_rcpt_hit_and_unsigned_message_are_one(engine: Engine, settings: Settings) -> None:
    seen = hit(1, kind="rcpt", port=4000, source=Source.POLICY, author=None, instance="i1")
    take(engine, settings, seen, hit(1, at=AT + 3, port=4000))
    take(engine, settings, hit(2, at=AT + 2 * DAY, kind="rcpt", port=5, source=Source.POLICY,
                               author=None, instance="i2"))  # fmt: skip
    take(engine, settings, hit(2, at=AT + 2 * DAY + 3, port=5))
    assert [(e.hits, e.until - e.since) for e in rows(engine)] == [(1, FIRST), (1, 2 * FIRST)]


def test_neighbours_are_not_listed_and_a_flood_is_bounded(
    engine: Engine, settings: Settings
) -> None:
    flood = [
        hit(n, at=AT + n * 0.006, client=f"2001:db8:7:{n:x}::1", message_id=f"<{n}@x.example>")
        for n in range(1, 400)
    ]
    take(engine, settings, *flood)
    found = values(engine)
    children = [value for kind, value in found if kind == "prefix"]
    assert len(children) == CHILDREN_MAX
    assert "2001:db8:7:1::/64" in children
    assert "2001:db8:8:1::/64" not in children
    assert ("promoted", "2001:db8:7::/56") in found
    # Its 256 /64s lie in two /56s: their /48 needs three.
    assert ("promoted", "2001:db8:7::/48") not in found


def test_what_no_database_stores(engine: Engine, settings: Settings) -> None:
    """Octets that are no UTF-8, and NUL, in everything a stranger writes; twice, to be compared."""
    odd = "caf\udce9\0"
    record = hit(
        1,
        sender=f"{odd}@x.example",
        author=f"{odd}@{odd}.example",
        message_id=f"<{odd}@x.example>",
        traps=(f"{odd}@home.example", f"{odd}+x@home.example", TRAP),
        signatures=(signature(f"{odd}.example"),),
        action=Action.TEMPFAIL,
    )
    assert take(engine, settings, record).bad == {}
    again = [{**record, "at": AT + seconds} for seconds in (60, DAY + 60)]
    assert take(engine, settings, *again).bad == {}
    for entry in rows(engine):
        assert (entry.hits, len(entry.evidence)) == (1, 2)
    assert rows(engine)


def test_promotion_needs_three_children(engine: Engine, settings: Settings) -> None:
    for n in (1, 2):
        take(engine, settings, hit(n, client=f"2001:db8:7:{n}::1"))
    assert "promoted" not in {kind for kind, _ in values(engine)}
    take(engine, settings, hit(3, client="2001:db8:7:3::1"))
    assert ("promoted", "2001:db8:7::/56") in values(engine)
    take(engine, settings, hit(4, client="2001:db8:7:100::1"), hit(5, client="2001:db8:7:200::1"))
    assert ("promoted", "2001:db8:7::/48") in values(engine)


def test_promotion_off(engine: Engine, settings: Settings) -> None:
    off = replace(settings, sender=replace(settings.sender, promotion="off"))
    take(engine, off, *(hit(n, client=f"2001:db8:7:{n}::1") for n in range(1, 5)))
    assert {kind for kind, _ in values(engine)} == {"prefix"}


def test_evidence_is_bounded(engine: Engine, settings: Settings) -> None:
    take(engine, settings, *(hit(n) for n in range(EVIDENCE_MAX + 50)))
    (entry,) = rows(engine)
    assert (entry.hits, len(entry.evidence)) == (
        EVIDENCE_MAX + 50,
        EVIDENCE_MAX,
    )


def test_by_hand(engine: Engine, settings: Settings) -> None:
    prefix = listings.identify("192.0.2.7")
    with store.writing(engine) as connection:
        listings.punish(connection, prefix, seconds=HOUR, at=AT, note="why")
        assert listings.holding(connection, AT + 1) == [("prefix", "192.0.2.7/32", AT + HOUR)]
        listings.punish(connection, prefix, seconds=2 * HOUR, at=AT + 5)
        assert [u for *_, u in listings.holding(connection, AT + 6)] == [AT + 5 + 2 * HOUR]
    take(engine, settings, hit(1, at=AT + 10))
    assert [e.hits for e in rows(engine)] == [0, 1]
    with store.writing(engine) as connection:
        assert listings.forgive(connection, prefix, at=AT + 20) == 2
        assert listings.holding(connection, AT + 21) == []
        assert listings.forgive(connection, prefix, at=AT + 30) == 0
    # Forgiven means forgotten: the next hit is a first one.
    take(engine, settings, hit(2, at=AT + 40, message_id="<new@x.example>"))
    assert rows(engine)[-1].until - rows(engine)[-1].since == FIRST


def test_forgiving_a_network_takes_what_lies_in_it(engine: Engine, settings: Settings) -> None:
    take(engine, settings, *(hit(n, client=f"2001:db8:7:{n}::1") for n in range(1, 4)))
    with store.writing(engine) as connection:
        assert len(listings.holding(connection, AT + 5)) == 4
        assert listings.forgive(connection, listings.identify("2001:db8:7::/48"), at=AT + 5) == 4
        assert listings.holding(connection, AT + 6) == []


IDENTITIES = [
    ("192.0.2.7", "prefix", "192.0.2.7/32"),
    ("[2001:db8::1]", "prefix", "2001:db8::/64"),
    ("192.0.2.77/24", "prefix", "192.0.2.0/24"),
    ("2001:DB8::/32", "prefix", "2001:db8::/32"),
    ("Example.ORG.", "dkim", "example.org"),
    ("@example.org", "dkim", "example.org"),
    ("Joe@Example.org", "sender", "Joe@example.org"),
]


@pytest.mark.parametrize(("text", "kind", "value"), IDENTITIES)
def test_identify(text: str, kind: str, value: str) -> None:
    got = listings.identify(text)
    assert (got.kind, got.value) == (kind, value)


@pytest.mark.parametrize("text", ["", "localhost", "192.0.2.0/33", "a b.example", "*.example.org"])
def test_identify_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="want an IP address"):
        listings.identify(text)


@dataclass
class Model:
    """Escalation, said in the plainest way: one identity, hits in the order of time."""

    until: float = 0.0
    seconds: int = 0
    listings: int = 0
    hits: int = 0

    def hit(self, at: float, first: int, longest: int, memory: int) -> None:
        self.hits += 1
        if self.listings and at < self.until:
            return
        again = self.listings > 0 and at - self.until <= memory
        self.seconds = min(self.seconds * 2 if again else first, longest)
        self.until = at + self.seconds
        self.listings += 1


_numbers = itertools.count(1)


@given(gaps=st.lists(st.integers(1, 30), min_size=1, max_size=12), cut=st.integers(0, 12))
@hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_escalation_follows_the_model(
    engine: Engine, settings: Settings, gaps: list[int], cut: int
) -> None:
    """Whatever the rhythm, and wherever a batch ends, the store says what the model says."""
    short = replace(
        settings,
        sender=replace(settings.sender, listing_first=5, listing_max=18, listing_memory=20),
    )
    client = f"198.51.{next(_numbers) // 250}.{next(_numbers) % 250}"
    model, records, at = Model(), [], AT
    for gap in gaps:
        at += gap
        model.hit(at, 5, 18, 20)
        records.append(hit(next(_numbers), at=at, client=client))
    take(engine, short, *records[:cut])
    take(engine, short, *records[cut:])
    mine = [e for e in rows(engine) if e.value == f"{client}/32"]
    assert len(mine) == model.listings
    assert (mine[-1].until, mine[-1].until - mine[-1].since) == (model.until, model.seconds)
    assert sum(e.hits for e in mine) == model.hits
