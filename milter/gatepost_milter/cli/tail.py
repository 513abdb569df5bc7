"""`milterctl tail`: messages as they come, with the filters of a report."""

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from gatepost_milter.cli import complete, report_options
from gatepost_milter.cli.common import USAGE, App, Failure, catch_up
from gatepost_milter.cli.options import FORMAT

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from gatepost_policy.report.report import Line
    from gatepost_policy.report.selection import Selection

LOOK_S = 0.5
AT_ONCE = 1_000  # most messages printed after one query; the rest come with the next one


@click.command(short_help="Messages as they come, with the report's filters.")
@click.option("--sender", metavar="X", help="An address, or a domain with its subdomains.",
              shell_complete=complete.senders)  # fmt: skip
@click.option("--host", metavar="IP", help="A client's address, or a prefix.")
@report_options.FILTERS
@click.option("-n", "--lines", "number", type=click.IntRange(min=0), metavar="N", default=10,
              show_default=True, help="Begin with so many of the newest.")  # fmt: skip
@click.option("--once", is_flag=True, help="Stop after these.")
@FORMAT
@click.pass_obj
def command(
    app: App,
    /,
    sender: str | None,
    host: str | None,
    number: int,
    once: bool,
    form: str,
    **given: str | None,
) -> None:
    """Messages as they come, a line each, until you interrupt it.

    The filters are the report's. With --format json each line is one message as in its `messages`.

    \b
    milterctl tail --decision reject
    milterctl tail --sender example.org --dkim fail
    """
    from gatepost_policy.report import selection
    from gatepost_policy.report.conditions import TooWide

    chosen = report_options.narrowed(
        given,
        time.time(),
        selection.Selection(
            sender=report_options.value("--sender", sender, selection.sender),
            host=report_options.value("--host", host, selection.host),
        ),
    )
    with app.opened(replica=True) as engine:
        catch_up(app, engine)
        try:
            last = _begin(engine, chosen, number, form)
            while not once:
                time.sleep(LOOK_S)
                last = _more(engine, chosen, last, form)
        except TooWide as error:
            raise Failure(str(error), USAGE) from None


def _begin(engine: "Engine", chosen: "Selection", number: int, form: str) -> int:
    """Print the newest `number` messages; returns the id of the last message in the store."""
    from gatepost_policy import store
    from gatepost_policy.report import messages, newer

    with store.reading(engine) as connection:
        last = newer.last(connection)
        ids = messages.newest(connection, chosen, number) if number else []
        lines = messages.lines(connection, ids[::-1])
    _tell(lines, form)
    return last


def _more(engine: "Engine", chosen: "Selection", last: int, form: str) -> int:
    """Print the messages after the one with the id `last`; returns the new last id."""
    from gatepost_policy import store
    from gatepost_policy.report import messages, newer

    with store.reading(engine) as connection:
        ids, last = newer.since(connection, chosen, last, AT_ONCE)
        lines = messages.lines(connection, ids)
    _tell(lines, form)
    return last


def _tell(lines: "Sequence[Line]", form: str) -> None:
    from gatepost_policy.render import one_line

    for line in lines:
        text = json.dumps(line.json()) if form == "json" else one_line.text(line)
        sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
