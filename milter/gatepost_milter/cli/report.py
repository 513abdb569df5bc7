"""`milterctl report`: the history of one sender, host or trap, or the overview."""

import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from gatepost_milter.cli import complete, evidence, night, report_options
from gatepost_milter.cli.common import USAGE, App, Failure, note
from gatepost_milter.cli.options import format_option
from gatepost_policy.system.dataclass import dataclass

if TYPE_CHECKING:
    from gatepost_policy.report.asked import Asked
    from gatepost_policy.report.gropers import Gropers
    from gatepost_policy.report.report import Report
    from gatepost_policy.report.selection import Selection
    from gatepost_policy.report.series import Series
    from gatepost_policy.report.tonight import Tonight

FORMATS = ("table", "json", "csv", "html", "xarf", "arf")


@click.command()
@click.argument("what", required=False, metavar="[WHATEVER]")
@click.option("--sender", metavar="X", help="An address, or a domain with its subdomains: "
              "envelope sender, header From, DKIM d=.",
              shell_complete=complete.senders)  # fmt: skip
@click.option("--host", metavar="IP", help="A client's address, or a prefix.")
@click.option("--compare", metavar="Y", help="With --sender: these two side by side.")
@click.option("--tonight", is_flag=True, help="What happened in the last 24 hours, or --since.")
@click.option("--gropers", is_flag=True, help="Hosts that try logins, since --since.")
@report_options.FILTERS
@click.option("--limit", type=click.IntRange(min=0), metavar="N", default=100, show_default=True,
              help="List so many messages, newest first.")  # fmt: skip
@format_option(
    *FORMATS[1:],
    text="For people, programs, spreadsheet, browser; xarf, arf: an abuse desk.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Write there instead of to the terminal.")  # fmt: skip
@click.option("--contact", metavar="ADDRESS", help="xarf, arf: the mailbox that reports.")
@click.option("--org", metavar="NAME", help="xarf, arf: who reports; else the contact's domain.")
@click.pass_obj
def command(
    app: App,
    /,
    what: str | None,
    sender: str | None,
    host: str | None,
    compare: str | None,
    tonight: bool,
    gropers: bool,
    limit: int,
    form: str,
    output: Path | None,
    contact: str | None,
    org: str | None,
    **given: str | None,
) -> None:
    """Tell the history: of one sender, host or trap, or of all.

    WHATEVER is what you have at hand: an address, a domain, an IP address, a prefix, a host name, a
    queue id, a Message-ID or a trap; what it is, the store knows. Without it, --sender, --host and
    --trap: the overview, with those who came back most often.

    \b
    milterctl report --tonight
    milterctl report --gropers --since 90d --format html -o gropers.html
    milterctl report spam.example --format xarf --contact abuse@example.org
    milterctl report example.org
    milterctl report 192.0.2.7 --since 90d --dkim fail
    milterctl report --sender a.example --compare b.example
    milterctl report --trap trap@example.net --since 90d --format csv -o trap.csv
    """
    from gatepost_policy.report import selection

    if output is not None:
        app.outside(output)
    now = time.time()
    if what is not None and (sender is not None or host is not None or given["trap"] is not None):
        raise click.UsageError("Say who it is about once: WHATEVER, --sender, --host or --trap.")
    chosen = report_options.narrowed(
        given,
        now,
        selection.Selection(
            sender=report_options.value("--sender", sender, selection.sender),
            host=report_options.value("--host", host, selection.host),
            limit=limit,
        ),
    )
    if tonight:
        only = selection.Selection(since=chosen.since, until=chosen.until, limit=limit)
        if what is not None or chosen != only or form not in ("table", "json"):
            raise click.UsageError("--tonight goes with --since, --until and --format json alone.")
        night.tell(app, chosen, now, form, _opened(output))
        return
    if gropers:
        only = selection.Selection(since=chosen.since, until=chosen.until, limit=limit)
        if what is not None or chosen != only or form not in ("table", "json", "csv", "html"):
            raise click.UsageError("--gropers goes with --since, --until, --format and -o alone.")
        _gropers(app, chosen, now, form, output)
        return
    if compare is not None:
        other = report_options.value("--compare", compare, selection.sender)
        only = selection.Selection(sender=chosen.sender, limit=limit)
        if what is not None or sender is None or chosen != only or form not in ("table", "json"):
            raise click.UsageError("--compare goes with --sender, -o and --format json alone.")
        _compare(app, (only, replace(only, sender=other)), now, form, output)
        return
    told = tell(app, chosen, now, charts=form == "html", what=what)
    if form in evidence.FORMS:
        evidence.write(app, told.report, evidence.Asking(form, now, org, contact), output)
        return
    with _opened(output) as stream:
        _write(told, form, stream, now)


def _gropers(app: App, chosen: "Selection", now: float, form: str, output: Path | None) -> None:
    from gatepost_policy.render import gropers as render
    from gatepost_policy.report import gropers

    with app.store(caught_up=True, replica=True) as connection:
        found = gropers.read(connection, chosen.since, chosen.until)
    with _opened(output) as stream:
        render.write(found, form, stream, now)


def _compare(
    app: App, both: "tuple[Selection, Selection]", now: float, form: str, output: Path | None
) -> None:
    from gatepost_policy.render import compare as render
    from gatepost_policy.report import compare

    with app.store(caught_up=True, replica=True) as connection:
        found = compare.read(connection, *both, app.settings, now)
    with _opened(output) as stream:
        if form == "json":
            json.dump(found.json(), stream, indent=2)
            stream.write("\n")
        else:
            render.write(found, stream)


@dataclass(frozen=True, slots=True)
class Told:
    """A report and its parts. `asked`: what WHATEVER was found to be, None without it."""

    report: "Report"
    series: "Series | None"  # the values of its charts, where there are charts
    asked: "Asked | None"
    tonight: "Tonight | None" = None  # above the overview of everything
    gropers: "Gropers | None" = None  # below that overview


def tell(app: App, chosen: "Selection", now: float, charts: bool, what: str | None = None) -> Told:
    """The report on all messages up to now (Unix seconds), and with `charts` their values.

    Raises UsageError for a `what` that is not understood, Failure for too wide a search,
    StoreError."""
    from gatepost_policy.report import gropers, history
    from gatepost_policy.report.conditions import TooWide

    asked: Asked | None = None
    try:
        with app.store(caught_up=True, replica=True) as connection:
            if what is not None:
                from gatepost_policy.report import asked as asking

                try:
                    asked = asking.ask(connection, what, chosen)
                except ValueError as error:
                    raise click.UsageError(f"{error}.") from None
                chosen = asked.selection
            report = history.tell(connection, chosen, app.settings, now)
            recent = night.read(app, connection, now) if not report.query else None
            hosts = gropers.read(connection) if not report.query else None
            if not charts:
                return Told(report, None, asked, recent, hosts)
            from gatepost_policy.report import series

            return Told(report, series.of(connection, chosen, report, now), asked, recent, hosts)
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


def _write(told: Told, form: str, stream: TextIO, now: float) -> None:
    report, asked = told.report, told.asked
    if form == "json":
        out = report.json()
        if asked is not None:
            out["asked"] = asked.json()
        if told.tonight is not None:
            out["tonight"] = told.tonight.json()
        if told.gropers is not None and told.gropers.hosts:
            out["login_gropers"] = told.gropers.summary()
        json.dump(out, stream, indent=2)
        stream.write("\n")
    elif form == "csv":
        from gatepost_policy.render import csv_file

        csv_file.write(report, stream)
    elif form == "html":
        from gatepost_policy.render.html import page

        stream.write(page.render(report, told.series, now, told.gropers))
    else:
        if told.tonight is not None:
            from gatepost_policy.render import tonight

            stream.write("\n".join(tonight.lines(told.tonight)) + "\n\n")
        _as_table(report, asked, stream)
        if told.gropers is not None and told.gropers.hosts:
            from gatepost_policy.render import gropers

            lines = [*gropers.sentences(told.gropers), "each host: milterctl report --gropers"]
            stream.write("\nLogin gropers\n" + "".join(f"  {line}\n" for line in lines))


def _as_table(report: "Report", asked: "Asked | None", stream: TextIO) -> None:
    from gatepost_policy.render import terminal_report
    from gatepost_policy.text import terminal
    from gatepost_policy.text.escape import shown

    if asked is not None and not report.summary.messages:
        stream.write(f"{shown(asked.text)}: {asked.sentence}\n")
        if not asked.known and not report.listings:
            return
    elif asked is not None and asked.also:
        note(f"milterctl: {shown(asked.text)} is {asked.sentence}; told as {asked.article}")
    terminal_report.table(report, terminal.console(stream))
    if asked is not None and asked.message and report.messages:
        note(f"milterctl: all about it: milterctl why {shlex.quote(shown(asked.text))}")
