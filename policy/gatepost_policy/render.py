"""Lay a report out for people: tables that fit the terminal, and whole values for a pipe.

Everything that a stranger wrote goes through `shown`: what looks like an escape sequence on the
screen was typed by nobody. On a terminal tables fold to its width; into a pipe nothing is cut or
folded, so that grep finds it.
"""

from collections.abc import Sequence
from typing import TextIO

from rich.box import ASCII2, SIMPLE_HEAD, Box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatepost_policy.facts import Signature
from gatepost_policy.report import (
    NAMES,
    Line,
    Listed,
    Report,
    Sender,
    movement,
    plural,
)
from gatepost_policy.rhythm import DAY, number
from gatepost_policy.selection import timestamp
from gatepost_policy.shown import shown
from gatepost_policy.timeline import NOTHING, SYMBOLS, Strip, strip

PIPE_WIDTH = 1_000_000
HOSTS_SHOWN = 8
WIDE = 150  # from here on a message is one line
UNSIGNED = {"none": "unsigned"}
LABEL = 9  # width of the labels at the left

_GOOD, _BAD, _DIM, _HEAD = "green", "bold red", "dim", "bold"


def console(stream: TextIO, terminal: int | None = None) -> Console:
    """A console on `stream`: as wide as the terminal, or as wide as a value needs in a pipe.

    `terminal` makes it a terminal of so many columns, whatever it is.
    """
    # markup, emoji: `[red]` and `:bomb:` in an address are characters like any other.
    if terminal is not None:
        # With a height too: else Rich takes 80 columns where $TERM is dumb.
        return Console(
            file=stream, width=terminal, height=25, force_terminal=True, color_system=None,
            highlight=False, markup=False, emoji=False,
        )  # fmt: skip
    if stream.isatty():
        return Console(file=stream, highlight=False, markup=False, emoji=False)
    return Console(
        file=stream, width=PIPE_WIDTH, color_system=None, highlight=False, markup=False, emoji=False
    )


def table(report: Report, to: Console) -> None:
    """Print `report` on `to`."""
    parts: list[RenderableType] = [_head(report)]
    if report.summary.messages:
        parts.append(_facts(report))
        parts.extend(_time_line(report, to))
    if report.overview:
        parts.extend(_overview(report, to))
    if report.listings:
        parts += [Text(), _listings(report.listings, to)]
    if report.messages:
        parts += [Text(), _messages(report.messages, to)]
        left = report.summary.messages - len(report.messages)
        if left > 0:
            parts.append(Text(f"{plural(left, 'older message')} not shown; see --limit", _DIM))
    to.print(Group(*parts), soft_wrap=not to.is_terminal)


def plain(*columns: str, to: Console, title: str | None = None) -> Table:
    """An empty table in the house style."""
    made = Table(
        *columns,
        box=_box(to),
        pad_edge=False,
        header_style=_HEAD,
        title=title,
        title_justify="left",
        title_style=_HEAD,
        show_edge=False,
    )
    for column in made.columns:
        column.no_wrap = not to.is_terminal
        column.overflow = "fold"
    return made


def _box(to: Console) -> Box:
    return SIMPLE_HEAD if _utf8(to) else ASCII2


def _utf8(to: Console) -> bool:
    return (to.encoding or "").lower().startswith("utf")


def _head(report: Report) -> Text:
    if report.overview:
        text = f"All senders: {plural(report.summary.messages, 'message')}"
        return Text(text, _HEAD)
    what = " ".join(f"{value}" for value in report.query.values())
    bad = report.standing is not None and report.standing.repeat
    head = Text(shown(what), _HEAD)
    if report.standing is not None:
        head.append("  ").append(report.standing.sentence, _BAD if bad else "")
    elif not report.summary.messages:
        head.append("  not seen", "")
    return head


def _facts(report: Report) -> Table:
    """What there is to know, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=_DIM, width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    summary = report.summary
    first, last = (timestamp(t or 0.0)[:10] for t in (summary.first_seen, summary.last_seen))
    grid.add_row("Seen", first if first == last else f"{first} to {last}")
    if report.rhythm is not None and not report.overview:
        grid.add_row("Rhythm", report.rhythm.sentence)
    families = ", ".join(f"{NAMES.get(f, f)} {n}" for f, n in summary.families.items())
    moved = movement(report.marks) if not report.overview else None
    grid.add_row("Families", families + (f": {moved}" if moved else ""))
    grid.add_row("DKIM", _dkim(report))
    grid.add_row("Traps", _traps(report))
    most = 3 if report.overview else HOSTS_SHOWN
    for at, host in enumerate(summary.hosts[:most]):
        text = f"{_client(host.address, host.host)}  {plural(host.messages, 'message')}"
        grid.add_row("Clients" if not at else "", text)
    more = max(report.hosts, len(summary.hosts)) - most
    if more > 0:
        grid.add_row("", Text(f"and {more} more", _DIM))
    return grid


def _dkim(report: Report) -> Text:
    if not report.summary.dkim:
        return Text("not looked at")
    signed = report.summary.messages > 1 and "none" not in report.summary.dkim
    text = Text("always signed: " if signed and not report.overview else "")
    for at, (result, count) in enumerate(report.summary.dkim.items()):
        word = UNSIGNED.get(result, result)
        text.append(", " if at else "").append(f"{word} {count}", _style(result))
    keys = {f"{s.selector} ({s.algorithm})" for line in report.messages for s in line.signatures}
    if keys and not report.overview and len(keys) <= 3:
        text.append("; selector " + ", ".join(sorted(shown(key) for key in keys)))
    return text


def _traps(report: Report) -> Text:
    hits = report.summary.trap_hits
    if not hits:
        return Text("none hit")
    text = Text(plural(hits, "hit"), _BAD)
    names = {a for line in report.messages for a, trap in line.recipients if trap}
    if names and not report.overview:
        few = sorted(shown(name) for name in names)[:3]
        text.append(f": {', '.join(few)}" + (" and others" if len(names) > 3 else ""))
    return text


def _client(address: str | None, name: str | None) -> str:
    if address is None:
        return shown(name) if name else "unknown"
    return f"{shown(name)} [{address}]" if name else f"[{address}]"


def _time_line(report: Report, to: Console) -> list[RenderableType]:
    """The strip of months; nothing where everything came within one period."""
    room = (to.width - LABEL - 2) // 5 if to.is_terminal else 36
    line = strip(report.marks, max(6, room))
    if line is None or len(line.periods) < 2:
        return []
    at = 0 if _utf8(to) else 1
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style=_DIM, width=LABEL + 1, no_wrap=True)
    for _ in line.periods:
        grid.add_column(min_width=4, no_wrap=True)
    for row in line.rows:
        grid.add_row(
            row.name,
            *(
                _symbol(cell.dkim, cell.messages, at) if cell else Text(NOTHING[at], _DIM)
                for cell in row.cells
            ),
        )
    counts = (Text(str(n), _BAD) if n else Text(NOTHING[at], _DIM) for n in line.traps)
    grid.add_row("to a trap", *counts)
    grid.add_row("", *line.periods)
    if any(line.years):
        grid.add_row("", *line.years)
    return [Text(), grid, _legend(line, at)]


def _symbol(dkim: str, messages: int, at: int) -> Text:
    style = {"pass": _GOOD, "fail": "red", "none": ""}.get(dkim, "yellow")
    return Text(SYMBOLS[dkim][at] + (str(messages) if messages > 1 else ""), style)


def _legend(line: Strip, at: int) -> Text:
    words = [f"{SYMBOLS[key][at]} {SYMBOLS[key][2]}" for key in line.dkim]
    if line.earlier:
        words.append(f"{plural(line.earlier, 'message')} before this")
    return Text(" " * (LABEL + 2) + ", ".join(words), _DIM)


def _overview(report: Report, to: Console) -> list[RenderableType]:
    parts: list[RenderableType] = []
    if report.senders:
        parts += [Text(), _senders(report.senders, to)]
    if report.dual_stack:
        dual = plain("Domain", "IPv4", "IPv6", "Traps", "Proven", to=to, title="On both families")
        for row in report.dual_stack:
            dual.add_row(
                shown(row.domain), str(row.ipv4), str(row.ipv6), str(row.trap_messages),
                "yes" if row.proven else "no",
            )  # fmt: skip
        parts += [Text(), dual]
    if report.low_and_slow:
        slow = plain("Pattern", "Clients", "Messages", "Seen", to=to, title="Low and slow")
        for pattern in report.low_and_slow:
            seen = f"{timestamp(pattern.first_seen)[:10]} to {timestamp(pattern.last_seen)[:10]}"
            slow.add_row(shown(pattern.sentence), str(pattern.hosts), str(pattern.messages), seen)
        parts += [Text(), slow]
    return parts


def _senders(senders: Sequence[Sender], to: Console) -> Table:
    wide = not to.is_terminal or to.width >= 110
    names = ("Sender", "Mails", "Traps", "Months", "Rhythm", "Families", "Standing")
    more = ("DKIM", "Last seen") if wide else ()
    made = plain(*names, *more, to=to, title="Who hit a trap")
    for column in made.columns[1:5]:
        column.no_wrap = True
    for sender in senders:
        standing = Text("repeat sender", _BAD) if sender.standing.repeat else Text("")
        if sender.listed_until is not None:
            standing.append(", " if standing else "").append("listed", "red")
        row: list[RenderableType] = [
            shown(sender.sender),
            str(sender.summary.messages),
            str(sender.trap_messages),
            f"{sender.rhythm.months} of {sender.rhythm.month_span}",
            sender.rhythm.word,
            ", ".join(f"{NAMES.get(f, f)} {n}" for f, n in sender.summary.families.items()),
            standing,
        ]
        if wide:
            words = ((UNSIGNED.get(r, r), n) for r, n in sender.summary.dkim.items())
            row.append(", ".join(f"{word} {n}" for word, n in words))
            row.append(timestamp(sender.rhythm.last)[:10])
        made.add_row(*row)
    return made


def _listings(listings: Sequence[Listed], to: Console) -> Table:
    made = plain("Listed", "Since", "Until", "Reason", "Hits", "", to=to, title="Listings")
    for listing in listings:
        state = "active" if listing.active else "over"
        if listing.forgiven is not None:
            state = f"forgiven {timestamp(listing.forgiven)[:10]}"
        made.add_row(
            shown(listing.value),
            minute(listing.since),
            minute(listing.until),
            shown(listing.reason),
            str(listing.hits),
            Text(state, "red" if listing.active else _DIM),
        )
    return made


def minute(at: float) -> str:
    """`2011-04-28 12:40`, UTC."""
    return timestamp(at)[:16].replace("T", " ")


def _messages(lines: Sequence[Line], to: Console) -> Table:
    """Newest first, with the gap to the message before."""
    wide = not to.is_terminal or to.width >= WIDE
    names = ("Client", "Sender", "To", "DKIM", "Size", "Decision", "Seen by")
    made = plain("Received (UTC)", "Gap", "Family", *(names if wide else ("DKIM", "Who")), to=to)
    for column in made.columns[:3]:
        column.no_wrap = True
    made.columns[1].justify = "right"
    for at, line in enumerate(lines):
        before = lines[at + 1].at if at + 1 < len(lines) else None
        gap = "" if before is None else f"{number(round((line.at - before) / DAY, 1))} d"
        client = _client(line.address, line.client_name)
        row: list[RenderableType] = [
            minute(line.at), gap, NAMES.get(line.family, shown(line.family)),
        ]  # fmt: skip
        if wide:
            row += [client, _author(line), _recipients(line), _signatures(line.signatures)]
            size = "" if line.size is None else str(line.size)
            row += [size, shown(f"{line.action} ({line.reason})"), line.source]
        else:
            dkim = UNSIGNED.get(line.dkim, line.dkim)
            who = Text(_author(line)).append(" to ").append(_recipients(line))
            row += [Text(dkim, _style(line.dkim)), who.append(f"\n{client}", _DIM)]
        made.add_row(*row)
    return made


def _style(result: str) -> str:
    return {"pass": _GOOD, "none": _DIM}.get(result, "yellow")


def _author(line: Line) -> str:
    sender = "<>" if line.sender == "" else shown(line.sender or "")
    if line.header_from and line.header_from != line.sender:
        return f"{sender} (From {shown(line.header_from)})"
    return sender


def _recipients(line: Line) -> Text:
    text = Text()
    for address, trap in line.recipients:
        text.append(", " if text else "").append(shown(address), _BAD if trap else "")
        if trap:
            text.append(" (trap)", _BAD)
    return text


def _signatures(signatures: Sequence[Signature]) -> Text:
    if not signatures:
        return Text("unsigned", _DIM)
    text = Text()
    for signature in signatures:
        text.append(", " if text else "").append(signature.result, _style(signature.result))
        text.append(f" {shown(signature.domain or '')}")
        if signature.reason and signature.result != "pass":
            text.append(f" ({shown(signature.reason)})", _DIM)
    return text
