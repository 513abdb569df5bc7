"""What people see: tables for terminals and pipes, CSV, and nothing that does anything."""

import csv
import io
from dataclasses import replace

import pytest
from sqlalchemy import Engine

from fix_report import Mail, Past, fill, signature, told
from gatepost_policy.config.settings import Settings
from gatepost_policy.render import csv_file
from gatepost_policy.render import terminal_report as render
from gatepost_policy.report.report import Report
from gatepost_policy.report.rhythm import DAY, Rhythm, certainly_dense, dense, of
from gatepost_policy.report.standing import Mark, movement
from gatepost_policy.report.timeline import strip
from gatepost_policy.text import terminal
from gatepost_policy.text.escape import shown

BAD = "\x1b]0;owned\x07\u202e\x9b31m\u200b\r\n\t\x00"


def on_terminal(report: Report, width: int) -> str:
    stream = io.StringIO()
    render.table(report, terminal.console(stream, width))
    return stream.getvalue()


def piped(report: Report) -> str:
    stream = io.StringIO()
    render.table(report, terminal.console(stream))
    return stream.getvalue()


def test_story_at_a_glance(past: Past) -> None:
    """Monthly, signed, from IPv4 to IPv6, always to a trap: said in words, and drawn."""
    text = on_terminal(past.told(sender="slow.example"), 80)
    for words in (
        "repeat sender",
        "always to a trap",
        "monthly, median gap 42.1 days (from 23 to 64.6), in 5 of 6 months",
        "moved from IPv4 to IPv6 on 2011-04-28",
        "always signed: pass 4, fail 1",
    ):
        assert words in " ".join(text.split()), words
    drawn = [line.split() for line in text.splitlines() if line.startswith(("IPv", "to a"))]
    assert drawn == [
        ["IPv4", "×", "●", "●", "●", "·", "·"],
        ["IPv6", "·", "·", "·", "·", "·", "●"],
        ["to", "a", "trap", "1", "1", "1", "1", "·", "1"],
    ]
    assert "Nov  Dec  Jan  Feb  Mar  Apr" in text


@pytest.mark.parametrize("width", [40, 80, 132, 200])
def test_terminal_width_is_kept(past: Past, width: int) -> None:
    for report in (past.told(sender="slow.example"), past.told()):
        text = on_terminal(report, width)
        assert max(map(len, text.splitlines())) <= width


def test_a_time_breaks_before_its_hour_only() -> None:
    """On 80 columns long values give way, and not the day."""

    def drawn(width: int | None) -> list[str]:
        stream = io.StringIO()
        to = terminal.console(stream, width)
        table = terminal.plain("At", "Until", "Trap", "Sender", to=to)
        terminal.whole(table, to, "At", "Until")
        at = terminal.stacked("2026-01-02T03:04:05Z", to)
        table.add_row(at, terminal.stacked("2026-01-02 03:04", to), "t" * 60, "s" * 60)
        terminal.put(to, table)
        return [line.split("   ")[0].rstrip() for line in stream.getvalue().splitlines()[2:]]

    assert drawn(80)[:3] == ["2026-01-02", "03:04:05Z", ""]
    assert drawn(120)[0] == drawn(None)[0] == "2026-01-02T03:04:05Z"


def test_pipe_never_cuts_or_folds(any_engine: Engine, any_settings: Settings) -> None:
    """`grep` must find every value whole, whatever its length."""
    long = "x" * 300 + "@" + ".".join(["label"] * 30) + ".example"
    recipients = tuple(f"{'y' * 200}{i}@example.net" for i in range(20))
    mail = Mail("2026-01-01T00:00:00", long, recipients, name="h" * 250 + ".example")
    fill(any_engine, (mail,), any_settings)
    lines = piped(told(any_engine, any_settings)).splitlines()
    (line,) = (line for line in lines if long in line)
    assert all(recipient in line for recipient in recipients)
    assert mail.name is not None and mail.name in line


def test_pipe_leaves_out_no_client_and_no_trap(any_engine: Engine, any_settings: Settings) -> None:
    """A terminal gets the first few and how many there are; `grep` must find each of them."""
    names = [f"trap{n}@example.net" for n in range(12)]
    mails = [
        Mail(f"2026-01-01T00:00:{n:02}", to=(name,), client=f"192.0.2.{n}", name=None,
             traps=(name,))
        for n, name in enumerate(names)
    ]  # fmt: skip
    fill(any_engine, mails, any_settings)
    for selectors in ({"limit": 0}, {"sender": "slow.example"}):
        report = told(any_engine, any_settings, **selectors)
        lines = piped(report).splitlines()
        assert not any(line.endswith(" ") for line in lines)
        assert "Clients    12, listed at the end" in lines
        table = lines[lines.index("Clients") :]
        assert sum(line.startswith("[192.0.2.") for line in table) == 12
        assert not any("more" in line or "others" in line for line in lines)
        assert "more" in on_terminal(report, 80)
    assert all(name in next(x for x in lines if x.startswith("Traps")) for name in names)


def test_nothing_a_stranger_wrote_reaches_the_screen_raw(
    any_engine: Engine, any_settings: Settings
) -> None:
    mail = Mail(
        "2026-01-01T00:00:00", f"a{BAD}@evil.example", (f"b{BAD}@example.net",), name=f"h{BAD}",
        helo=f"e{BAD}", author=f"c{BAD}@evil.example",
        signatures=(signature(f"d{BAD}.example", "fail", selector=f"s{BAD}", reason=f"r{BAD}"),),
    )  # fmt: skip
    fill(any_engine, (mail, replace(mail, at="2026-02-01T00:00:00")), any_settings)
    for selectors in ({}, {"sender": "evil.example"}):
        report = told(any_engine, any_settings, **selectors)
        assert report.summary.messages == 2
        for text in (on_terminal(report, 100), on_terminal(report, 200), piped(report)):
            assert all(c.isprintable() or c == "\n" for c in text)
            assert r"\x1b" in "".join(text.split())


def test_markup_is_text(any_engine: Engine, any_settings: Settings) -> None:
    sender = "[red]:bomb:[/red]@[link=x]b.example"
    fill(any_engine, (Mail("2026-01-01T00:00:00", sender, name=sender),), any_settings)
    report = told(any_engine, any_settings)
    assert piped(report).count(sender) >= 3
    assert on_terminal(report, 200).count(sender) >= 2


def test_ascii_terminal(past: Past) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    render.table(past.told(sender="slow.example"), terminal.console(stream, 100))
    stream.flush()
    text = stream.buffer.getvalue().decode("ascii")
    assert "IPv4       x    +    +    +    .    ." in text


def test_csv_is_safe_in_a_spreadsheet(any_engine: Engine, any_settings: Settings) -> None:
    senders = [
        "=cmd()@x.example",
        "+1@x.example",
        "-1@x.example",
        '"@sum"@x.example',
        "\tx@x.example",
    ]
    mails = [Mail(f"2026-01-0{i + 1}T00:00:00", s, name=f"={i}") for i, s in enumerate(senders)]
    fill(any_engine, mails, any_settings)
    stream = io.StringIO()
    csv_file.write(told(any_engine, any_settings), stream)
    rows = list(csv.DictReader(io.StringIO(stream.getvalue())))
    assert len(rows) == len(senders)
    assert "'=cmd()@x.example" in {row["sender"] for row in rows}
    for row in rows:
        for name, value in row.items():
            assert not value.startswith(("=", "+", "-", "@", "\t")), (name, value)
            assert value.isprintable()


def test_csv_values(past: Past) -> None:
    stream = io.StringIO()
    csv_file.write(past.told(sender="slow.example"), stream)
    first = next(csv.DictReader(io.StringIO(stream.getvalue())))
    assert first == {
        "at": "2011-04-28T12:40:26Z",
        "source": "exim-log",
        "queue_id": "1Ab1104",
        "direction": "inbound",
        "family": "ipv6",
        "client_address": "2001:db8:20a:202:53f0::1",
        "client_name": "mo6.hoster.example",
        "helo": "",
        "sender": "news@slow.example",
        "header_from": "",
        "recipients": "trap@example.net",
        "traps": "trap@example.net",
        "size": "2210478",
        "message_id": "id@slow.example",
        "dkim": "slow.example=pass",
        "action": "accept",
        "reason": "no-bad-signal",
        "spf": "",
        "dmarc": "",
    }


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("plain äöü 日本", "plain äöü 日本"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\u202eb", r"a\u202eb"),
        ("\udcff", r"\udcff"),
        ("\U000e0001", r"\U000e0001"),
        ("\u00a0", r"\xa0"),
        ("a\r\nb", r"a\x0d\x0ab"),
    ],
)
def test_shown(text: str, want: str) -> None:
    assert shown(text) == want


def rhythm(*days: float) -> Rhythm:
    got = of([1_000_000_000 + day * DAY for day in days])
    assert got is not None
    return got


def test_rhythm_words() -> None:
    assert of([]) is None
    assert rhythm(0).word == "once"
    assert rhythm(0, 0.01).word == "in one go"
    # What a rounded gap of 0.0 days is not: an hour, and eleven a day in the hours of an office.
    assert rhythm(*(hour / 24 for hour in range(30))).word == "about hourly"
    assert rhythm(*(minute / 288 for minute in range(300))).word == "many an hour"
    assert dense(1_000, 0.0, 1_000 * 1_500.0, range(18)).word == "about hourly"
    assert dense(9_000, 0.0, 9_000 * 60.0, range(7)).word == "many an hour"
    assert rhythm(0, 1, 2, 3).word == "daily"
    assert rhythm(0, 7, 14).word == "weekly"
    assert rhythm(0, 30, 61, 91).word == "monthly"
    assert rhythm(0, 90, 180).word == "quarterly"
    assert rhythm(0, 365, 730).word == "yearly"
    assert rhythm(0, 0.01, 0.2).sentence == (
        "several a day, median gap 0.1 days (from under 0.1 to 0.2)"
    )
    assert rhythm(0, 30).sentence == "monthly, median gap 30 days, in 2 of 2 months"


def test_median_gap_to_one_decimal() -> None:
    assert rhythm(0, 1.26, 3).median_gap == 1.5
    assert rhythm(3, 0, 1).median_gap == 1.5  # any order
    assert rhythm(0).median_gap is None


def test_certainly_dense_is_certain() -> None:
    """Where it says so, the median gap rounds to 0.0, however the messages lie."""
    import random

    source = random.Random(3)
    for _ in range(300):
        span = source.choice([0.5, 1, 10])
        days = [0.0, span] + [source.random() * span for _ in range(source.choice([20, 100, 600]))]
        got = rhythm(*days)
        if certainly_dense(got.messages, got.first, got.last):
            assert got.median_gap == 0.0
    assert not certainly_dense(1, 0, 0)


def test_movement() -> None:
    day = float(DAY)
    assert movement({}) is None
    assert movement({"ipv4": (0.0, day)}) is None
    assert movement({"ipv4": (0.0, day), "unix": (0.0, 0.0)}) is None
    for spans, want in (
        ({"ipv4": (0.0, 0.0), "ipv6": (day, day)}, "moved from IPv4 to IPv6 on 1970-01-02"),
        ({"ipv6": (0.0, 0.0), "ipv4": (day, day)}, "moved from IPv6 to IPv4 on 1970-01-02"),
        ({"ipv4": (0.0, 2 * day), "ipv6": (day, day)}, "uses both, IPv6 since 1970-01-02"),
        ({"ipv6": (0.0, 2 * day), "ipv4": (day, day)}, "uses both, IPv4 since 1970-01-02"),
    ):
        assert movement(spans) == want


def test_strip_chooses_its_periods() -> None:
    def marks(years: float) -> list[Mark]:
        return [Mark(0.0, "ipv4", "pass", True), Mark(years * 365 * DAY, "ipv4", "none", False)]

    for years, want in ((1, "Jan"), (5, "Q1"), (20, "1970")):
        got = strip(marks(years), 24)
        assert got is not None
        assert got.periods[0] == want
        assert len(got.periods) <= 24
        assert sum(cell is not None for cell in got.rows[0].cells) == 2
    got = strip(marks(60), 24)
    assert got is not None
    assert (got.earlier, len(got.periods), got.periods[-1]) == (1, 24, "2029")
    assert strip([], 24) is None


def test_time_line_says_what_it_leaves_out(past: Past) -> None:
    report = past.told(sender="slow.example")
    assert "before this" not in on_terminal(report, 80)
    cut = replace(report, marks=report.marks[2:])
    assert "2 messages before this" in on_terminal(cut, 80)
