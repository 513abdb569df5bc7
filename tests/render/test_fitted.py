"""On a narrow terminal figures give way; what a table is about stays whole, to be copied."""

import io

import pytest
from rich.cells import cell_len
from sqlalchemy import Engine

from fix_report import Mail, fill, signature, told
from gatepost_policy.config.settings import Settings
from gatepost_policy.render import terminal_report as render
from gatepost_policy.report.rhythm import DAY, Rhythm, in_words, of
from gatepost_policy.report.standing import Mark, standing
from gatepost_policy.report.timeline import strip
from gatepost_policy.text import terminal
from gatepost_policy.text.fitted import fitted

LONG = "bounce-0123456789-abcdef@very.deep.sub.sub.sub.verp.example"


def drawn(width: int | None, *things: str, at: str = "2026-01-02T03:04:05Z") -> list[str]:
    stream = io.StringIO()
    to = terminal.console(stream, width)
    made = terminal.plain("Sender", "Kind", "At", "Why", "Hits", to=to, title="Listed")
    terminal.whole(made, to, "At", "Hits")
    for sender in ("a@b.example", "2001:db8:20a:202::/64", "x.example", LONG):
        made.add_row(sender, "sender", terminal.stacked(at, to), "because of its past", "12")
    terminal.put(to, fitted(made, to, *things))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 60, 70, 80, 100, 132, 200])
def test_the_thing_is_never_cut(width: int) -> None:
    lines = drawn(width, "Sender")
    assert max(map(cell_len, lines)) <= width
    whole = [line for line in lines if "2001:db8:20a:202::/64" in line]
    assert len(whole) == 1
    if width >= len(LONG):
        assert any(LONG in line for line in lines), "\n".join(lines)
    assert sum("12" in line.split() for line in lines) == 4
    assert "".join(lines).count("because") == 4  # no word is broken inside


def test_without_a_thing_the_old_layout_cut_it() -> None:
    """The counter-proof: it is `fitted` that keeps the value whole."""
    assert not any(LONG in line for line in drawn(80))


def test_a_row_with_room_stays_one_line() -> None:
    line = next(line for line in drawn(80, "Sender") if "a@b.example" in line)
    assert line.split()[:2] == ["a@b.example", "sender"]
    alone = next(line for line in drawn(80, "Sender") if LONG in line)
    assert alone.strip() == LONG


def test_pipe_is_left_alone() -> None:
    assert drawn(None, "Sender") == drawn(None)


def test_several_things_go_side_by_side_where_they_fit() -> None:
    stream = io.StringIO()
    to = terminal.console(stream, 80)
    made = terminal.plain("At", "Trap", "Sender", "Client", "Reason", to=to)
    made.add_row("2026-01-02\n03:04:05Z", "trap@home.example", "<a@b.example>", "192.0.2.7", "trap")
    made.add_row("2026-01-02\n03:04:05Z", "t" * 40 + "@home.example", f"<{LONG}>", "::1", "trap")
    terminal.put(to, fitted(made, to, "Trap", "Sender", "Client"))
    lines = [line.strip() for line in stream.getvalue().splitlines()]
    assert "trap@home.example  <a@b.example>  192.0.2.7" in lines
    assert f"<{LONG}>" in lines
    assert "2026-01-02 03:04:05Z   trap" in lines  # the hour is beside its day again


def test_several_addresses_are_folded_between_them() -> None:
    stream = io.StringIO()
    to = terminal.console(stream, 80)
    made = terminal.plain("At", "Who", to=to)
    made.add_row("2026-01-02 03:04", "news@slow.example to " + ", ".join(["user@home.example"] * 6))
    made.add_row("2026-01-02 03:04", "news@slow.example to user@home.example")
    made.add_row("2026-01-02 03:04", f"{LONG} to user@home.example")
    made.add_row("2026-01-02 03:04", f"{'x' * 64}@b.example to user@home.example")
    terminal.put(to, fitted(made, to, prose="Who"))
    text = stream.getvalue()
    for address in (LONG, "x" * 64 + "@b.example", "news@slow.example to user@home.example"):
        assert any(address in line for line in text.splitlines()), text
    assert sum(line.count("user@home.example") for line in text.splitlines()) == 9


def test_wide_characters_are_counted_as_they_are_drawn() -> None:
    stream = io.StringIO()
    to = terminal.console(stream, 40)
    made = terminal.plain("Sender", "Reason", to=to)
    made.add_row("例え" * 12 + ".example", "no-bad-signal and more words")
    terminal.put(to, fitted(made, to, "Sender"))
    assert max(map(cell_len, stream.getvalue().splitlines())) <= 40


def test_overview_keeps_its_senders_whole(any_engine: Engine, any_settings: Settings) -> None:
    senders = [f"news@{'sub.' * n}slow{n}.example" for n in (1, 6, 9)]
    mails = [
        Mail(f"2026-0{month}-01T00:00:00", sender, client=f"192.0.2.{at}",
             signatures=(signature(sender.partition("@")[2]),))
        for month in (1, 2, 3) for at, sender in enumerate(senders)
    ]  # fmt: skip
    fill(any_engine, mails, any_settings)
    stream = io.StringIO()
    render.table(told(any_engine, any_settings), terminal.console(stream, 80))
    lines = stream.getvalue().splitlines()
    assert max(map(cell_len, lines)) <= 80
    for sender in senders:
        assert any(sender.partition("@")[2] in line for line in lines), sender


def test_one_failure_among_passes_does_not_look_like_a_pass() -> None:
    marks = [Mark(day * DAY, "ipv4", dkim, False) for day, dkim in
             enumerate(("pass", "fail", "pass", "none"))]  # fmt: skip
    line = strip(marks, 10)
    assert line is not None
    (cell,) = line.cells
    assert (cell.messages, cell.dkim, dict(cell.counts)) == (
        4, "mixed", {"pass": 2, "fail": 1, "none": 1},
    )  # fmt: skip
    alone = strip(marks[:1], 10)
    assert alone is not None and alone.cells[0].dkim == "pass"


@pytest.mark.parametrize(
    ("days", "words"),
    [
        (1, "1 day"), (9.4, "9 days"), (59.4, "59 days"), (60, "2 months"), (181, "6 months"),
        (365, "12 months"), (731, "2 years"), (1806.6, "4 years and 11 months"),
        (3652.4, "10 years"), (400, "13 months"), (761, "2 years and 1 month"),
    ],
)  # fmt: skip
def test_spans_as_a_person_says_them(days: float, words: str) -> None:
    assert in_words(days) == words


def test_a_sender_of_years() -> None:
    beat = of([0.0, 1000.0 * DAY, 1806.6 * DAY])
    assert beat is not None
    assert standing(beat, 3, "DKIM", messages=3, span=1).sentence.endswith(
        "3 messages on 3 days over 4 years and 11 months, always to a trap"
    )
    assert "median gap 2 years and 6 months (from 2 years and 3 months to 2 years and 9" in (
        beat.sentence
    )
    one: Rhythm | None = of([0.0, 120 * DAY, 240.02 * DAY, 360 * DAY])
    assert one is not None and one.sentence.startswith("quarterly, median gap 120 days, in")
