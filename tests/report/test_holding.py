"""A page is held to so many messages where each has to be counted, and says what it leaves out."""

import io
from dataclasses import replace
from ipaddress import ip_network

import pytest
from sqlalchemy import Engine, event

from fix_store import AT, message, signature
from gatepost_policy import recorder, store
from gatepost_policy.config.settings import Settings
from gatepost_policy.mail.address import parse
from gatepost_policy.mail.facts import Family
from gatepost_policy.render.terminal_report import table
from gatepost_policy.report import conditions, history, holding
from gatepost_policy.report.report import Report
from gatepost_policy.report.selection import Selection
from gatepost_policy.report.summary import Held
from gatepost_policy.text.terminal import console

pytestmark = pytest.mark.slow

TRAP = "trap@home.example"


def fill(engine: Engine, settings: Settings, order: range = range(20)) -> None:
    """Twenty messages an hour apart: half to a trap, all in one domain, from one network."""
    records = [
        message(n, at=AT + 3600 * n, to=() if n % 2 else ("user@home.example",),
                traps=(TRAP,) if n % 2 else (), signatures=(signature(),) if n % 3 else ())
        for n in order
    ]  # fmt: skip
    recorder.record_batch(engine, records, settings)


def told(
    engine: Engine, settings: Settings, chosen: Selection, most: int
) -> tuple[Report, Held | None]:
    with store.reading(engine) as connection:
        held, less = holding.hold(connection, chosen, most)
        return history.tell(connection, held, settings, AT + 1e6), less


CASES = (
    (Selection(trap=parse(TRAP)), 10, 10),
    (Selection(trap=parse("@home.example")), 20, 20),
    (Selection(host=ip_network("192.0.2.0/24")), 20, 20),
    (Selection(sender="news@sender.example"), 20, 20),
    (Selection(sender="sender.example", since=AT), 20, 20),
    (Selection(sender="sender.example", family=Family.IPV4, dkim="pass"), None, 13),
    (Selection(trap=parse(TRAP), since=AT), None, 10),
)


@pytest.mark.parametrize(("chosen", "of", "number"), CASES, ids=str)
def test_the_newest_are_told_and_the_rest_is_said(
    any_engine: Engine, any_settings: Settings, chosen: Selection, of: int | None, number: int
) -> None:
    # Learned of in the wrong order, as when an old log is imported: the newest is who came last.
    fill(any_engine, any_settings, range(10, 20))
    fill(any_engine, any_settings, range(10))
    whole, less = told(any_engine, any_settings, chosen, 50)
    assert less is None and whole.summary.messages == number
    with store.reading(any_engine) as connection:
        assert whole.summary == history.tell(connection, chosen, any_settings, AT + 1e6).summary
    part, less = told(any_engine, any_settings, chosen, 4)
    # Not one of those to a trap is left out, unless it is asked for mail to this very one.
    alone = chosen.trap is not None and bool(chosen.trap.local)
    older = [] if alone else [line for line in whole.messages[4:] if line.trapped]
    expected = [line.id for line in (*whole.messages[:4], *older)]
    assert [line.id for line in part.messages] == expected
    assert part.summary.messages == len(expected)
    assert less == Held(4, of, whole.messages[3].at, len(older))
    assert part.summary.first_seen == part.messages[-1].at
    if not alone:
        assert part.summary.trap_hits == whole.summary.trap_hits


def test_of_too_many_older_hits_the_newest_are_told(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(any_engine, any_settings)
    monkeypatch.setattr(holding, "HITS_MOST", 3)
    part, less = told(any_engine, any_settings, Selection(host=ip_network("192.0.2.0/24")), 4)
    assert [line.at for line in part.messages] == [
        AT + 3600 * n for n in (19, 18, 17, 16, 15, 13, 11)
    ]
    assert less is not None and (less.hits, less.all_hits) == (3, False)


BUSY = (
    Selection(sender="news@sender.example"),
    Selection(sender="sender.example"),
    Selection(host=ip_network("192.0.2.7")),
    Selection(sender="sender.example", dkim="pass"),
)


@pytest.mark.parametrize("chosen", BUSY, ids=str)
def test_much_clean_mail_hides_no_old_hit(
    any_engine: Engine, any_settings: Settings, chosen: Selection
) -> None:
    """Only the first of 300 messages hit a trap: it is told, judged, and found for the report."""
    records = [
        message(n, at=AT + 60 * n, to=("user@home.example",), traps=() if n else (TRAP,),
                signatures=(signature(),))
        for n in range(300)
    ]  # fmt: skip
    recorder.record_batch(any_engine, records, any_settings)
    for most in (1_000, 20):
        report, _ = told(any_engine, any_settings, replace(chosen, limit=10), most)
        assert report.hit is not None and report.hit.at == AT
        assert report.summary.trap_hits == 1 and report.traps == (TRAP,)
        assert report.standing is not None and "none to a trap" not in report.standing.sentence
        assert report.standing.proven
        assert not any(line.trapped for line in report.messages)


def test_of_many_traps_some_are_named_and_the_others_are_said(
    engine: Engine, settings: Settings
) -> None:
    names = [f"trap{n}@home.example" for n in range(25)]
    for many in (20, 25):
        to = tuple(names[:many])
        recorder.record_batch(engine, [message(many, traps=to, to=())], settings)
        with store.reading(engine) as connection:
            report = history.tell(connection, Selection(sender="sender.example"), settings, AT)
        assert (len(report.traps), report.more_traps) == (20, many > 20)
        page = io.StringIO()
        table(report, console(page))
        assert (" and others" in page.getvalue()) == (many > 20)


def test_sums_are_never_cut(any_engine: Engine, any_settings: Settings) -> None:
    fill(any_engine, any_settings)
    for chosen in (Selection(), Selection(sender="sender.example")):
        with store.reading(any_engine) as connection:
            assert holding.hold(connection, chosen, 4) == (chosen, None)


def test_of_very_many_recipients_nobody_counts_all(
    any_engine: Engine, any_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(any_engine, any_settings)
    monkeypatch.setattr(holding, "COUNTED_MAX", 12)
    _, less = told(any_engine, any_settings, Selection(trap=parse("@home.example")), 4)
    assert less is not None and less.of is None
    _, less = told(any_engine, any_settings, Selection(trap=parse(TRAP)), 4)
    assert less is not None and less.of == 10


def test_every_later_question_names_the_messages(engine: Engine, settings: Settings) -> None:
    """Once they are found nobody looks through a network or a domain again."""
    fill(engine, settings)
    asked: list[str] = []
    chosen = Selection(host=ip_network("192.0.2.0/24"))
    with store.reading(engine) as connection:
        held, _ = holding.hold(connection, chosen, 4)

        @event.listens_for(engine, "before_cursor_execute")
        def _seen(*given: object) -> None:
            asked.append(str(given[2]))

        history.tell(connection, held, settings, AT + 1e6)
    assert len([text for text in asked if "json_each" in text]) > 5
    assert not [text for text in asked if "message.prefix IN" in text]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("192.0.2.7/32", "192.0.0.0/16"),
        ("192.0.2.7/32", "0.0.0.0/1"),
        ("192.0.2.0/24", "192.0.2.0/23"),
        ("2001:db8:1::/64", "2001:db8::/32"),
    ],
)
def test_what_lies_in_a_network(text: str, found: str) -> None:
    network = ip_network(found)
    inside = conditions._inside(text, network)
    assert inside == ip_network(text).subnet_of(network)  # type: ignore[arg-type]
    assert not conditions._inside("not.an.address/32", ip_network("10.0.0.0/8"))
