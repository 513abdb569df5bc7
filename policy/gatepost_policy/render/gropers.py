"""Show who tries logins: for a terminal, as CSV, as a page."""

import csv
import json
from importlib.metadata import version
from typing import TextIO

from gatepost_policy.render.csv_file import cell
from gatepost_policy.report.gropers import Groper, Gropers
from gatepost_policy.text.escape import shown
from gatepost_policy.text.plural import plural
from gatepost_policy.text.times import timestamp

COLUMNS = (
    "prefix", "attempts", "names", "first_seen", "last_seen", "alphabetical", "trap_messages",
)  # fmt: skip
SHOWN = 50  # hosts on a terminal


def sentences(found: Gropers) -> list[str]:
    """A summary in a few sentences, one per line."""
    if not found.hosts or found.first is None or found.last is None:
        return ["no host is known to try logins"]
    most, fewest = found.hosts[0], found.hosts[-1]
    out = [
        f"{plural(len(found.hosts), 'host')} tried {plural(found.names, 'name')} that nobody has,"
        f" in {plural(found.attempts, 'attempt')}, from {_day(found.first)} to {_day(found.last)}",
        f"most: {_short(most)}; fewest: {_short(fewest)}",
    ]
    out += [shown(one.sentence) for one in found.walks]
    out.append(f"{plural(found.trapped, 'host')} of them mailed a trap as well")
    return out


def table(found: Gropers, to: TextIO) -> None:
    """Write the summary and the first SHOWN hosts as a table."""
    from gatepost_policy.text.terminal import console, plain, put, whole

    to.write("\n".join(sentences(found)) + "\n")
    if not found.hosts:
        return
    screen = console(to)
    grid = plain("Host", "Attempts", "Names", "First", "Last", "Order", "Trap mail", to=screen)
    whole(grid, screen, "Host", "Attempts", "Names", "First", "Last")
    for one in found.hosts[:SHOWN]:
        grid.add_row(
            one.prefix.removesuffix("/32"),
            str(one.attempts),
            str(one.names),
            _day(one.first),
            _day(one.last),
            _order(one),
            str(one.trap_messages or ""),
        )
    put(screen, grid)
    if len(found.hosts) > SHOWN:
        to.write(f"and {len(found.hosts) - SHOWN} more (--format csv)\n")


def csv_file(found: Gropers, to: TextIO) -> None:
    """One line a host (RFC 4180), safe to open in a spreadsheet."""
    writer = csv.writer(to, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    for one in found.hosts:
        values = one.json()
        writer.writerow([cell(_plain(values[name])) for name in COLUMNS])


def html(found: Gropers, made: float) -> str:
    """A complete HTML page. `made`: when, in Unix seconds."""
    from gatepost_policy.render.html import page

    template = page.environment().get_template("gropers.html.j2")
    return template.render(
        sentences=sentences(found),
        made=timestamp(made),
        version=version("gatepost"),
        rows=[(one, _order(one)) for one in found.hosts],
    )


def write(found: Gropers, form: str, to: TextIO, made: float) -> None:
    """Write `found` as `form`: json, csv, html, or else a table. `made`: as in `html`."""
    if form == "json":
        json.dump(found.json(), to, indent=2)
        to.write("\n")
    elif form == "csv":
        csv_file(found, to)
    elif form == "html":
        to.write(html(found, made))
    else:
        table(found, to)


def _order(one: Groper) -> str:
    return "alphabetical" if one.alphabetical else ""


def _short(one: Groper) -> str:
    return f"{one.prefix.removesuffix('/32')} with {one.attempts}"


def _day(at: float) -> str:
    return timestamp(at)[:10]


def _plain(value: str | int | bool) -> str | int:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value
