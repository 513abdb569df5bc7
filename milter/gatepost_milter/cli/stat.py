"""`milterctl stat`: count messages by direction, action and reason, in one table."""

import csv
import json
import sys

import click

from gatepost_milter.cli.common import App
from gatepost_milter.cli.options import format_option


@click.command("stat", short_help="Count messages by action and reason.")
@format_option("json", "csv")
@click.pass_obj
def command(app: App, form: str) -> None:
    """Count what was decided: by direction, action and reason, and since when.

    All that the store remembers, including what became a number since. Of imported logs the
    messages are counted, too.
    """
    from gatepost_policy.report import decisions
    from gatepost_policy.text import terminal
    from gatepost_policy.text.times import timestamp

    with app.store(caught_up=True, replica=True) as connection:
        found = decisions.count(connection)
    since = None if found.since is None else timestamp(found.since)
    if form == "json":
        rows = [dict(zip(decisions.COLUMNS, line, strict=True)) for line in found.lines]
        json.dump({"since": since, "decisions": rows}, sys.stdout, indent=2)
        sys.stdout.write("\n")
    elif form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(decisions.COLUMNS)
        writer.writerows(found.lines)
    elif since is None:
        print("no message yet")
    else:
        print(f"since {since}")
        to = terminal.console(sys.stdout)
        table = terminal.plain(*decisions.COLUMNS, to=to)
        for direction, action, reason, messages in found.lines:
            table.add_row(direction, action, reason, str(messages))
        terminal.put(to, table)
