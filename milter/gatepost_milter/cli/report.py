"""`milterctl report`: the history of one sender, host or trap, or the overview."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import click

from gatepost_milter.cli.common import USAGE, App, Failure
from gatepost_milter.cli.options import format_option

if TYPE_CHECKING:
    from gatepost_policy.render.html.page import Volume
    from gatepost_policy.report.report import Report
    from gatepost_policy.report.selection import Selection

FORMATS = ("table", "json", "csv", "html")


@click.command()
@click.option("--sender", metavar="X", help="An address, or a domain with its subdomains: "
              "envelope sender, header From, DKIM d=.")  # fmt: skip
@click.option("--host", metavar="IP", help="A client's address, or a prefix.")
@click.option("--trap", metavar="ADDRESS", help="Messages to this recipient.")
@click.option("--since", metavar="TIME", help="From this time on: ISO 8601, or 30d.")
@click.option("--until", metavar="TIME", help="Before this time.")
@click.option("--family", type=click.Choice(["ipv4", "ipv6", "unix", "unknown"]),
              help="Only clients that came this way.")  # fmt: skip
@click.option("--limit", type=click.IntRange(min=0), metavar="N", default=100, show_default=True,
              help="List so many messages, newest first.")  # fmt: skip
@format_option(*FORMATS[1:], text="For people, for programs, for a spreadsheet, for a browser.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write there instead of to the terminal.")  # fmt: skip
@click.pass_obj
def command(
    app: App,
    sender: str | None,
    host: str | None,
    trap: str | None,
    since: str | None,
    until: str | None,
    family: str | None,
    limit: int,
    form: str,
    output: Path | None,
) -> None:
    """Tell the history: of one sender, host or trap, or of all.

    Without --sender, --host or --trap: the overview, with those who came back most often.

    \b
    milterctl report --sender example.org
    milterctl report --trap trap@example.net --since 90d --format csv -o trap.csv
    """
    from gatepost_policy.mail.address import parse
    from gatepost_policy.mail.facts import Family
    from gatepost_policy.mail.index_key import clean
    from gatepost_policy.report import selection
    from gatepost_policy.text import times

    now = time.time()
    chosen = selection.Selection(
        sender=_read("--sender", sender, selection.sender),
        host=_read("--host", host, selection.host),
        trap=_read("--trap", trap, lambda text: parse(clean(text))),
        since=_read("--since", since, lambda text: times.moment(text, now)),
        until=_read("--until", until, lambda text: times.moment(text, now)),
        family=None if family is None else Family(family),
        limit=limit,
    )
    wants_volume = form == "html" and chosen.everything
    report, volume = tell(app, chosen, now, wants_volume)
    with _opened(output) as stream:
        _write(report, volume, form, stream)


def _read(option: str, text: str | None, read: Callable[[str], Any]) -> Any:
    """An option's value as `read` takes it; its ValueError becomes a usage error."""
    if text is None:
        return None
    try:
        return read(text)
    except ValueError as error:
        raise click.UsageError(f"{option}: {error}.") from None


def tell(
    app: App, chosen: "Selection", now: float, wants_volume: bool
) -> tuple["Report", "Volume | None"]:
    """The report on everything that was accepted before this moment, and what a chart shows."""
    from gatepost_policy.report import history
    from gatepost_policy.report.conditions import TooWide

    try:
        with app.store(caught_up=True, replica=True) as connection:
            report = history.tell(connection, chosen, app.settings, now)
            if not wants_volume:
                return report, None
            from gatepost_policy.report import volume

            return report, volume.rows(connection)
    except TooWide as error:
        raise Failure(str(error), USAGE) from None


@contextmanager
def _opened(output: Path | None) -> Iterator[TextIO]:
    if output is None or str(output) == "-":
        yield sys.stdout
        return
    try:
        with output.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
            yield stream
    except OSError as error:
        raise Failure(f"{output}: cannot be written: {error.strerror}", USAGE) from None


def _write(report: "Report", volume: "Volume | None", form: str, stream: TextIO) -> None:
    if form == "json":
        json.dump(report.json(), stream, indent=2)
        stream.write("\n")
    elif form == "csv":
        from gatepost_policy.render import csv_file

        csv_file.write(report, stream)
    elif form == "html":
        from gatepost_policy.render.html import page

        stream.write(page.render(report, volume))
    else:
        from gatepost_policy.render import table
        from gatepost_policy.text import terminal

        table.table(report, terminal.console(stream))
