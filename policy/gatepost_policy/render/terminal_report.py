"""Lay a report out for people: what there is to know, the time line, the tables.

All text from messages goes through `shown`, so that no message can send an escape sequence to the
terminal.
"""

from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from gatepost_policy.render.tables import clients, listings, messages, overview
from gatepost_policy.report.report import Report
from gatepost_policy.report.standing import NAMES, movement
from gatepost_policy.report.timeline import NOTHING, SYMBOLS, Cell, Strip, strip
from gatepost_policy.text.acts import NAMES as NAMES_OF_ACTS
from gatepost_policy.text.acts import Done
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.terminal import (
    BAD,
    DIM,
    GOOD,
    HEAD,
    UNSIGNED,
    client,
    minute,
    put,
    style,
    utf8,
)
from gatepost_policy.text.times import timestamp

HOSTS_SHOWN = 8
# Keys of a query that say whom the report is about. The others narrow it: printed behind `only`.
SUBJECTS = ("sender", "host", "trap", "name", "queue_id", "message_id")
NO_RECORD = "no record"  # what the result `none` of SPF and DMARC means
LABEL = 9  # width of the labels at the left
CELL = 4  # width of a period of the time line


def table(report: Report, to: Console) -> None:
    """Print `report` on `to`. A pipe gets all of it; a terminal gets what fits its width."""
    parts: list[RenderableType] = [_head(report)]
    parts += [_act(act) for act in report.acts]
    if report.summary.messages:
        parts.append(_facts(report, to))
        parts.extend(_time_line(report, to))
    if report.overview:
        parts.extend(overview(report, to))
    if report.listings:
        parts += [Text(), listings(report.listings, to)]
    if report.messages:
        parts += [Text(), messages(report.messages, to)]
        left = report.summary.messages - len(report.messages)
        if left > 0:
            parts.append(Text(f"{plural(left, 'older message')} not shown; see --limit", DIM))
    if _listed(report, to):
        parts += [Text(), clients(report.summary.hosts, to)]
        if report.hosts > len(report.summary.hosts):
            parts.append(Text(f"and {report.hosts - len(report.summary.hosts)} more", DIM))
    put(to, Group(*parts))


def _head(report: Report) -> Text:
    if report.overview:
        text = f"All senders: {plural(report.summary.messages, 'message')}"
        only = [f"{key} {value}" for key, value in report.query.items()]
        head = Text(text, HEAD)
        return head.append(f"  only {shown(', '.join(only))}", DIM) if only else head
    subject = [f"{report.query[key]}" for key in SUBJECTS if key in report.query]
    only = [f"{key} {value}" for key, value in report.query.items() if key not in SUBJECTS]
    what = " ".join(subject) or "All mail"
    bad = report.standing is not None and report.standing.repeat
    head = Text(shown(what), HEAD)
    if only:
        head.append(f"  only {shown(', '.join(only))}", DIM)
    if report.standing is not None:
        head.append("  ").append(report.standing.sentence, BAD if bad else "")
    elif report.no_verdict is not None:
        head.append("  ").append(report.no_verdict, "")
    elif not report.summary.messages:
        head.append("  not seen", "")
    return head


def _act(act: Done) -> Text:
    """One act of an operator, with who did it and why. Acts are printed before the figures."""
    text = f"{minute(act.at)}  {shown(act.value)} {NAMES_OF_ACTS.get(act.name, act.name)}"
    text += f" by {shown(act.actor)}" if act.actor else ""
    text += f": {shown(act.note)}" if act.note else ""
    if act.undone is not None:
        text += f" (undone {minute(act.undone)}" + (
            f" by {shown(act.undone_by)})" if act.undone_by else ")"
        )
    return Text(text, DIM if act.undone is not None else "")


def _listed(report: Report, to: Console) -> bool:
    """True where all clients are listed in a table of their own, at the end: into a pipe nothing is
    shortened."""
    return not to.is_terminal and len(report.summary.hosts) > HOSTS_SHOWN


def _facts(report: Report, to: Console) -> Table:
    """What there is to know, a line each."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style=DIM, width=LABEL, no_wrap=True)
    grid.add_column(overflow="fold")
    summary = report.summary
    first, last = (timestamp(t or 0.0)[:10] for t in (summary.first_seen, summary.last_seen))
    grid.add_row("Seen", first if first == last else f"{first} to {last}")
    if report.rhythm is not None and not report.overview:
        grid.add_row("Rhythm", report.rhythm.sentence)
    families = ", ".join(f"{NAMES.get(f, f)} {n}" for f, n in summary.families.items())
    moved = movement(report.spans) if not report.overview else None
    grid.add_row("Families", families + (f": {moved}" if moved else ""))
    if report.came_over and not report.overview:
        grid.add_row("Trail", _trail(report.came_over))
    grid.add_row("DKIM", _dkim(report))
    for name, counts in (("SPF", summary.spf), ("DMARC", summary.dmarc)):
        if counts:
            grid.add_row(name, _results(counts))
    grid.add_row("Traps", _traps(report, to))
    if _listed(report, to):
        grid.add_row("Clients", f"{max(report.hosts, len(summary.hosts))}, listed at the end")
        return grid
    most = 3 if report.overview and to.is_terminal else HOSTS_SHOWN
    for at, host in enumerate(summary.hosts[:most]):
        text = f"{client(host.address, host.host)}  {plural(host.messages, 'message')}"
        grid.add_row("Clients" if not at else "", text)
    more = max(report.hosts, len(summary.hosts)) - most
    if more > 0:
        grid.add_row("", Text(f"and {more} more", DIM))
    return grid


def _dkim(report: Report) -> Text:
    """Results of the sender's own signatures, then those of other domains on the same messages."""
    summary = report.summary
    if not summary.dkim:
        return Text("not looked at")
    own, others = summary.dkim_own, summary.dkim_others
    counts = dict(summary.dkim)
    if own is not None:
        counts = {**own, **{word: n for word, n in summary.dkim.items() if word == "none"}}
    signed = summary.messages > 1 and "none" not in summary.dkim and not others
    text = Text("always signed: " if signed and not report.overview else "")
    for at, (result, count) in enumerate(counts.items()):
        word = UNSIGNED.get(result, result)
        text.append(", " if at else "").append(f"{word} {count}", style(result))
    keys = {f"{key.selector} ({key.algorithm or 'unknown'})" for key in report.keys}
    if keys and not report.overview and len(keys) <= 3:
        text.append("; selector " + ", ".join(sorted(shown(key) for key in keys)))
    if others:
        text.append("; signed by others: " if counts else "signed by others alone: ")
        for at, (result, count) in enumerate(others.items()):
            text.append(", " if at else "").append(f"{result} {count}", style(result))
    return text


def _trail(families: Mapping[str, int]) -> str:
    """The families in the Received fields below our own. They are a claim: the sending side can
    write them as it likes."""
    if len(families) == 1:
        words = NAMES.get(next(iter(families)), "")
    else:
        words = ", ".join(f"{NAMES.get(f, f)} {n}" for f, n in families.items())
    return f"came to its server over {words} (claimed)"


def _results(counts: Mapping[str, int]) -> Text:
    """Results of a check with how often each came."""
    text = Text()
    for result, count in counts.items():
        word = NO_RECORD if result == "none" else result
        text.append(", " if text else "").append(f"{word} {count}", style(result))
    return text


def _traps(report: Report, to: Console) -> Text:
    hits = report.summary.trap_hits
    if not hits:
        return Text("none hit")
    text = Text(plural(hits, "hit"), BAD)
    names = report.traps
    if names and not report.overview:
        few = sorted(shown(name) for name in names)[: 3 if to.is_terminal else None]
        others = report.more_traps or len(names) > len(few)
        text.append(f": {', '.join(few)}" + (" and others" if others else ""))
    return text


def _time_line(report: Report, to: Console) -> list[RenderableType]:
    """The time line, a column for each period; [] where everything came within one period."""
    room = (to.width - LABEL - 2) // 5 if to.is_terminal else 36
    line = strip(report.marks, max(6, room))
    if line is None or len(line.periods) < 2:
        return []
    at = 0 if utf8(to) else 1
    grid = Table.grid(padding=(0, 1))
    grid.add_column(style=DIM, width=LABEL + 1, no_wrap=True)
    for _ in line.periods:
        grid.add_column(min_width=CELL, no_wrap=True)
    for row in line.rows:
        grid.add_row(
            row.name,
            *(_symbols(cell, at) if cell else Text(NOTHING[at], DIM) for cell in row.cells),
        )
    counts = (Text(str(n), BAD) if n else Text(NOTHING[at], DIM) for n in line.traps)
    grid.add_row("to a trap", *counts)
    grid.add_row("", *line.periods)
    if any(line.years):
        grid.add_row("", *line.years)
    unseen = report.summary.messages - len(report.marks) + line.earlier
    return [Text(), grid, _legend(line, at, unseen)]


def _drawn(cell: Cell) -> Mapping[str, int]:
    """{key of SYMBOLS: messages} to draw in a cell: each DKIM result where there is room, else one
    symbol for all messages."""
    width = sum(1 + (len(str(n)) if n > 1 else 0) for n in cell.counts.values())
    return cell.counts if width <= CELL else {cell.dkim: cell.messages}


def _symbols(cell: Cell, at: int) -> Text:
    """`●2×1`: two that passed and one that failed."""
    text = Text()
    for dkim, count in _drawn(cell).items():
        style = {"pass": GOOD, "fail": "red", "none": ""}.get(dkim, "yellow")
        text.append(SYMBOLS[dkim][at] + (str(count) if count > 1 else ""), style)
    return text


def _legend(line: Strip, at: int, unseen: int) -> Text:
    seen = {key for cell in line.cells for key in _drawn(cell)}
    words = [f"{SYMBOLS[key][at]} {SYMBOLS[key][2]}" for key in SYMBOLS if key in seen]
    if unseen > 0:
        words.append(f"{plural(unseen, 'message')} before this")
    return Text(" " * (LABEL + 2) + ", ".join(words), DIM)
